"""Shows the SQL statements of a `Query` and the plan of the database for them, to explain a query.

It shows the statements with which `pacs.index.search` starts. On SQLite it runs the statement that looks for few start
rows, because its result decides about the next statement.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from sqlalchemy import ClauseElement, Connection
from sqlalchemy.engine import Compiled
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.compiler import SQLCompiler

from pacs.dicom.attributes import Attribute, Kept
from pacs.dicom.query import DateTimeRange, Matching, Query, SoundsLike
from pacs.index import search, statements
from pacs.index.criteria import Condition, columns_of
from pacs.index.database import Index
from pacs.index.search import FEW, FIRST_PAGE, LISTED, StartRows
from pacs.index.tables import SOUNDS, TABLES
from pacs.support.cancellation import Cancellation

WHOLE, ALONG = "reads the whole table", "walks along index"
"""How a plan is described for a table that no index narrows; the index that it walks gives the order of matches."""


@dataclass(frozen=True, slots=True)
class PlannedStatement:
    """A statement: its purpose, text, parameters in order, and query plan.

    `access` has a sentence for each table that it reads, `plan` the lines of the database's plan. `found` is the number
    of rows when it was run, else None.
    """

    purpose: str
    sql: str
    parameters: tuple[object, ...]
    access: tuple[str, ...]
    plan: tuple[str, ...]
    found: int | None = None

    @property
    def is_indexed(self) -> bool:
        """Whether it reads no table and no index completely."""
        return not any(each.endswith(WHOLE) or ALONG in each for each in self.access)

    @property
    def rows_found(self) -> str:
        """The number of rows as text; '' when it was not run."""
        if self.found is None:
            return ""
        many = f"more than {FEW}" if self.found > FEW else str(self.found)
        return f"finds {many} row{'s' * (self.found != 1)}"


def source_of(attribute: Attribute, matching: Matching | DateTimeRange | None) -> str:
    """Return where an attribute is matched, or where its value comes from when it is only returned."""
    if attribute.kept is Kept.COLUMN and matching is not None:
        return "column " + ", ".join(_columns(attribute, matching))
    return _PLACES[attribute.kept]


_PLACES = {
    Kept.COLUMN: "row elements",
    Kept.ROW: "row elements, matched in Python",
    Kept.COMPUTED: "values computed from the index",
    Kept.FILE: "the files",
}


def _columns(attribute: Attribute, matching: Matching | DateTimeRange) -> list[str]:
    if isinstance(matching, DateTimeRange):
        return [str(column) for each in (matching.date, matching.time) for column in columns_of(each)]
    first, *others = columns_of(attribute)
    return (
        [f"{first}{SOUNDS}"] if isinstance(matching, SoundsLike) else [str(first), *(str(each.key) for each in others)]
    )


def of_query(index: Index, query: Query, cancellation: Cancellation) -> tuple[PlannedStatement, ...]:
    """Return the statements for the first matches of a query. Raises IndexUnavailable, Cancelled."""
    parts = list(search.parts(query))
    if not parts:
        return ()
    start_statements, start_rows = _start_rows(index, parts[0], cancellation)
    if start_rows is not None and not start_rows.ids:
        return start_statements  # the search ends here
    of_several = f", for the first of {len(parts)} parts of the list of UID" if len(parts) > 1 else ""
    purpose, statement = _first_statement(index, parts[0], start_rows, cancellation)
    return (*start_statements, _planned(index, f"{purpose}{of_several}", statement))


def _first_statement(
    index: Index, query: Query, start_rows: StartRows | None, cancellation: Cancellation
) -> tuple[str, Any]:
    """Return the purpose and the statement of what is read first after the start rows."""
    with index.interruptible(cancellation) as connection:
        is_quick = search.begins_quickly(connection, query, start_rows)
        conditions = None if is_quick else search.list_conditions(connection, query, start_rows)
    if conditions is not None:
        return "the ids of all candidates", statements.listing(query, None, LISTED, *conditions)
    return f"the first {FIRST_PAGE} candidates", search.page_statement(query, start_rows, None, FIRST_PAGE)


def of_retrieve(index: Index, query: Query, cancellation: Cancellation) -> tuple[PlannedStatement, ...]:
    """Return the statements that select the instances of a retrieve. Raises IndexUnavailable, Cancelled."""
    if query.nothing_matches:
        return ()
    if statements.row_keys(query) or statements.row_ranges(query):
        return of_query(index, query, cancellation)
    start_statements, start_rows = _start_rows(index, query, cancellation)
    selected = statements.stored(*statements.conditions(query), *_start_conditions(start_rows))
    return (*start_statements, _planned(index, "the instances", selected))


def _start_rows(
    index: Index, query: Query, cancellation: Cancellation
) -> tuple[tuple[PlannedStatement, ...], StartRows | None]:
    """Return the statements that look for few start rows, and those rows."""
    start_statements: list[PlannedStatement] = []
    with index.interruptible(cancellation) as connection:
        found = [
            (each, search.start_rows_at(connection, query, each)) for each in search.start_levels(connection, query)
        ]
    for level, start_rows in found:
        purpose = f"start rows: at most {FEW} rows of {TABLES[level].name}"
        rows = FEW + 1 if start_rows is None else len(start_rows.ids)
        start_statements.append(_planned(index, purpose, statements.few_rows(query, level, FEW + 1), rows))
        if start_rows is not None:
            return tuple(start_statements), start_rows
    return tuple(start_statements), None


def _start_conditions(start_rows: StartRows | None) -> list[Condition]:
    return [start_rows.condition] if start_rows is not None else []


# --- one statement -----------------------------------------------------------------------------------------------


class _Explained(Executable, ClauseElement):
    """A statement that returns the plan of another statement."""

    inherit_cache = False

    def __init__(self, statement: Any) -> None:
        self.statement = statement


@compiles(_Explained, "sqlite")
def _for_sqlite(element: _Explained, compiler: SQLCompiler, **kw: Any) -> str:
    return "EXPLAIN QUERY PLAN " + compiler.process(element.statement, **kw)


@compiles(_Explained)
def _for_others(element: _Explained, compiler: SQLCompiler, **kw: Any) -> str:
    return "EXPLAIN " + compiler.process(element.statement, **kw)


def _planned(index: Index, purpose: str, statement: Any, found: int | None = None) -> PlannedStatement:
    with index.read() as connection:
        sql, parameters = _written_out(connection, statement)
        plan = tuple(str(row[-1]) for row in connection.execute(_Explained(statement)))
    return PlannedStatement(purpose, sql, parameters, describe_plan(plan), plan, found)


def _written_out(connection: Connection, statement: Any) -> tuple[str, tuple[object, ...]]:
    """Return the text of a statement for the database, and its parameters in order."""
    compiled: Compiled = statement.compile(dialect=connection.dialect)
    state = compiled.construct_expanded_state()  # type: ignore[attr-defined]
    names: Sequence[str] = state.positiontup or list(state.parameters)
    bound = tuple(_bound(compiled, name, state.parameters[name]) for name in names)
    return re.sub(r" *\n *", "\n", state.statement), bound


def _bound(compiled: Any, name: str, value: object) -> object:
    """Convert a parameter for the database, by its type."""
    place = compiled.binds.get(name)
    translate = place.type.bind_processor(compiled.dialect) if place is not None else None
    return translate(value) if translate is not None else value


_ACCESS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), meaning)
    for pattern, meaning in (
        (r"SCAN (patient)_trigram VIRTUAL TABLE", "{0}: uses the index of trigrams"),
        (r"SEARCH (\w+) USING (?:COVERING )?INDEX (sqlite_autoindex_\w+)", "{0}: uses index {1}, of its unique key"),
        (r"SEARCH (\w+) USING (?:COVERING )?INDEX (\w+)", "{0}: uses index {1}"),
        (r"SEARCH (\w+) USING (?:INTEGER )?PRIMARY KEY", "{0}: uses its primary key"),
        (r"SCAN (\w+) USING (?:COVERING )?INDEX (\w+_irregular)", "{0}: uses index {1}"),
        (r"SCAN (\w+) USING (?:COVERING )?INDEX (\w+)", "{0}: " + ALONG + " {1}"),
        (r"SCAN (\w+)(?:\n|$)", "{0}: " + WHOLE),
        (r"USE TEMP B-TREE FOR ORDER BY", "sorts the rows"),
        (r"[ >-]*Index (?:Only )?Scan (?:Backward )?using (\w+) on (\w+).*\n *Index Cond", "{1}: uses index {0}"),
        (r"[ >-]*Index (?:Only )?Scan (?:Backward )?using (\w+) on (\w+)", "{1}: " + ALONG + " {0}"),
        (r"[ >-]*Bitmap Index Scan on (\w+)", "uses index {0}"),
        (r"[ >-]*(?:Parallel )?Seq Scan on (\w+)", "{0}: " + WHOLE),
        (r"[ >-]*(?:Incremental )?Sort\b", "sorts the rows"),
    )
)
"""The meaning of a plan line together with the next one, of SQLite and PostgreSQL: the first match counts."""


def describe_plan(plan: Sequence[str]) -> tuple[str, ...]:
    """Describe the lines of a plan, each description once."""
    meant = (_meaning(f"{line}\n{following}") for line, following in zip_longest(plan, plan[1:], fillvalue=""))
    return tuple(dict.fromkeys(filter(None, meant)))


def _meaning(lines: str) -> str:
    for pattern, meaning in _ACCESS:
        if fits := pattern.match(lines):
            return meaning.format(*fits.groups())
    return ""
