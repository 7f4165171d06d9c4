"""Explains queries and retrieves: how each was understood, what answers it, and what another manner would have said.

An `Explanation` has what was asked in it, patient data: it is made only where somebody has asked for explanations, and
shown where that was said. All its texts are printable.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import islice
from typing import Any

from pydicom import Dataset

from pacs.dicom import identifier_report
from pacs.dicom.identifier_report import ElementUse, IdentifierReport, ReportedElement
from pacs.dicom.levels import DimseOperation, Model
from pacs.dicom.matching_mode import STRICT, TOLERANT, MatchingMode, Negotiated
from pacs.dicom.query import Query
from pacs.errors import PacsError
from pacs.index import query_plan
from pacs.index.database import Index
from pacs.index.query_plan import PlannedStatement
from pacs.observability.logging import printable
from pacs.services.query import QueryService
from pacs.support.cancellation import Cancellation

LONGEST = 200
"""How many characters of one value are shown."""

LONGEST_SQL = 8000
"""And of a statement, with a list of parameters that may be as long."""

MOST_WITHOUT = 1000
"""So many matches that a query would have without one of its keys are counted."""

Statuses = Callable[[DimseOperation, PacsError | None, bool], tuple[int, ...]]
"""The statuses of the responses to an operation: refused for an error, or done, with keys ignored or not."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to explain: its Identifier, and how it is understood."""

    dataset: Dataset
    model: Model
    manner: MatchingMode
    negotiated: Negotiated


