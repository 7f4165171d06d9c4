"""What a server is told to do wrong, and when: plain values, the same in code and in a scenario file.

A `Fault` is one record with two halves: the first says which messages it is about, the second what becomes of them.
Importing this costs nothing: no library is needed to write a fault down.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, Field, dataclass, field, fields, replace
from typing import Any

DIMSE = ("C-ECHO", "C-STORE", "C-FIND", "C-MOVE", "C-GET", "N-ACTION", "N-EVENT-REPORT")
OPERATIONS = ("association", *DIMSE)
"""What a fault can be about: an association from its request on, or one operation on it."""

RETRIEVES = ("C-MOVE", "C-GET")
MANY_ANSWERS = ("C-FIND", *RETRIEVES)
"""The operations that have Pending responses."""

_WITH_INSTANCES = (*RETRIEVES, "N-EVENT-REPORT")

ANSWERED = DIMSE[:-1]
"""The operations that we answer; an N-EVENT-REPORT is our own request."""

LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")

Which = int | tuple[int, ...] | str
"""Which of several, counted from 1: a number, some numbers, "every 3", "from 2" or "first 5"; "" is all of them."""

_PATTERN = re.compile(r"(every|from|first) ([1-9][0-9]{0,6})")
_WORDS: Mapping[str, Callable[[int, int], bool]] = {
    "every": lambda number, n: number % n == 0,
    "from": lambda number, n: number >= n,
    "first": lambda number, n: number <= n,
}


def is_among(which: Which, number: int) -> bool:
    """Whether the one with this number, counted from 1, is meant. Raises ValueError for what is no `Which`."""
    if isinstance(which, int):
        return number == which
    if isinstance(which, tuple):
        return number in which
    if not which:
        return True
    found = _PATTERN.fullmatch(which)
    if found is None:
        raise ValueError(f'expected a number, a list of numbers, "every 3", "from 2" or "first 5", not {which!r}')
    return _WORDS[found.group(1)](number, int(found.group(2)))


def _does(default: Any, does: str, of: Sequence[str]) -> Any:
    """A field of the second half: what it `does`, and which operations it can be done to."""
    return field(default=default, metadata={"does": does, "of": tuple(of)})


@dataclass(frozen=True, slots=True)
class Fault:
    """What one kind of message meets: those that all of the first half agrees with, all that the second half says.

    Raises ValueError, with what was expected, when the two do not fit. PDUs are counted from 1: those of an operation
    from its request on, those of an association from A-ASSOCIATE-RQ and -AC on, which are number 1.
    """

    operation: str = field(default="", metadata={"when": "the operation, or `association`; all operations if left out"})
    _: KW_ONLY
    calling: str = field(default="*", metadata={"when": "the calling AE title; `*` and `?` are wild cards"})
    called: str = field(default="*", metadata={"when": "the called AE title; `*` and `?` are wild cards"})
    nth: Which = field(
        default="",
        metadata={"when": 'which of those that fit: `2`, `[1, 3]`, `"every 3"`, `"from 2"`, `"first 5"`'},
    )
    probability: float = field(default=1.0, metadata={"when": "how likely each of them is met, by the seed"})
    level: str = field(default="", metadata={"when": "the Query/Retrieve Level of a C-FIND, C-MOVE or C-GET"})
    sop_class: str = field(default="", metadata={"when": "the SOP Class UID; `*` is a wild card"})

    reject: tuple[int, int, int] | None = _does(
        None, "rejects the association with this result, source and reason", ("association",)
    )
    refuse: tuple[str, ...] = _does(
        (), "refuses the presentation contexts of these abstract syntaxes (wild cards allowed)", ("association",)
    )
    refuse_result: int = _does(3, "the result of contexts that are refused: 1, 2, 3 or 4", ("association",))

    status: int | None = _does(None, "answers this status and does nothing", ANSWERED)
    after: int = _does(0, "lets so many Pending responses go before `status`", MANY_ANSWERS)
    final_status: int | None = _does(None, "does what was asked, and says this status at the end", ANSWERED)
    failure_status: int | None = _does(None, "says this status wherever it would say a failure", ANSWERED)
    comment: str = _does("", "the Error Comment of a status that is said on purpose", ANSWERED)
    offending: tuple[int, ...] = _does((), "the Offending Elements of a status that is said on purpose", ANSWERED)
    no_match: int | None = _does(None, "the final status when nothing matches", MANY_ANSWERS)
    pending_status: int | None = _does(None, "the status of Pending responses: FF01 for FF00", MANY_ANSWERS)

    delay: float = _does(0.0, "waits so many seconds before the first response", OPERATIONS)
    delay_each: float = _does(0.0, "waits so many seconds before every response", DIMSE)
    jitter: float = _does(0.0, "waits up to so many seconds more, by the seed", OPERATIONS)
    bytes_per_second: int = _does(0, "writes no faster than this", OPERATIONS)
    silent: bool = _does(False, "never answers", DIMSE)

    drop_sent: int = _does(0, "closes the connection instead of sending this PDU", OPERATIONS)
    drop_received: int = _does(0, "closes the connection when this PDU has come", OPERATIONS)
    abort_sent: int = _does(0, "sends A-ABORT instead of this PDU", OPERATIONS)
    abort_received: int = _does(0, "sends A-ABORT when this PDU has come", OPERATIONS)
    truncate: int = _does(0, "ends this PDU within its PDV", OPERATIONS)
    garble: int = _does(0, "sends noise, by the seed, for the content of this PDU's PDV", OPERATIONS)

    message_id: int | None = _does(None, "responds to this Message ID instead of that of the request", ANSWERED)
    pendings: str = _does(
        "", 'sends Pending responses `"none"`, `"every 3"` or `"at the end"`, all at once', MANY_ANSWERS
    )
    duplicate: str = _does("", 'sends `"pendings"` or the `"final"` response twice', ANSWERED)
    counts: str = _does("", 'the sub-operation counts are `"missing"`, `"wrong"` or `"zero at failure"`', RETRIEVES)
    failed_list: str = _does("", 'the Failed SOP Instance UID List is `"missing"` or `"wrong"`', RETRIEVES)
    character_set: str = _does("", "Identifiers name this character set, whatever they are in", ("C-FIND",))
    ignore_cancel: bool = _does(False, "does not hear a C-CANCEL", MANY_ANSWERS)

    fail: int | tuple[int, ...] | str | float = _does(
        "", "these instances fail, by their number, or a share of them", _WITH_INSTANCES
    )
    stop_at_failure: bool = _does(False, "ends at the first sub-operation that fails", RETRIEVES)
    success_first: bool = _does(False, "answers Success, and only then begins to send", ("C-MOVE",))
    hang_destination: float = _does(
        0.0, "the move destination takes the connection, and says nothing for so many seconds", ("C-MOVE",)
    )
    full_disk: bool = _does(False, "the disk is full once the data set arrives", ("C-STORE",))

    def __repr__(self) -> str:
        conditions = {each.name: getattr(self, each.name) for each in fields(self) if _is_condition(self, each)}
        said = _in_words(conditions | dict(self.effects))
        return f"Fault({said.removeprefix('operation=')})"

    def __post_init__(self) -> None:
        _check_first_half(self)
        for name in self.effects:
            expected = field_of(name).metadata["of"]
            if self.operation not in ("", *expected) or (not self.operation and not set(expected) & set(DIMSE)):
                raise ValueError(
                    f"{name}: expected operation to be one of {', '.join(expected)}, not {self.operation!r}"
                )
        _check_second_half(self)

    @property
    def effects(self) -> Mapping[str, Any]:
        """The fields of the second half that say something, by name."""
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if "does" in each.metadata and not _is_nothing(getattr(self, each.name), each.default)
        }

    @property
    def deeds(self) -> str:
        """What it does in one line, as it would be written: "status=0xA700, after=2"."""
        return _in_words(self.effects)

    def does(self, operation: str) -> "Fault":
        """What of it can be done to an operation: a fault for all operations says things that are not for each."""
        foreign = [name for name in self.effects if operation not in field_of(name).metadata["of"]]
        defaults: dict[str, Any] = {name: field_of(name).default for name in foreign}
        return replace(self, operation=operation, **defaults)


_CHECKED = {
    "pendings": re.compile(r"none|at the end|every [1-9][0-9]{0,6}"),
    "duplicate": re.compile(r"pendings|final"),
    "counts": re.compile(r"missing|wrong|zero at failure"),
    "failed_list": re.compile(r"missing|wrong"),
}
_STATUSES = ("status", "final_status", "failure_status", "no_match", "pending_status", "message_id")

_IN_HEXADECIMAL = frozenset(_STATUSES) - {"message_id"}


def field_of(name: str) -> "Field[Any]":
    """The field of `Fault` with this name, whose metadata says what it is for."""
    return next(each for each in fields(Fault) if each.name == name)


def _is_nothing(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and value == default)


def _is_condition(fault: Fault, condition: "Field[Any]") -> bool:
    return "when" in condition.metadata and not _is_nothing(getattr(fault, condition.name), condition.default)


def _in_words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_shown(name, value)}" for name, value in values.items())


def _shown(name: str, value: Any) -> str:
    """A value as it would be written: statuses and tags in hexadecimal."""
    if name in _IN_HEXADECIMAL:
        return f"0x{value:04X}"
    return f"({', '.join(f'0x{tag:08X}' for tag in value)},)" if name == "offending" else repr(value)


def _check_first_half(fault: Fault) -> None:
    if fault.operation not in ("", *OPERATIONS):
        raise ValueError(f"operation: expected one of {', '.join(OPERATIONS)}, not {fault.operation!r}")
    if fault.level not in ("", *LEVELS):
        raise ValueError(f"level: expected one of {', '.join(LEVELS)}, not {fault.level!r}")
    if not 0 <= fault.probability <= 1:
        raise ValueError(f"probability: expected 0 to 1, not {fault.probability!r}")
    _check_which("nth", fault.nth)


def _check_second_half(fault: Fault) -> None:
    for name in _STATUSES:
        value = getattr(fault, name)
        if value is not None and not 0 <= value <= 0xFFFF:
            raise ValueError(f"{name}: expected 0 to 0xFFFF, not {value!r}")
    for name, pattern in _CHECKED.items():
        if (value := getattr(fault, name)) and not pattern.fullmatch(value):
            expected = field_of(name).metadata["does"].partition("`")[2].replace("`", "")
            raise ValueError(f"{name}: expected {expected}, not {value!r}")
    for each in fields(fault):
        value = getattr(fault, each.name)
        if isinstance(value, int | float) and value < 0:
            raise ValueError(f"{each.name}: expected no negative number, not {value!r}")
    if isinstance(fault.fail, float):
        if not 0 <= fault.fail <= 1:
            raise ValueError(f"fail: expected a share of 0.0 to 1.0, not {fault.fail!r}")
    else:
        _check_which("fail", fault.fail)
    if fault.refuse_result not in (1, 2, 3, 4):
        raise ValueError(f"refuse_result: expected 1, 2, 3 or 4, not {fault.refuse_result!r}")
    if fault.reject is not None and not all(1 <= each <= 255 for each in fault.reject):
        raise ValueError(f"reject: expected result, source and reason of 1 to 255, not {list(fault.reject)}")


def _check_which(name: str, which: Which) -> None:
    try:
        is_among(which, 1)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    numbers = (which,) if isinstance(which, int) else which
    if isinstance(numbers, tuple) and not all(each >= 1 for each in numbers):
        raise ValueError(f"{name}: expected numbers from 1 on, not {which!r}")


def merged(faults: Sequence[Fault], operation: str) -> Fault:
    """All that several faults do to one operation, as one; where they contradict each other the later is right."""
    effects: dict[str, Any] = {}
    for each in faults:
        effects |= each.does(operation).effects
    return Fault(operation, **effects)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A server that misbehaves in the same way each time: faults, and settings by dotted key as in config.toml.

    `seed` decides all that is left to chance: with the same seed the same requests get the same bytes.
    """

    name: str = ""
    description: str = ""
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
