"""Explain queries and retrieves: how each key is understood, the SQL, and the answer in the other matching mode.

An `Explanation` holds the keys of a request, which are patient data: it is made only where explaining is configured or
`pacs explain` is run. All its texts are printable.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import islice
from typing import Any

from pydicom import Dataset

from pacs.dicom import identifier_report
from pacs.dicom.dataset import View
from pacs.dicom.identifier_report import ElementUse, IdentifierReport, ReportedElement
from pacs.dicom.levels import DimseOperation, Model
from pacs.dicom.matching_mode import STRICT, TOLERANT, MatchingMode, Negotiated
from pacs.dicom.near_miss import find_near_miss
from pacs.dicom.query import Query, ReturnKey
from pacs.errors import PacsError
from pacs.index import query_plan
from pacs.index.database import Index
from pacs.index.query_plan import PlannedStatement
from pacs.observability.logging import printable
from pacs.services.query import QueryService
from pacs.support.cancellation import Cancellation

LONGEST = 200
"""Characters of a value that are shown."""

LONGEST_SQL = 8000
"""Characters of an SQL statement that are shown."""

MOST_WITHOUT = 1000
"""The most matches that are counted for a query without one of its keys."""

Statuses = Callable[[DimseOperation, PacsError | None, bool], tuple[int, ...]]
"""Returns the statuses of the responses to an operation that fails with an error, or succeeds with or without keys
that are not supported."""


@dataclass(frozen=True, slots=True)
class ExplainRequest:
    """A request to explain: its Identifier, and by which rules it is understood."""

    dataset: Dataset
    model: Model
    manner: MatchingMode
    negotiated: Negotiated


@dataclass(frozen=True, slots=True)
class ExplainedKey:
    """One element of the Identifier: its value, how it is used and matched, and where. Each may be ''."""

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
        """Use and matching, as `matched, wild card doe*`."""
        how = " ".join(filter(None, (self.matching, self.meaning)))
        return ", ".join(filter(None, (self.use, how)))

    @property
    def why(self) -> str:
        """Where it is matched or returned from, or why it is not."""
        place = f"{'in' if self.use == ElementUse.MATCHED.value else 'from'} {self.where}" if self.where else ""
        return ", ".join(filter(None, (place, self.reason)))


@dataclass(frozen=True, slots=True)
class ModeAnswer:
    """The answer to the request in one matching mode.

    `statuses` are those of its responses, in hexadecimal, `comment` is the Error Comment of a refusal. `differences`
    are the keys that this mode understands differently from the mode in force.
    """

    manner: str
    statuses: tuple[str, ...]
    comment: str = ""
    differences: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it in one line."""
        *pending, final = self.statuses
        text = "".join(f"Pending {each}, then " for each in pending) + final
        return "; ".join(filter(None, (f"{text}, {self.comment}" if self.comment else text, *self.differences)))


