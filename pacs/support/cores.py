"""The CPU cores that this process may use."""

import math
import os
from pathlib import Path

CPU_SHARE = Path("/sys/fs/cgroup/cpu.max")
"""The microseconds of CPU time that the container of this process has, and in how many (cgroups, version 2)."""


def cores() -> int:
    """Return how many CPU cores this process may use, in a container at most its share of CPU time."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        share, period = CPU_SHARE.read_text().split()
        return min(usable, math.ceil(int(share) / int(period)))
    except (OSError, ValueError):  # no cgroups of version 2, or "max" for no limit
        return usable
