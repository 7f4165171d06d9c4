"""Selects the faults that apply to a message, with counters and a seeded random generator."""

import threading
from dataclasses import dataclass
from fnmatch import fnmatchcase
from random import Random

from pacs.faults.model import Fault, Scenario, is_among, merged


@dataclass(frozen=True, slots=True)
class MessageInfo:
    """The properties of a message that conditions refer to."""

    operation: str
    calling: str
    called: str
    level: str = ""
    sop_class: str = ""


class ArmedFault:
    """An active fault of a running server: `fired` counts its messages, `remove` ends it."""

    def __init__(self, fault: Fault, place: int, owner: "ArmedFaults") -> None:
        self.fault = fault
        self.place = place
        self.seen = 0
        """Number of messages that matched the conditions, whether the fault applied or not."""
        self.fired = 0
        self._owner = owner

    def __repr__(self) -> str:
        return f"<{self.fault!r}, number {self.place}: applied to {self.fired} of {self.seen} messages>"

    def remove(self) -> None:
        """End this fault. A second call does nothing."""
        self._owner.remove(self)


@dataclass(frozen=True, slots=True)
class ChosenFaults:
    """The faults that apply to one message, merged into one, with a random generator."""

    fault: Fault
    random: Random
    met: tuple[ArmedFault, ...] = ()


class ArmedFaults:
    """The active faults of one server, in the order of adding; thread-safe."""

    def __init__(self, scenario: Scenario) -> None:
        self._lock = threading.Lock()
        self._seed = scenario.seed
        self._armed: list[ArmedFault] = []
        self._place = 0
        for each in scenario.faults:
            self.add(each)

    def __repr__(self) -> str:
        return f"<faults: {', '.join(map(repr, self.armed)) or 'none'}>"

    def add(self, fault: Fault) -> ArmedFault:
        """Add a fault; it counts messages from now on."""
        with self._lock:
            self._place += 1
            armed = ArmedFault(fault, self._place, self)
            self._armed.append(armed)
            return armed

    def remove(self, armed: ArmedFault) -> None:
        """Remove a fault, if it is present."""
        with self._lock:
            self._armed = [each for each in self._armed if each is not armed]

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._armed = []

    @property
    def armed(self) -> tuple[ArmedFault, ...]:
        """The active faults."""
        return tuple(self._armed)

    def choose(self, info: MessageInfo) -> ChosenFaults | None:
        """Return the faults that apply to a message, None if there are none. Each matching fault counts the message."""
        with self._lock:
            met = [each for each in self._armed if _matches(each.fault, info) and self._applies(each)]
            if not met:
                return None
            chance = Random("/".join([str(self._seed), *(f"{each.place}.{each.seen}" for each in met)]))  # noqa: S311
        return ChosenFaults(merged([each.fault for each in met], info.operation), chance, tuple(met))

    def _applies(self, armed: ArmedFault) -> bool:
        armed.seen += 1
        fault = armed.fault
        chance = Random(f"{self._seed}/{armed.place}/{armed.seen}").random()  # noqa: S311 - repeatable on purpose
        if not is_among(fault.nth, armed.seen) or chance >= fault.probability:
            return False
        armed.fired += 1
        return True


def _matches(fault: Fault, info: MessageInfo) -> bool:
    if fault.operation:
        if fault.operation != info.operation:
            return False
    elif info.operation in ("association", "N-EVENT-REPORT"):
        return False
    return (
        fnmatchcase(info.calling, fault.calling)
        and fnmatchcase(info.called, fault.called)
        and fault.level in ("", info.level)
        and (not fault.sop_class or fnmatchcase(info.sop_class, fault.sop_class))
    )
