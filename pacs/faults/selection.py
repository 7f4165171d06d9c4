"""Which faults a message meets: each counts the messages it is about, and chance has a seed."""

import threading
from dataclasses import dataclass
from fnmatch import fnmatchcase
from random import Random

from pacs.faults.model import Fault, Scenario, is_among, merged


@dataclass(frozen=True, slots=True)
class Occasion:
    """What is known of a message when its faults are chosen: whose it is and what it is about."""

    operation: str
    calling: str
    called: str
    level: str = ""
    sop_class: str = ""


class Armed:
    """A fault of a running server: how often it met a message is in `fired`; `remove` ends it."""

    def __init__(self, fault: Fault, place: int, chooser: "Chooser") -> None:
        self.fault = fault
        self.place = place
        self.seen = 0
        """How many messages it was about, met or not."""
        self.fired = 0
        self._chooser = chooser

    def __repr__(self) -> str:
        return f"<{self.fault!r}, number {self.place}: {self.fired} of {self.seen} met it>"

    def remove(self) -> None:
        """Do this no more. Removing it twice does no harm."""
        self._chooser.remove(self)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What becomes of one message: all faults it met as one, the chance it has, and which those are."""

    fault: Fault
    random: Random
    met: tuple[Armed, ...] = ()


class Chooser:
    """The faults of one server, in the order in which they came; safe to use from several threads."""

    def __init__(self, scenario: Scenario) -> None:
        self._lock = threading.Lock()
        self._seed = scenario.seed
        self._armed: list[Armed] = []
        self._place = 0
        for each in scenario.faults:
            self.add(each)

    def __repr__(self) -> str:
        return f"<faults: {', '.join(map(repr, self.armed)) or 'none'}>"

    def add(self, fault: Fault) -> Armed:
        """One more fault, which counts from now on."""
        with self._lock:
            self._place += 1
            armed = Armed(fault, self._place, self)
            self._armed.append(armed)
            return armed

    def remove(self, armed: Armed) -> None:
        """One less, if it is there."""
        with self._lock:
            self._armed = [each for each in self._armed if each is not armed]

    def clear(self) -> None:
        """Behave from now on."""
        with self._lock:
            self._armed = []

    @property
    def armed(self) -> tuple[Armed, ...]:
        """The faults there are."""
        return tuple(self._armed)

    def choose(self, occasion: Occasion) -> Chosen | None:
        """What a message meets, None when nothing. It is counted by every fault that is about it."""
        with self._lock:
            met = [each for each in self._armed if _is_about(each.fault, occasion) and self._meets(each)]
            if not met:
                return None
            chance = Random("/".join([str(self._seed), *(f"{each.place}.{each.seen}" for each in met)]))  # noqa: S311
        return Chosen(merged([each.fault for each in met], occasion.operation), chance, tuple(met))

    def _meets(self, armed: Armed) -> bool:
        armed.seen += 1
        fault = armed.fault
        chance = Random(f"{self._seed}/{armed.place}/{armed.seen}").random()  # noqa: S311 - repeatable on purpose
        if not is_among(fault.nth, armed.seen) or chance >= fault.probability:
            return False
        armed.fired += 1
        return True


def _is_about(fault: Fault, occasion: Occasion) -> bool:
    if fault.operation:
        if fault.operation != occasion.operation:
            return False
    elif occasion.operation in ("association", "N-EVENT-REPORT"):
        return False
    return (
        fnmatchcase(occasion.calling, fault.calling)
        and fnmatchcase(occasion.called, fault.called)
        and fault.level in ("", occasion.level)
        and (not fault.sop_class or fnmatchcase(occasion.sop_class, fault.sop_class))
    )
