"""The keys of new objects, which grow whatever the wall clock does: the hour and a UUID of version 7 (RFC 9562).

The wall clock may be set back or forward at any time, so that it tells only when the first key is drawn, and only if it
is ahead of the newest key in the store. From then on the time since the start of the machine counts.
"""

import os
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from pacs.files.layout import hour, hour_of, start_of

_HOUR = 3_600_000
_LAST = 253_402_300_799_999
"""The last moment of the year 9999: no hour after it has a folder."""
_BITS = 12
"""The bits of the counter, behind the milliseconds."""
_LARGEST = (1 << 48 + _BITS) - 1


def wall_clock() -> int:
    """Return the time of the wall clock in milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


def since_boot() -> int:
    """Return the time since the start of the machine in milliseconds; the same for all processes."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) // 1_000_000


def _boot_id() -> str:
    """Return a name for the time since the last start of this machine, '' where the system has none."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""


@dataclass(frozen=True, slots=True)
class KeyClock:
    """A clock that never goes back. Processes that share it agree, whatever the wall clock does."""

    booted: int
    """Its time when the machine started, in milliseconds since 1970 UTC."""

    @classmethod
    def after(cls, newest_key: str) -> Self:
        """Return a clock with the time of the wall clock, or just after the newest key if that is later."""
        return cls(max(0, wall_clock(), _after(newest_key)) - since_boot())

    @classmethod
    def decode(cls, text: str) -> Self | None:
        """Return the clock of `encode`; None when the machine was started since, or is another one."""
        booted, _, boot = text.partition(" ")
        return cls(int(booted)) if boot == _boot_id() else None

    def encode(self) -> str:
        """Return the clock as text, for other processes on this machine."""
        return f"{self.booted} {_boot_id()}"

    def now(self) -> int:
        """Return the time in milliseconds since 1970 UTC."""
        return self.booted + since_boot()


class ObjectKeys:
    """Draws keys, each larger than the one before in this process. Thread-safe."""

    def __init__(self, clock: KeyClock) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._last = 0

    def draw(self) -> str:
        """Return a new key."""
        now = self.clock.now()
        with self._lock:
            self._last = stamp = min(max(self._last + 1, now << _BITS), _LARGEST)
        moment = datetime.fromtimestamp(min(stamp >> _BITS, _LAST) // 1000, UTC)
        return f"{hour(moment)}/{_uuid(stamp)}.dcm"


def _uuid(stamp: int) -> uuid.UUID:
    """Return a UUID of version 7: 48 bits of milliseconds, a counter, and random bits."""
    tail = int.from_bytes(os.urandom(8), "big") >> 2
    return uuid.UUID(int=stamp >> _BITS << 80 | 7 << 76 | (stamp & (1 << _BITS) - 1) << 64 | 2 << 62 | tail)


def _after(key: str) -> int:
    """Return the first moment whose keys are larger than this one; 0 for no key."""
    if not key:
        return 0
    start = int(start_of(hour_of(key)).timestamp()) * 1000
    own = int(key[len(hour_of(key)) + 1 :].replace("-", "")[:12], 16)
    end = start + _HOUR if start + _HOUR <= _LAST else _LARGEST >> _BITS
    return min(max(start, own + 1), end)  # the UUID need not be of that hour