@dataclass(frozen=True, slots=True)
class ExplainedKey:
    """One element of the Identifier: as it came, what became of it, and what it means. '' for what there is not."""

    key: str
    tag: str
    vr: str
    asked: str
    use: str
    matching: str
    meaning: str
    where: str
    reason: str

    @property
    def understood(self) -> str:
        """What became of it: `matched, wild card doe*`."""
        how = " ".join(filter(None, (self.matching, self.meaning)))
        return ", ".join(filter(None, (self.use, how)))

    @property
    def why(self) -> str:
        """Where it is matched or comes from, or why it is not."""
        place = f"{'in' if self.use == ElementUse.MATCHED.value else 'from'} {self.where}" if self.where else ""
        return ", ".join(filter(None, (place, self.reason)))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a manner makes of the request.

    `statuses` are those of its responses, in hexadecimal, `comment` is the Error Comment of a refusal. `differences`
    say what it understands otherwise than the manner in force.
    """

    manner: str
    statuses: tuple[str, ...]
    comment: str = ""
    differences: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As it is said in one line."""
        *pending, final = self.statuses
        said = "".join(f"Pending {each}, then " for each in pending) + final
        return "; ".join(filter(None, (f"{said}, {self.comment}" if self.comment else said, *self.differences)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the request: its final status in hexadecimal, the Error Comment, and what was counted.

    `without` has the number of matches there would be without one of the keys, where that was looked at.
    """

    status: str
    comment: str
    counts: Mapping[str, int]
    without: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a request was understood.

    `answer` is what the manner in force makes of it, `other` what the strict manner would have answered, or the
    tolerant one where strict is in force. `without_negotiation` is the answer had nothing been negotiated, None where
    nothing was. `outcome` is None where it was not run, `trouble` says why its statements could not be planned.
    """

    operation: str
    model: str
    level: str
    manner: str
    negotiated: tuple[str, ...]
    keys: tuple[ExplainedKey, ...]
    notes: tuple[str, ...]
    statements: tuple[PlannedStatement, ...]
    answer: Verdict
    other: Verdict
    without_negotiation: Verdict | None = None
    trouble: str = ""
    outcome: Outcome | None = None

    def described(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        found = asdict(self)
        for each, statement in zip(found["statements"], self.statements, strict=True):
            each["indexed"] = statement.is_indexed
        return found

    def lines(self) -> Iterator[str]:
        """The same for people, line by line, each printable."""
        yield f"{self.operation}, {self.model}, level {self.level or 'none'}, manner {self.manner}"
        for key in self.keys:
            yield _line(key)
        yield from self.rest()

    def rest(self) -> Iterator[str]:
        """The lines behind those of the keys."""
        yield from self.notes
        if self.without_negotiation is not None:
            yield f"negotiated: {', '.join(self.negotiated)}; without that: {self.without_negotiation}"
        for statement in self.statements:
            yield f"SQL for {statement.purpose}: {'; '.join(filter(None, (*statement.access, statement.let_through)))}"
            yield f"    {' '.join(statement.sql.split())} -- {', '.join(map(repr, statement.parameters))}"
        if self.trouble:
            yield f"the statements are not shown: {self.trouble}"
        yield f"{self.manner}: {self.answer}"
        yield f"{self.other.manner}: {self.other}"
        if self.outcome is not None:
            yield f"answered: {_outcome(self.outcome)}"
            for key, number in self.outcome.without.items():
                yield f"without {key}: {number}{' or more' * (number == MOST_WITHOUT)} would match"


class Explainer:
    """Explains requests to an archive with this index; `statuses` tells how the protocol answers."""

    def __init__(self, index: Index, statuses: Statuses) -> None:
        self._index, self._statuses = index, statuses

    def explain(self, asked: Asked) -> Explanation:
        """How a request is understood. The index is asked for plans, and where to begin; nothing is answered."""
        taken = _read(asked)
        statements, trouble = self._statements(asked.model, taken.query)
        other = replace(asked, manner=TOLERANT if asked.manner.name == STRICT.name else STRICT)
        bare = replace(asked, negotiated=Negotiated())
        return Explanation(
            operation=f"C-{asked.model.operation.value}",
            model=asked.model.root.title,
            level=taken.level.name if taken.level is not None else "",
            manner=asked.manner.name,
            negotiated=_negotiated(asked.negotiated),
            keys=tuple(_keys(taken)),
            notes=tuple(_notes(asked, taken)),
            statements=statements,
            answer=self._verdict(asked, taken),
            other=self._verdict(other, _read(other), taken),
            without_negotiation=None if bare == asked else self._verdict(bare, _read(bare), taken),
            trouble=trouble,
        )

    def _verdict(self, asked: Asked, taken: IdentifierReport, instead_of: IdentifierReport | None = None) -> Verdict:
        ignored = bool(taken.query and taken.query.ignored)
        statuses = self._statuses(asked.model.operation, taken.error, ignored)
        found = identifier_report.differences(taken, instead_of) if instead_of is not None else ()
        return Verdict(
            manner=asked.manner.name,
            statuses=tuple(f"{each:04X}" for each in statuses),
            comment=printable(taken.error.comment) if taken.error else "",
            differences=tuple(printable(each, LONGEST) for each in found),
        )

    def _statements(self, model: Model, query: Query | None) -> tuple[tuple[PlannedStatement, ...], str]:
        """The statements, and why there are none where the index did not say."""
        if query is None:
            return (), ""
        planned = query_plan.of_query if model.operation is DimseOperation.FIND else query_plan.of_retrieve
        try:
            return tuple(map(_harmless, planned(self._index, query, Cancellation()))), ""
        except PacsError as error:
            return (), error.comment


def without_each(queries: QueryService, query: Query) -> dict[str, int]:
    """How many matches a query would have without one of its keys, by keyword; up to `MOST_WITHOUT` are counted.

    Raises as `QueryService.matches`.
    """
    found = {}
    for key in query.keys:
        fewer = replace(query, keys=tuple(each for each in query.keys if each is not key))
        matches = islice(queries.matches(fewer, Cancellation()), MOST_WITHOUT)
        found[key.attribute.keyword or f"({key.attribute.tag:08X})"] = sum(1 for _ in matches)
    return found


def _read(asked: Asked) -> IdentifierReport:
    return identifier_report.make_report(asked.dataset, asked.model, asked.manner, asked.negotiated)


# --- in words ----------------------------------------------------------------------------------------------------


def _keys(taken: IdentifierReport) -> Iterator[ExplainedKey]:
    places: dict[str, str] = {}
    for part in taken.parts:
        outer, _, _ = part.path.rpartition(".")
        places[part.path] = places[outer] if outer in places else _place(part)
        yield ExplainedKey(
            key=part.path,
            tag=f"{part.tag >> 16:04X},{part.tag & 0xFFFF:04X}",
            vr=part.vr,
            asked=printable(part.asked, LONGEST),
            use=part.use.value,
            matching=identifier_report.matching_kind(part),
            meaning=printable(identifier_report.matching_text(part), LONGEST),
            where=places[part.path],
            reason=printable(part.reason, LONGEST),
        )


def _place(part: ReportedElement) -> str:
    if part.attribute is None or part.use not in (ElementUse.MATCHED, ElementUse.RETURNED):
        return ""
    return query_plan.source_of(part.attribute, part.matching)


def _negotiated(negotiated: Negotiated) -> tuple[str, ...]:
    return tuple(each.name for each in fields(negotiated) if getattr(negotiated, each.name))


def _notes(asked: Asked, taken: IdentifierReport) -> Iterator[str]:
    """What is to be said of the whole."""
    query = taken.query
    if query is None:
        return
    if query.nothing_matches:
        no_keys = not any(part.use in (ElementUse.MATCHED, ElementUse.RETURNED) for part in taken.parts)
        why = "no key was asked for (F3)" if no_keys else "a range ends before it begins"
        yield f"nothing matches: {why}"
    if not query.keys and not query.combined and not query.nothing_matches:
        yield f"no key narrows it: everything at level {query.level.name} matches"
    if query.unknown_matches and query.keys:
        yield "a value that is unknown, zero length or absent, matches every key (C.2.2.1.2)"
    if asked.model.operation is not DimseOperation.FIND:
        yield "a retrieve is a query at IMAGE level for the instances"


def _harmless(statement: PlannedStatement) -> PlannedStatement:
    """A statement whose texts are printable, and not longer than people read."""
    return replace(
        statement,
        sql="\n".join(printable(line, LONGEST_SQL) for line in statement.sql[:LONGEST_SQL].split("\n")),
        parameters=tuple(printable(each, LONGEST) if isinstance(each, str) else each for each in statement.parameters),
        plan=tuple(printable(line, LONGEST_SQL) for line in statement.plan),
    )


def _line(key: ExplainedKey) -> str:
    """A key in one line: `PatientName 'DOE*': matched, wild card doe*, in column patient.patient_name`."""
    return f"{key.key} {key.asked!r}: " + ", ".join(filter(None, (key.understood, key.why)))


def _outcome(outcome: Outcome) -> str:
    counts = [f"{name}: {number}" for name, number in outcome.counts.items()]
    return ", ".join(filter(None, (outcome.status, outcome.comment, *counts)))
