"""What systemd is told (sd_notify(3)): ready, reloading, stopping, alive. Without a systemd it is told to nobody."""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Self

PATIENCE = 1.0
"""Seconds a message may take."""


class Notifier:
    """Sends to the datagram socket at `address`, a path or `@` and an abstract name; '' is nobody.

    `watchdog_seconds` is the time within which we have to say that we are alive, None where nobody waits for it.
    """

    def __init__(self, address: str = "", watchdog_seconds: float | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_seconds = watchdog_seconds if address else None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """As systemd asks for by NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID."""
        microseconds = environment.get("WATCHDOG_USEC", "")
        is_for_us = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watched = is_for_us and microseconds.isdecimal() and int(microseconds) > 0
        return cls(environment.get("NOTIFY_SOCKET", ""), int(microseconds) / 1_000_000 if watched else None)

    def ready(self, status: str) -> None:
        """We serve: after the start, and after each reload."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The configuration is read again; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str) -> None:
        """We come to an end."""
        self._send("STOPPING=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """What `systemctl status` shows."""
        self._send(f"STATUS={status}")

    def alive(self) -> None:
        """All is well."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        """Tell it; that nobody hears it is no matter."""
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.settimeout(PATIENCE)
            sending.sendto("\n".join(lines).encode(), self._address)
