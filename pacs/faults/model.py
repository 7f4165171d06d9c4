"""Faults and scenarios as plain values, the same in code and in a scenario file.

The first fields of a `Fault` are conditions on messages, the others are effects. Importing this module needs no
library.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, Field, dataclass, field, fields, replace
from typing import Any

DIMSE = ("C-ECHO", "C-STORE", "C-FIND", "C-MOVE", "C-GET", "N-ACTION", "N-EVENT-REPORT")
OPERATIONS = ("association", *DIMSE)
"""What a fault can apply to: an association from its request on, or one operation."""

RETRIEVES = ("C-MOVE", "C-GET")
WITH_PENDING = ("C-FIND", *RETRIEVES)
"""Operations with Pending responses."""

_WITH_INSTANCES = (*RETRIEVES, "N-EVENT-REPORT")

WITH_RESPONSE = DIMSE[:-1]
"""Operations to which the server responds; an N-EVENT-REPORT is its own request."""

LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")

Which = int | tuple[int, ...] | str
"""A selection counted from 1: a number, several numbers, "every 3", "from 2" or "first 5"; "" selects all."""

_PATTERN = re.compile(r"(every|from|first) ([1-9][0-9]{0,6})")
_SELECTORS: Mapping[str, Callable[[int, int], bool]] = {
    "every": lambda number, n: number % n == 0,
    "from": lambda number, n: number >= n,
    "first": lambda number, n: number <= n,
}


def is_among(which: Which, number: int) -> bool:
    """Return whether the selection contains a number. Raises ValueError for an invalid selection."""
    if isinstance(which, int):
        return number == which
    if isinstance(which, tuple):
        return number in which
    if not which:
        return True
    found = _PATTERN.fullmatch(which)
    if found is None:
        raise ValueError(f'expected a number, a list of numbers, "every 3", "from 2" or "first 5", not {which!r}')
    return _SELECTORS[found.group(1)](number, int(found.group(2)))


def _effect(default: Any, does: str, of: Sequence[str]) -> Any:
    """Return a field for an effect: its description, and the operations that it can apply to."""
    return field(default=default, metadata={"does": does, "of": tuple(of)})


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault: the effects apply to each message that fulfils all conditions.

    Raises ValueError with the expected values if conditions and effects do not fit. PDUs are counted from 1: for an
    operation from its request on, for an association from A-ASSOCIATE-RQ and -AC on, which are number 1.
    """

    operation: str = field(default="", metadata={"when": "the operation, or `association`; all operations if omitted"})
    _: KW_ONLY
    calling: str = field(default="*", metadata={"when": "the calling AE title; `*` and `?` are wild cards"})
    called: str = field(default="*", metadata={"when": "the called AE title; `*` and `?` are wild cards"})
    nth: Which = field(
        default="",
        metadata={"when": 'which of the matching messages: `2`, `[1, 3]`, `"every 3"`, `"from 2"`, `"first 5"`'},
    )
    probability: float = field(
        default=1.0, metadata={"when": "the probability that the fault applies to each of them, by the seed"}
    )
    level: str = field(default="", metadata={"when": "the Query/Retrieve Level of a C-FIND, C-MOVE or C-GET"})
    sop_class: str = field(default="", metadata={"when": "the SOP Class UID; `*` is a wild card"})

    reject: tuple[int, int, int] | None = _effect(
        None, "rejects the association with this result, source and reason", ("association",)
    )
    refuse: tuple[str, ...] = _effect(
        (), "refuses the presentation contexts of these abstract syntaxes (wild cards allowed)", ("association",)
    )
    refuse_result: int = _effect(3, "the result of refused contexts: 1, 2, 3 or 4", ("association",))

    status: int | None = _effect(None, "responds with this status and does nothing else", WITH_RESPONSE)
    after: int = _effect(0, "sends this many Pending responses before `status`", WITH_PENDING)
    final_status: int | None = _effect(None, "runs the operation and responds with this final status", WITH_RESPONSE)
    failure_status: int | None = _effect(None, "responds with this status instead of any failure", WITH_RESPONSE)
    comment: str = _effect("", "the Error Comment of a status set by the fault", WITH_RESPONSE)
    offending: tuple[int, ...] = _effect((), "the Offending Elements of a status set by the fault", WITH_RESPONSE)
    no_match: int | None = _effect(None, "the final status when nothing matches", WITH_PENDING)
    pending_status: int | None = _effect(None, "the status of Pending responses: FF01 for FF00", WITH_PENDING)

    delay: float = _effect(0.0, "waits this many seconds before the first response", OPERATIONS)
    delay_each: float = _effect(0.0, "waits this many seconds before every response", DIMSE)
    jitter: float = _effect(0.0, "waits up to this many seconds more, by the seed", OPERATIONS)
    bytes_per_second: int = _effect(0, "limits the rate of writing", OPERATIONS)
    silent: bool = _effect(False, "never responds", DIMSE)

    drop_sent: int = _effect(0, "closes the connection instead of sending this PDU", OPERATIONS)
    drop_received: int = _effect(0, "closes the connection when this PDU has arrived", OPERATIONS)
    abort_sent: int = _effect(0, "sends A-ABORT instead of this PDU", OPERATIONS)
    abort_received: int = _effect(0, "sends A-ABORT when this PDU has arrived", OPERATIONS)
    truncate: int = _effect(0, "truncates this PDU within its PDV", OPERATIONS)
    garble: int = _effect(0, "replaces the content of this PDU's PDV by random bytes, by the seed", OPERATIONS)

    message_id: int | None = _effect(None, "responds to this Message ID instead of that of the request", WITH_RESPONSE)
    pendings: str = _effect(
        "", 'sends Pending responses `"none"`, `"every 3"` or `"at the end"`, all at once', WITH_PENDING
    )
    duplicate: str = _effect("", 'sends `"pendings"` or the `"final"` response twice', WITH_RESPONSE)
    counts: str = _effect("", 'the sub-operation counts are `"missing"`, `"wrong"` or `"zero at failure"`', RETRIEVES)
    failed_list: str = _effect("", 'the Failed SOP Instance UID List is `"missing"` or `"wrong"`', RETRIEVES)
    character_set: str = _effect("", "Identifiers name this character set, whatever their encoding", ("C-FIND",))
    ignore_cancel: bool = _effect(False, "ignores C-CANCEL", WITH_PENDING)

    fail: int | tuple[int, ...] | str | float = _effect(
        "", "these instances fail: numbers, or a fraction of all", _WITH_INSTANCES
    )
    stop_at_failure: bool = _effect(False, "ends at the first failed sub-operation", RETRIEVES)
    success_first: bool = _effect(False, "responds with Success before it sends anything", ("C-MOVE",))
    hang_destination: float = _effect(
        0.0, "the move destination accepts the connection and is silent for this many seconds", ("C-MOVE",)
    )
    full_disk: bool = _effect(False, "the disk is full when the data set arrives", ("C-STORE",))

    def __repr__(self) -> str:
        conditions = {each.name: getattr(self, each.name) for each in fields(self) if _is_condition(self, each)}
        text = _as_text(conditions | dict(self.effects))
        return f"Fault({text.removeprefix('operation=')})"

    def __post_init__(self) -> None:
        _check_conditions(self)
        for name in self.effects:
            expected = field_of(name).metadata["of"]
            if self.operation not in ("", *expected) or (not self.operation and not set(expected) & set(DIMSE)):
                raise ValueError(
                    f"{name}: expected operation to be one of {', '.join(expected)}, not {self.operation!r}"
                )
        _check_effects(self)

    @property
    def effects(self) -> Mapping[str, Any]:
        """The effects that differ from their default, by name."""
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if "does" in each.metadata and not _is_default(getattr(self, each.name), each.default)
        }

    @property
    def deeds(self) -> str:
        """The effects in one line of code: "status=0xA700, after=2"."""
        return _as_text(self.effects)

    def does(self, operation: str) -> "Fault":
        """Return the fault for one operation, with only the effects that can apply to it."""
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
    """Return the field of `Fault` with this name; its metadata describe it."""
    return next(each for each in fields(Fault) if each.name == name)


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and value == default)


