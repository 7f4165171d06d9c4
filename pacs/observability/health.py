"""Whether the archive can do its work: looked at when somebody asks, and never in a way that holds up who asks."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pacs.errors import PacsError

PATIENCE = 3.0
"""Seconds a look may take before what is looked at is said to give no answer."""

FRESH = 1.0
"""Seconds for which an answer is good for everybody who asks."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a look: why it is not well ('' where it is), and how many seconds the look took."""

    reason: str
    seconds: float


class Probe:
    """Looks at one thing, in a thread of its own and once at a time: whoever asks waits no longer than he wants to.

    `look` raises a PacsError where it is not well. A look that hangs is one thread, however many ask.
    """

    def __init__(self, look: Callable[[], object], fresh: float = FRESH) -> None:
        self._look, self._fresh = look, fresh
        self._changed = threading.Condition()
        self._answer = Answer("was not looked at yet", float("nan"))
        self._answered = 0
        self._answered_at = float("-inf")
        self._is_looking = False

    def ask(self, patience: float = PATIENCE) -> Answer:
        """The answer of a moment ago, or of a look now, which may take `patience` seconds."""
        with self._changed:
            if time.monotonic() - self._answered_at < self._fresh:
                return self._answer
            before = self._answered
            if not self._is_looking and not self._begin():
                return Answer("there is no thread left to look", float("nan"))
            if self._changed.wait_for(lambda: self._answered != before, patience):
                return self._answer
        return Answer(f"no answer within {patience:g} s", float("nan"))

    def _begin(self) -> bool:
        try:
            threading.Thread(target=self._run, name="pacs-probe", daemon=True).start()
        except RuntimeError:
            return False
        self._is_looking = True
        return True

    def _run(self) -> None:
        began = time.monotonic()
        reason = self._reason()
        with self._changed:
            self._answered_at = time.monotonic()
            self._answer = Answer(reason, self._answered_at - began)
            self._answered += 1
            self._is_looking = False
            self._changed.notify_all()

    def _reason(self) -> str:
        try:
            self._look()
        except PacsError as error:
            return error.comment
        except Exception:
            logging.getLogger("pacs").exception("a look at the archive's health failed")
            return "it cannot be looked at, see the server's log"
        return ""


class Health:
    """What readiness is made of: whether associations are accepted, and what its probes say, by name."""

    def __init__(self, is_accepting: Callable[[], bool], probes: Mapping[str, Probe]) -> None:
        self._is_accepting = is_accepting
        self._probes = dict(probes)

    def ask(self, name: str) -> Answer:
        """What one probe says."""
        return self._probes[name].ask()

    def reasons(self) -> dict[str, str]:
        """Why no work can be done, by what is at fault; empty where all is well."""
        found = {} if self._is_accepting() else {"associations": "none are accepted: starting or stopping"}
        answers = {name: probe.ask() for name, probe in self._probes.items()}
        return found | {name: answer.reason for name, answer in answers.items() if answer.reason}


class Watch:
    """Says again and again that all is well, as long as it is: every `period` seconds, in a thread of its own.

    All looks together may take as long as a period. `say` is called when every probe says so, `tell` with a sentence
    when one ceases to.
    """

    def __init__(
        self, probes: Mapping[str, Probe], period: float, say: Callable[[], object], tell: Callable[[str], object]
    ) -> None:
        self._probes, self._period = dict(probes), period
        self._say, self._tell = say, tell
        self._is_over = threading.Event()
        self._was_well = True

    def start(self) -> None:
        """Begin, with a look at once."""
        threading.Thread(target=self._run, name="pacs-watch", daemon=True).start()

    def stop(self) -> None:
        """End it; a look under way may still go on."""
        self._is_over.set()

    def _run(self) -> None:
        while not self._is_over.is_set():
            due = time.monotonic() + self._period
            self._look(due)
            self._is_over.wait(max(0.0, due - time.monotonic()))

    def _look(self, deadline: float) -> None:
        answers = {name: probe.ask(max(0.0, deadline - time.monotonic())) for name, probe in self._probes.items()}
        wrong = [f"{name}: {answer.reason}" for name, answer in answers.items() if answer.reason]
        if not wrong:
            self._say()
        elif self._was_well and not self._is_over.is_set():
            self._tell(f"the watchdog is not told that all is well: {'; '.join(wrong)}")
        self._was_well = not wrong
