"""Runs queries: SQL selects pages of candidates, and Python matches the rows that SQL cannot decide about.

Matches are in the byte order of the unique key of the level. Each page is a short transaction of its own, and only one
page is in memory, so that neither many matches nor a slow reader blocks anything.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple

from pydicom import Dataset
from sqlalchemy import Connection, RowMapping, Select

from pacs.dicom import matching, row_elements
from pacs.dicom.attributes import Kept, KeyType
from pacs.dicom.levels import QueryLevel
from pacs.dicom.query import Key, Match, Query, Single
from pacs.errors import OutOfResources
from pacs.index import statement_cache, statements
from pacs.index.computed import COMPUTED, Value, compute
from pacs.index.criteria import Condition
from pacs.index.database import Index, driver_rows
from pacs.index.dialects import among
from pacs.index.statements import ORDER, PER_LEVEL, levels_to
from pacs.index.tables import TABLES, image
from pacs.index.writer import StoredInstance
from pacs.support.cancellation import Cancellation
from pacs.support.chunks import chunks

FIRST_PAGE, GROWTH, PAGE, LARGEST_PAGE = 20, 4, 200, 2000
"""The page sizes in candidates: a small first page, so that the first matches come soon, then larger ones."""
FEW = 10_000
"""SQLite starts a search from the rows of a level when the keys allow at most so many."""
SCAN_LIMIT = 200_000
"""The most candidates that a query may match in Python because of its keys."""
LISTED = 250_000
"""The most ids of candidates in memory: the matches of so many start rows are sorted once, instead of reading all rows
of the level in the order of the matches."""
LIST_PART = 1000
"""The UIDs of a list that one statement has; the parts are in byte order, so that all matches are in order."""


class _Candidate(NamedTuple):
    """A row of a page, with the computed attributes that the query needs."""

    row: Sequence[Any]
    computed: Mapping[str, Value]

    def key(self, level: QueryLevel) -> int:
        """Return the id of its row at a level."""
        return int(self.row[len(PER_LEVEL) * level])

    def kept(self, level: QueryLevel) -> bytes:
        """Return the encoded row elements of its row at a level."""
        found: bytes = self.row[len(PER_LEVEL) * level + 1]
        return found

    def is_irregular(self, level: QueryLevel) -> bool:
        """Whether its row at a level is irregular."""
        return bool(self.row[len(PER_LEVEL) * level + 2])

    def unique_key(self, level: QueryLevel) -> tuple[str, ...]:
        """Return the unique key of a level, by which matches are ordered."""
        return tuple(self.row[-len(ORDER[level]) :])


def matches(
    index: Index, query: Query, cancellation: Cancellation, page: int = PAGE, scan_limit: int = SCAN_LIMIT
) -> Iterator[Match]:
    """Yield the entities at the query's level that match all its keys, each once, in byte order of their unique key.

    The caller matches keys on attributes that are only in the files (`Kept.FILE`). Raises Cancelled, IndexUnavailable,
    and OutOfResources when more than `scan_limit` rows would have to be matched in Python.
    """
    return chain.from_iterable(pages(index, query, cancellation, page, scan_limit))


def pages(
    index: Index, query: Query, cancellation: Cancellation, page: int = PAGE, scan_limit: int = SCAN_LIMIT
) -> Iterator[Iterator[Match]]:
    """Yield the same as `matches` in pages; each must be consumed before the next, which queries the index again."""
    keywords = [each.attribute.keyword for each in query.return_keys if each.attribute.kept is Kept.COMPUTED]
    levels, end = levels_to(query.level), len(PER_LEVEL) * (query.level + 1)
    file_key = end if query.level is QueryLevel.IMAGE else None

    def match(candidate: _Candidate) -> Match:
        row, computed = candidate
        return Match(
            query.level,
            dict(zip(levels, row[1 : end : len(PER_LEVEL)], strict=True)),
            {name: computed[name] for name in keywords if name in computed},
            None if file_key is None else row[file_key],
        )

    for candidates in _selected(index, query, cancellation, page, scan_limit):
        yield map(match, candidates)


def instances(index: Index, query: Query, cancellation: Cancellation, limit: int | None = None) -> list[StoredInstance]:
    """Return the instances of a query at IMAGE level, at most `limit`.

    They are ordered by study, series, instance number and SOP Instance UID. Raises Cancelled, IndexUnavailable,
    OutOfResources (as `matches`).
    """
    if query.nothing_matches:
        return []
    if _needs_matching(index, query, cancellation):
        ids = _ids(index, query, QueryLevel.IMAGE, cancellation)
        chosen = statements.stored(among(image.c.id, sorted(ids)))
    else:
        chosen = statements.stored(*statements.conditions(query), *_start_conditions(index, query, cancellation))
    return [StoredInstance(*row.values()) for row in _all(index, chosen.limit(limit), cancellation)]


def count(index: Index, query: Query, level: QueryLevel, cancellation: Cancellation) -> int:
    """Count the entities at `level`, that of the query or one above it, that match. Raises as `instances`."""
    if query.nothing_matches:
        return 0
    if _needs_matching(index, query, cancellation):
        return len(_ids(index, query, level, cancellation))
    start_conditions = _start_conditions(index, query, cancellation)
    (row,) = _all(index, statements.number_of(query, level, *start_conditions), cancellation)
    return int(next(iter(row.values())))


# --- pages -------------------------------------------------------------------------------------------------------


def _selected(
    index: Index, query: Query, cancellation: Cancellation, page: int = PAGE, scan_limit: int = SCAN_LIMIT
) -> Iterator[Iterator[_Candidate]]:
    """Yield the candidates that match, page by page."""
    matcher = _RowMatcher(query)
    for candidates in _pages(index, query, cancellation, page):
        scan_limit -= len(candidates) if matcher.matches_all else 0
        if scan_limit < 0:
            raise OutOfResources("too many candidates: add a key that narrows the query")
        yield _accepted(candidates, matcher, cancellation)


def _accepted(candidates: list[_Candidate], matcher: "_RowMatcher", cancellation: Cancellation) -> Iterator[_Candidate]:
    for candidate in candidates:
        cancellation.check()
        if matcher.accepts(candidate):
            yield candidate


def _pages(index: Index, query: Query, cancellation: Cancellation, page: int) -> Iterator[list[_Candidate]]:
    for part in parts(query):
        yield from _pages_of_part(index, part, cancellation, page)


def _pages_of_part(index: Index, query: Query, cancellation: Cancellation, page: int) -> Iterator[list[_Candidate]]:
    """Yield the first page at once where that is quick, and the others from a list where walking would be slow."""
    limit = min(FIRST_PAGE, page)
    with index.interruptible(cancellation) as connection:
        start_rows = _start_rows(connection, query)
        is_quick = begins_quickly(connection, query, start_rows)
        position = _PagePosition(start_rows, None, limit)
        first = _candidates(connection, query, position) if is_quick else []
    if is_quick:
        yield first
        if len(first) < limit:
            return
        position = _PagePosition(None, first[-1].unique_key(query.level), _next_limit(limit, page))
    with index.interruptible(cancellation) as connection:
        conditions = list_conditions(connection, query, start_rows)
    if conditions is None:
        yield from _walked_pages(index, query, position, cancellation, page)
    else:
        yield from _listed_pages(index, query, position, conditions, cancellation)


def begins_quickly(connection: Connection, query: Query, start_rows: "StartRows | None") -> bool:
    """Whether the first matches are found without reading many rows.

    That is so from few start rows. With many, a walk in the order of the matches finds one soon, unless keys of several
    levels exclude most of them.
    """
    if start_rows is not None:
        return len(start_rows.ids) <= LARGEST_PAGE
    return len(start_levels(connection, query)) <= 1


def _walked_pages(
    index: Index, query: Query, position: "_PagePosition", cancellation: Cancellation, page: int
) -> Iterator[list[_Candidate]]:
    """Yield pages in the order of the unique key, each from where the last one ended."""
    while True:
        candidates = _page(index, query, position, cancellation)
        yield candidates
        if len(candidates) < position.limit:
            return
        after = candidates[-1].unique_key(query.level)
        position = _PagePosition(None, after, _next_limit(position.limit, page))


def _listed_pages(
    index: Index, query: Query, position: "_PagePosition", conditions: list[Condition], cancellation: Cancellation
) -> Iterator[list[_Candidate]]:
    """Yield pages of candidates whose ids were listed before.

    Each page checks all conditions and the order again, because a row may have changed since, and the id of a removed
    row may be that of another one.
    """
    after, limit, listed = position.after, position.limit, LISTED
    while listed == LISTED:
        ids = _listed(index, query, after, conditions, cancellation)
        listed, at = len(ids), 0
        while at < listed:
            chunk = tuple(ids[at : at + limit])
            candidates = _page(index, query, _PagePosition(StartRows(query.level, chunk), after, limit), cancellation)
            yield candidates
            after = candidates[-1].unique_key(query.level) if candidates else after
            at, limit = at + len(chunk), max(limit, LARGEST_PAGE if limit >= FIRST_PAGE else limit)


def _listed(
    index: Index, query: Query, after: tuple[str, ...] | None, conditions: list[Condition], cancellation: Cancellation
) -> "array[int]":
    """Return the ids of the next `LISTED` candidates, in the order of their unique key."""
    with index.interruptible(cancellation) as connection:
        rows = connection.execute(statements.listing(query, after, LISTED, *conditions))
        return array("q", (row_id for (row_id,) in rows))


def _next_limit(limit: int, page: int) -> int:
    return min(GROWTH * limit, page) if limit < page else max(page, min(2 * limit, LARGEST_PAGE))


def _page(index: Index, query: Query, position: "_PagePosition", cancellation: Cancellation) -> list[_Candidate]:
    with index.interruptible(cancellation) as connection:
        return _candidates(connection, query, position)


def _candidates(connection: Connection, query: Query, position: "_PagePosition") -> list[_Candidate]:
    """Return the candidates of a page with their computed attributes, all from one snapshot of the index."""
    if position.start_rows is not None and not position.start_rows.ids:
        return []
    rows = _rows(connection, query, position)
    keywords = _needed(query)
    if not rows or not keywords:
        return [_Candidate(row, _NOTHING) for row in rows]
    columns = [_computed(connection, keyword, rows) for keyword in keywords]
    values = (dict(zip(keywords, each, strict=True)) for each in zip(*columns, strict=True))
    return list(map(_Candidate, rows, values))


def _computed(connection: Connection, keyword: str, rows: list[Any]) -> list[Value]:
    """Return the value of a computed attribute for each row."""
    attribute = COMPUTED[keyword]
    ids = [row[len(PER_LEVEL) * attribute.level] for row in rows]
    values, none = compute(connection, keyword, sorted(set(ids))), attribute.none
    return [values.get(row_id, none) for row_id in ids]


_NOTHING: Mapping[str, Value] = MappingProxyType({})
"""No computed attributes."""


def _rows(connection: Connection, query: Query, position: "_PagePosition") -> list[Any]:
    start_rows, limit = position.start_rows, position.limit
    if position.after is None and start_rows is None:
        return statement_cache.execute(connection, statements.page, query, None, limit)
    if position.after is None and start_rows is not None and len(start_rows.ids) == 1:
        return statement_cache.execute(
            connection, statements.page_of, query, start_rows.level, limit, row_id=start_rows.ids[0]
        )
    return driver_rows(connection.execute(page_statement(query, start_rows, position.after, limit)))


def page_statement(
    query: Query, start_rows: "StartRows | None", after: tuple[str, ...] | None, limit: int
) -> Select[Any]:
    """Return the statement of a page: the next `limit` candidates after a unique key, among the start rows."""
    if start_rows is None:
        return statements.page(query, after, limit)
    if after is None and len(start_rows.ids) == 1:
        return statements.page_of(query, start_rows.level, limit, start_rows.ids[0])
    return statements.page_among(query, after, limit, start_rows.condition)


@dataclass(frozen=True, slots=True)
class StartRows:
    """The few rows of one level that contain all matches of a query."""

    level: QueryLevel
    ids: tuple[int, ...]

    @property
    def condition(self) -> Condition:
        """The condition that selects these rows."""
        return among(TABLES[self.level].c.id, self.ids)


@dataclass(frozen=True, slots=True)
class _PagePosition:
    """The position of a page: the next `limit` candidates after the unique key `after`, among the start rows."""

    start_rows: StartRows | None
    after: tuple[str, ...] | None
    limit: int


def _start_rows(connection: Connection, query: Query) -> StartRows | None:
    """Return the rows of a level with which SQLite starts, when its keys allow only few; else None."""
    for level in start_levels(connection, query):
        start_rows = start_rows_at(connection, query, level)
        if start_rows is not None:
            return start_rows
    return None


def start_levels(connection: Connection, query: Query) -> Sequence[QueryLevel]:
    """Return the levels at which few start rows may exist, the best first.

    PostgreSQL chooses by its statistics. SQLite would read all rows in the order of the matches when a condition has
    irregular rows pass; given the ids of the start rows, it starts with those.
    """
    is_sqlite = connection.dialect.name == "sqlite"
    if not is_sqlite or any(key.attribute.key is KeyType.UNIQUE and _is_exact(key) for key in query.keys):
        return ()
    return statements.levels_with_irregular_rows(query)


def start_rows_at(connection: Connection, query: Query, level: QueryLevel) -> StartRows | None:
    """Return the rows at a level that its keys allow, None if there are many."""
    found = statement_cache.execute(connection, statements.few_rows, query, level, FEW + 1)
    if len(found) > FEW:
        return None
    return StartRows(level, tuple(sorted({row_id for (row_id,) in found})))


def list_conditions(connection: Connection, query: Query, start_rows: StartRows | None) -> list[Condition] | None:
    """Return the conditions with which to list the candidates; None to walk through all rows in their order."""
    if start_rows is not None:
        return [start_rows.condition]
    counts = {level: _number_of_start_rows(connection, query, level) for level in start_levels(connection, query)}
    level = min(counts, key=lambda each: counts[each], default=None)
    if level is None or counts[level] > LISTED:
        return None
    return [TABLES[level].c.id.in_(statements.start_rows(query, level))]


def _number_of_start_rows(connection: Connection, query: Query, level: QueryLevel) -> int:
    """Return the number of rows at a level that its keys allow; at most one more than `LISTED`."""
    return int(connection.execute(statements.number_of_start_rows(query, level, LISTED + 1)).scalar_one())


def _start_conditions(index: Index, query: Query, cancellation: Cancellation) -> list[Condition]:
    with index.interruptible(cancellation) as connection:
        start_rows = _start_rows(connection, query)
    return [start_rows.condition] if start_rows is not None else []


def parts(query: Query) -> Iterator[Query]:
    """Yield the query with its list of UIDs at its level split into parts, in byte order."""
    if query.nothing_matches:
        return
    for at, key in enumerate(query.keys):
        if key.attribute.keyword == query.level.unique_key and _is_exact(key) and isinstance(key.matching, Single):
            values = sorted({str(value) for value in key.matching.accepted}, key=str.encode)
            for chunk in chunks(values, LIST_PART):
                part = Key(key.attribute, Single(tuple(chunk)))
                yield replace(query, keys=(*query.keys[:at], part, *query.keys[at + 1 :]))
            return
    yield query


def _needed(query: Query) -> set[str]:
    """Return the computed attributes that the query needs, of its level and those above."""
    attributes = [*(each.attribute for each in query.return_keys), *(key.attribute for key in query.keys)]
    return {each.keyword for each in attributes if each.kept is Kept.COMPUTED and each.level <= query.level}


def _ids(index: Index, query: Query, level: QueryLevel, cancellation: Cancellation) -> set[int]:
    """Return the ids of the rows at `level` of all matches, with each candidate matched."""
    found = chain.from_iterable(_selected(index, query, cancellation))
    return {candidate.key(level) for candidate in found}


def _needs_matching(index: Index, query: Query, cancellation: Cancellation) -> bool:
    """Whether candidates of the query must be matched in Python."""
    if statements.row_keys(query) or statements.row_ranges(query):
        return True
    if statements.is_decided_by_sql(query):
        return False
    start_conditions = _start_conditions(index, query, cancellation)
    (row,) = _all(index, statements.has_irregular(query, *start_conditions), cancellation)
    return bool(next(iter(row.values())))


def _all(index: Index, statement: Select[Any], cancellation: Cancellation) -> list[RowMapping]:
    with index.interruptible(cancellation) as connection:
        return list(connection.execute(statement).mappings())


# --- matching rows --------------------------------------------------------------------------------------------------


class _RowMatcher:
    """Matches candidates by the keys that their columns cannot decide (`pacs.dicom.matching`)."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._levels, self._end = levels_to(query.level), len(PER_LEVEL) * (query.level + 1)
        self._row_keys, self._row_ranges = statements.row_keys(query), statements.row_ranges(query)
        self._last: dict[QueryLevel, tuple[bytes, Dataset]] = {}
        self.matches_all = bool(self._row_keys or self._row_ranges)

    def accepts(self, candidate: _Candidate) -> bool:
        """Whether a candidate matches all keys that SQL did not decide about."""
        query = self._query
        if not self.matches_all and not any(candidate.row[2 : self._end : len(PER_LEVEL)]):
            return True
        irregular = {level for level in self._levels if candidate.is_irregular(level)}
        keys = [*self._row_keys, *(key for key in query.keys if _is_column(key) and key.attribute.level in irregular)]
        ranges = [*self._row_ranges, *(each for each in query.combined if each.date.level in irregular)]
        concerned = {key.attribute.level for key in keys} | {each.date.level for each in ranges}
        elements = {level: self._decoded(level, candidate.kept(level)) for level in concerned}
        unknown = query.unknown_matches
        return all(matching.matches(key, elements, candidate.computed, unknown) for key in keys) and all(
            matching.matches_combined(each, elements, unknown) for each in ranges
        )

    def _decoded(self, level: QueryLevel, blob: bytes) -> Dataset:
        """Decode the elements of a row; successive candidates often share the rows of levels above."""
        last = self._last.get(level)
        if last is None or last[0] != blob:
            last = self._last[level] = (blob, row_elements.decode(blob))
        return last[1]


def _is_column(key: Key) -> bool:
    return key.attribute.kept is Kept.COLUMN


def _is_exact(key: Key) -> bool:
    return key.attribute.keyword in statements.EXACT