def _is_condition(fault: Fault, condition: "Field[Any]") -> bool:
    return "when" in condition.metadata and not _is_default(getattr(fault, condition.name), condition.default)


def _as_text(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_shown(name, value)}" for name, value in values.items())


def _shown(name: str, value: Any) -> str:
    """Return the code for a value; statuses and tags are hexadecimal."""
    if name in _IN_HEXADECIMAL:
        return f"0x{value:04X}"
    return f"({', '.join(f'0x{tag:08X}' for tag in value)},)" if name == "offending" else repr(value)


def _check_conditions(fault: Fault) -> None:
    if fault.operation not in ("", *OPERATIONS):
        raise ValueError(f"operation: expected one of {', '.join(OPERATIONS)}, not {fault.operation!r}")
    if fault.level not in ("", *LEVELS):
        raise ValueError(f"level: expected one of {', '.join(LEVELS)}, not {fault.level!r}")
    if not 0 <= fault.probability <= 1:
        raise ValueError(f"probability: expected 0 to 1, not {fault.probability!r}")
    _check_which("nth", fault.nth)


def _check_effects(fault: Fault) -> None:
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
            raise ValueError(f"{each.name}: expected a number of 0 or more, not {value!r}")
    if isinstance(fault.fail, float):
        if not 0 <= fault.fail <= 1:
            raise ValueError(f"fail: expected a fraction from 0.0 to 1.0, not {fault.fail!r}")
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
        raise ValueError(f"{name}: expected numbers of 1 or more, not {which!r}")


def merged(faults: Sequence[Fault], operation: str) -> Fault:
    """Combine the effects of several faults on one operation; later faults take precedence."""
    effects: dict[str, Any] = {}
    for each in faults:
        effects |= each.does(operation).effects
    return Fault(operation, **effects)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Settings, by dotted key as in config.toml, and faults of a server.

    `seed` determines all random choices: with the same seed, the same requests get the same bytes.
    """

    name: str = ""
    description: str = ""
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