@dataclass(frozen=True, slots=True)
class StoredAs:
    """Instances of a retrieve that are stored in one transfer syntax.

    `others` are those into which they are converted, best first, where theirs is not accepted. `sent` is the number of
    those that were sent in each, None where the retrieve was not run. All transfer syntaxes are named as in PS3.6.
    """

    transfer_syntax: str
    instances: int
    others: tuple[str, ...]
    sent: Mapping[str, int] | None = None

    def __str__(self) -> str:
        """Return it in one line."""
        how = f"else the first accepted of {', '.join(self.others)}" if self.others else "they are not converted"
        text = f"instances in {self.transfer_syntax}: {self.instances}, sent as stored where it is accepted, {how}"
        return text if self.sent is None else "; ".join((text, *self._sent()))

    def _sent(self) -> Iterator[str]:
        for name, number in (self.sent or {}).items():
            yield f"{number} sent as {'stored' if name == self.transfer_syntax else name}"
        if left := self.instances - sum((self.sent or {}).values()):
            yield f"{left} not sent"


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """The result of the request: its final status in hexadecimal, the Error Comment, and the counts.

    `without` is the number of matches without one of the keys, if it was determined, and `differs` a value of them that
    differs from the key only in case, if there is one; both by keyword. `stored_as` are the transfer
    syntaxes of a retrieve.
    """

    status: str
    comment: str
    counts: Mapping[str, int]
    without: Mapping[str, int] = field(default_factory=dict)
    differs: Mapping[str, str] = field(default_factory=dict)
    stored_as: tuple[StoredAs, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a request is understood.

    `answer` is that of the matching mode in force, `other` that of the strict mode, or of the tolerant one where strict
    is in force. `without_negotiation` is the answer without extended negotiation, None where nothing was negotiated.
    `outcome` is None where the request was not run; `trouble` is why its statements could not be planned.
    """

    operation: str
    model: str
    level: str
    manner: str
    negotiated: tuple[str, ...]
    keys: tuple[ExplainedKey, ...]
    notes: tuple[str, ...]
    statements: tuple[PlannedStatement, ...]
    answer: ModeAnswer
    other: ModeAnswer
    without_negotiation: ModeAnswer | None = None
    trouble: str = ""
    outcome: RequestOutcome | None = None

    def described(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        found = asdict(self)
        for each, statement in zip(found["statements"], self.statements, strict=True):
            each["indexed"] = statement.is_indexed
        return found

    def lines(self, *, with_sql: bool = True) -> Iterator[str]:
        """Yield it as lines of printable text."""
        yield f"{self.operation}, {self.model}, level {self.level or 'none'}, matching mode {self.manner}"
        for key in self.keys:
            yield _line(key)
        yield from self.rest(with_sql=with_sql)

    def rest(self, *, with_sql: bool = True) -> Iterator[str]:
        """Yield the lines after those of the keys."""
        yield from self.notes
        if self.without_negotiation is not None:
            yield f"negotiated: {', '.join(self.negotiated)}; without that: {self.without_negotiation}"
        for statement in self.statements if with_sql else ():
            yield f"SQL for {statement.purpose}: {'; '.join(filter(None, (*statement.access, statement.rows_found)))}"
            yield f"    {' '.join(statement.sql.split())} -- {', '.join(map(repr, statement.parameters))}"
        if self.trouble:
            yield f"the statements are not shown: {self.trouble}"
        yield f"{self.manner}: {self.answer}"
        yield f"{self.other.manner}: {self.other}"
        if self.outcome is not None:
            yield f"answered: {_outcome(self.outcome)}"
            for key, number in self.outcome.without.items():
                yield f"without {key}: {number}{' or more' * (number == MOST_WITHOUT)} would match"
                if key in self.outcome.differs:
                    yield f"    {self.outcome.differs[key]!r} differs only in case"
            yield from map(str, self.outcome.stored_as)


class Explainer:
    """Explains requests to an archive with this index; `statuses` returns the statuses of the protocol."""

    def __init__(self, index: Index, statuses: Statuses) -> None:
        self._index, self._statuses = index, statuses

    def explain(self, request: ExplainRequest) -> Explanation:
        """Explain a request. The index is read only to plan the statements."""
        report = _read(request)
        statements, trouble = self._statements(request.model, report.query)
        other = replace(request, manner=TOLERANT if request.manner.name == STRICT.name else STRICT)
        plain = replace(request, negotiated=Negotiated())
        return Explanation(
            operation=f"C-{request.model.operation.value}",
            model=request.model.root.title,
            level=report.level.name if report.level is not None else "",
            manner=request.manner.name,
            negotiated=_negotiated(request.negotiated),
            keys=tuple(_keys(report)),
            notes=tuple(_notes(request, report)),
            statements=statements,
            answer=self._answer(request, report),
            other=self._answer(other, _read(other), report),
            without_negotiation=None if plain == request else self._answer(plain, _read(plain), report),
            trouble=trouble,
        )

    def _answer(
        self, request: ExplainRequest, report: IdentifierReport, compared_with: IdentifierReport | None = None
    ) -> ModeAnswer:
        ignored = bool(report.query and report.query.ignored)
        statuses = self._statuses(request.model.operation, report.error, ignored)
        found = identifier_report.differences(report, compared_with) if compared_with is not None else ()
        return ModeAnswer(
            manner=request.manner.name,
            statuses=tuple(f"{each:04X}" for each in statuses),
            comment=printable(report.error.comment) if report.error else "",
            differences=tuple(printable(each, LONGEST) for each in found),
        )

    def _statements(self, model: Model, query: Query | None) -> tuple[tuple[PlannedStatement, ...], str]:
        """Return the planned statements, or why the index could not plan them."""
        if query is None:
            return (), ""
        planned = query_plan.of_query if model.operation is DimseOperation.FIND else query_plan.of_retrieve
        try:
            return tuple(map(_printable, planned(self._index, query, Cancellation()))), ""
        except PacsError as error:
            return (), error.comment


def without_each(queries: QueryService, query: Query) -> tuple[dict[str, int], dict[str, str]]:
    """Return the number of matches of a query without one of its keys, at most `MOST_WITHOUT` each, and the values of
    these matches that differ from the key only in case; both by keyword. Raises as `QueryService.matches`.
    """
    numbers, differs = {}, {}
    for key in query.keys:
        rest = tuple(each for each in query.keys if each is not key)
        fewer = replace(query, keys=rest, return_keys=(*query.return_keys, ReturnKey(key.attribute)))
        matches = list(islice(queries.matches(fewer, Cancellation()), MOST_WITHOUT))
        name = key.attribute.keyword or f"({key.attribute.tag:08X})"
        numbers[name] = len(matches)
        texts = (text for each in matches for text in View.of(each.data_set(fewer)).texts(key.attribute))
        if text := find_near_miss(key, texts):
            differs[name] = printable(text, LONGEST)
    return numbers, differs


def _read(request: ExplainRequest) -> IdentifierReport:
    return identifier_report.make_report(request.dataset, request.model, request.manner, request.negotiated)


# --- as text ------------------------------------------------------------------------------------------------------


def _keys(report: IdentifierReport) -> Iterator[ExplainedKey]:
    places: dict[str, str] = {}
    for part in report.parts:
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


def _notes(request: ExplainRequest, report: IdentifierReport) -> Iterator[str]:
    """Yield remarks on the whole query."""
    query = report.query
    if query is None:
        return
    if query.nothing_matches:
        no_keys = not any(part.use in (ElementUse.MATCHED, ElementUse.RETURNED) for part in report.parts)
        why = "the Identifier has no key (F3)" if no_keys else "a range ends before it begins"
        yield f"nothing matches: {why}"
    if not query.keys and not query.combined and not query.nothing_matches:
        yield f"no key restricts the matches: everything at level {query.level.name} matches"
    if query.unknown_matches and query.keys:
        yield "a value that is unknown, zero length or absent, matches every key (C.2.2.1.2)"
    if request.model.operation is not DimseOperation.FIND:
        yield "a retrieve is a query at IMAGE level for the instances"


def _printable(statement: PlannedStatement) -> PlannedStatement:
    """Return a statement with printable texts of limited length."""
    return replace(
        statement,
        sql="\n".join(printable(line, LONGEST_SQL) for line in statement.sql[:LONGEST_SQL].split("\n")),
        parameters=tuple(printable(each, LONGEST) if isinstance(each, str) else each for each in statement.parameters),
        plan=tuple(printable(line, LONGEST_SQL) for line in statement.plan),
    )


def _line(key: ExplainedKey) -> str:
    """Return a key as one line: `PatientName 'DOE*': matched, wild card doe*, in column patient.patient_name`."""
    return f"{key.key} {key.asked!r}: " + ", ".join(filter(None, (key.understood, key.why)))


def _outcome(outcome: RequestOutcome) -> str:
    counts = [f"{name}: {number}" for name, number in outcome.counts.items()]
    return ", ".join(filter(None, (outcome.status, outcome.comment, *counts)))
