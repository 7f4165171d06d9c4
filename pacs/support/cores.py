"""The CPU cores that this process may use."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath


def cores(root: Path = Path("/")) -> int:
    """Return how many CPU cores this process may use, at most the quota of its control groups, rounded up.

    `root` is the folder that has `proc` and `sys`.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([usable, *(max(1, math.ceil(quota)) for quota in _quotas(root))])


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU time per time of each control group that this process is in and that has a quota."""
    with suppress(OSError):  # no Linux
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                for group in _groups(root / "sys/fs/cgroup", path):
                    yield from _quota_of_version_2(group)
            elif "cpu" in controllers.split(","):
                for group in _groups(root / "sys/fs/cgroup/cpu", path):
                    yield from _quota_of_version_1(group)


def _groups(mount: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a control group and of those around it. In a container the path may be that of the host."""
    inside = PurePosixPath(path.lstrip("/"))
    yield from (mount / each for each in (inside, *inside.parents))


def _quota_of_version_2(group: Path) -> Iterator[float]:
    with suppress(OSError, ValueError):  # no such file, or "max" for no quota
        quota, period = (group / "cpu.max").read_text().split()
        yield int(quota) / int(period)


def _quota_of_version_1(group: Path) -> Iterator[float]:
    with suppress(OSError, ValueError):
        quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        if quota > 0:  # -1 for no quota
            yield quota / period
