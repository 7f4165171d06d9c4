"""Health checks of the archive: probes with a timeout, readiness, and the condition for the systemd watchdog."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pacs.errors import OutOfResources, PacsError
from pacs.support.threads import start_thread

PATIENCE = 3.0
"""Seconds to wait for a probe before it counts as failed."""

FRESH = 1.0
"""Seconds for which the result of a probe is reused."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of a probe: the reason of a failure ('' if there is none), and its duration in seconds."""

    reason: str
    seconds: float


class Probe:
    """Checks one thing in a thread of its own, at most once at a time.

    `check` raises a PacsError if something is wrong. A check that hangs blocks one thread, but no caller.
    """

    def __init__(self, check: Callable[[], object], fresh: float = FRESH) -> None:
        self._check, self._fresh = check, fresh
        self._changed = threading.Condition()
        self._result = ProbeResult("was not checked yet", float("nan"))
        self._finished = 0
        self._finished_at = float("-inf")
        self._is_running = False

    def ask(self, patience: float = PATIENCE) -> ProbeResult:
        """Return a result that is at most `fresh` seconds old, or that of a check now, within `patience` seconds."""
        with self._changed:
            if time.monotonic() - self._finished_at < self._fresh:
                return self._result
            before = self._finished
            if not self._is_running and not self._start():
                return ProbeResult("cannot start a thread for the check", float("nan"))
            if self._changed.wait_for(lambda: self._finished != before, patience):
                return self._result
        return ProbeResult(f"no answer within {patience:g} s", float("nan"))

    def _start(self) -> bool:
        try:
            start_thread("pacs-probe", self._run)
        except OutOfResources:
            return False
        self._is_running = True
        return True

    def _run(self) -> None:
        began = time.monotonic()
        reason = self._reason()
        with self._changed:
            self._finished_at = time.monotonic()
            self._result = ProbeResult(reason, self._finished_at - began)
            self._finished += 1
            self._is_running = False
            self._changed.notify_all()

    def _reason(self) -> str:
        try:
            self._check()
        except PacsError as error:
            return error.comment
        except Exception:
            logging.getLogger("pacs").exception("a health check failed")
            return "the check itself failed, see the log of the server"
        return ""


class Health:
    """The readiness of the archive: whether it accepts associations, and the results of its probes, by name."""

    def __init__(self, is_accepting: Callable[[], bool], probes: Mapping[str, Probe]) -> None:
        self._is_accepting = is_accepting
        self._probes = dict(probes)

    def ask(self, name: str) -> ProbeResult:
        """Return the result of one probe."""
        return self._probes[name].ask()

    def reasons(self) -> dict[str, str]:
        """Return why the archive is not ready, by failing part; empty if it is ready."""
        found = {} if self._is_accepting() else {"associations": "none are accepted: starting or stopping"}
        results = {name: probe.ask() for name, probe in self._probes.items()}
        return found | {name: result.reason for name, result in results.items() if result.reason}


class Watchdog:
    """Calls `notify` every `period` seconds, from a thread of its own, while all probes succeed.

    All probes together may take one period. `warn` is called with a sentence when the first probe fails.
    """

    def __init__(
        self, probes: Mapping[str, Probe], period: float, notify: Callable[[], object], warn: Callable[[str], object]
    ) -> None:
        self._probes, self._period = dict(probes), period
        self._notify, self._warn = notify, warn
        self._stopped = threading.Event()
        self._was_healthy = True

    def start(self) -> None:
        """Start with a first check."""
        start_thread("pacs-watchdog", self._run)

    def stop(self) -> None:
        """Stop; a running check may still end later."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            due = time.monotonic() + self._period
            self._check(due)
            self._stopped.wait(max(0.0, due - time.monotonic()))

    def _check(self, deadline: float) -> None:
        results = {name: probe.ask(max(0.0, deadline - time.monotonic())) for name, probe in self._probes.items()}
        failed = [f"{name}: {result.reason}" for name, result in results.items() if result.reason]
        if not failed:
            self._notify()
        elif self._was_healthy and not self._stopped.is_set():
            self._warn(f"the watchdog is no longer notified; {'; '.join(failed)}")
        self._was_healthy = not failed
