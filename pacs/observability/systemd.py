"""Notifications to systemd (sd_notify(3)): ready, reloading, stopping, watchdog. Without systemd they are no-ops."""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Self

PATIENCE = 1.0
"""Timeout of one notification in seconds."""


class Notifier:
    """Sends to the datagram socket at `address`: a path, `@` and an abstract name, or '' for none.

    `watchdog_seconds` is the period within which systemd expects `alive`, None without a watchdog.
    """

    def __init__(self, address: str = "", watchdog_seconds: float | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_seconds = watchdog_seconds if address else None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Return the notifier for NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID."""
        microseconds = environment.get("WATCHDOG_USEC", "")
        is_for_us = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watched = is_for_us and microseconds.isdecimal() and int(microseconds) > 0
        return cls(environment.get("NOTIFY_SOCKET", ""), int(microseconds) / 1_000_000 if watched else None)

    def ready(self, status: str) -> None:
        """Notify that the server has started, or has finished a reload."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Notify that a reload begins; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str) -> None:
        """Notify that the server stops."""
        self._send("STOPPING=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """Set the text that `systemctl status` shows."""
        self._send(f"STATUS={status}")

    def alive(self) -> None:
        """Ping the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        """Send a notification; ignore failures."""
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.settimeout(PATIENCE)
            sending.sendto("\n".join(lines).encode(), self._address)
