"""Answers to queries: pages of candidates by SQL, judged row by row where SQL cannot decide.

Answers come in the byte order of the level's unique key. Each page is a short transaction of its own, and only one
page is in memory, so neither the number of answers nor their reader's pace holds anything up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from pydicom import Dataset
from sqlalchemy import Connection, Row, RowMapping, Select

from pacs.dicom import matching, row_elements
from pacs.dicom.attributes import Kept, KeyType
from pacs.dicom.levels import QueryLevel
from pacs.dicom.query import Key, Match, Query, Single
from pacs.errors import OutOfResources
from pacs.index import prepared, statements
from pacs.index.computed import COMPUTED, Value, compute
from pacs.index.criteria import Condition
from pacs.index.database import Index
from pacs.index.patterns import among
from pacs.index.statements import ORDER, PER_LEVEL, levels_to
from pacs.index.tables import TABLES, image
from pacs.index.writer import StoredInstance
from pacs.support.cancellation import Cancellation
from pacs.support.chunks import chunks

FIRST_PAGE, GROWTH, PAGE, LARGEST_PAGE = 20, 4, 200, 2000
"""How many candidates are read at once: the first answers come soon, and the pages behind them grow."""
FEW = 10_000
"""So many rows of a level or fewer are where SQLite begins a search."""
SCAN_LIMIT = 200_000
"""How many candidates one query may have judged row by row because of its keys."""
LIST_PART = 1000
"""How many UIDs of a list are looked for at once; in byte order, so that the answers of the parts are in order too."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """One row of a page and the computed attributes that the query needs of it."""

    row: Row[Any]
    computed: dict[str, Value]

    def key(self, level: QueryLevel) -> int:
        """The id of its row at a level."""
        return int(self.row[len(PER_LEVEL) * level])

    def kept(self, level: QueryLevel) -> bytes:
        """The kept elements of its row at a level."""
        found: bytes = self.row[len(PER_LEVEL) * level + 1]
        return found

    def is_irregular(self, level: QueryLevel) -> bool:
        """Whether its row at a level is irregular."""
        return bool(self.row[len(PER_LEVEL) * level + 2])

    def unique_key(self, level: QueryLevel) -> tuple[str, ...]:
        """By what the answers at a level are ordered."""
        return tuple(self.row[-len(ORDER[level]) :])


def matches(
    index: Index, query: Query, cancellation: Cancellation, page: int = PAGE, scan_limit: int = SCAN_LIMIT
) -> Iterator[Match]:
    """The entities at the query's level that match all its keys, each once, in the byte order of their unique key.

    Keys on attributes that are only in the files (`Kept.FILE`) are left to the caller. Raises Cancelled,
    IndexUnavailable, and OutOfResources when more than `scan_limit` rows would have to be judged one by one.
    """
    return chain.from_iterable(pages(index, query, cancellation, page, scan_limit))


def pages(
    index: Index, query: Query, cancellation: Cancellation, page: int = PAGE, scan_limit: int = SCAN_LIMIT
) -> Iterator[Iterator[Match]]:
    """The same as `matches`, in portions between which the index is asked; each is to be used up before the next."""
    asked_for = [each.attribute.keyword for each in query.return_keys if each.attribute.kept is Kept.COMPUTED]
    levels = levels_to(query.level)
    for candidates in _selected(index, query, cancellation, page, scan_limit):
        yield (
            Match(
                level=query.level,
                kept={level: candidate.kept(level) for level in levels},
                computed={name: candidate.computed[name] for name in asked_for if name in candidate.computed},
                file_key=candidate.row.file_key if query.level is QueryLevel.IMAGE else None,
            )
            for candidate in candidates
        )


def instances(index: Index, query: Query, cancellation: Cancellation, limit: int | None = None) -> list[StoredInstance]:
    """The instances that a query at IMAGE level selects, by study, series, instance number and SOP Instance UID.

    With `limit` at most so many. Raises Cancelled, IndexUnavailable, OutOfResources (as `matches`).
    """
    if query.nothing_matches:
        return []
    if _is_doubtful(index, query, cancellation):
        ids = _ids(index, query, QueryLevel.IMAGE, cancellation)
        chosen = statements.stored(among(image.c.id, sorted(ids)))
    else:
        chosen = statements.stored(*statements.conditions(query), *_narrowing(index, query, cancellation))
    return [StoredInstance(*row.values()) for row in _all(index, chosen.limit(limit), cancellation)]


def count(index: Index, query: Query, level: QueryLevel, cancellation: Cancellation) -> int:
    """How many entities at `level`, the query's or one above it, the query's keys select. Raises as `instances`."""
    if query.nothing_matches:
        return 0
    if _is_doubtful(index, query, cancellation):
        return len(_ids(index, query, level, cancellation))
    narrowing = _narrowing(index, query, cancellation)
    (row,) = _all(index, statements.number_of(query, level, *narrowing), cancellation)
    return int(next(iter(row.values())))


# --- pages -------------------------------------------------------------------------------------------------------


def _selected(
    index: Index, query: Query, cancellation: Cancellation, page: int = PAGE, scan_limit: int = SCAN_LIMIT
) -> Iterator[Iterator[_Candidate]]:
    """The candidates that are accepted, page by page."""
    judge = _RowMatcher(query)
    for candidates in _pages(index, query, cancellation, page):
        scan_limit -= len(candidates) if judge.judges_all else 0
        if scan_limit < 0:
            raise OutOfResources("too many candidates: add a key that narrows the query")
        yield _accepted(candidates, judge, cancellation)


def _accepted(candidates: list[_Candidate], judge: "_RowMatcher", cancellation: Cancellation) -> Iterator[_Candidate]:
    for candidate in candidates:
        cancellation.check()
        if judge.accepts(candidate):
            yield candidate


def _pages(index: Index, query: Query, cancellation: Cancellation, page: int) -> Iterator[list[_Candidate]]:
    for part in parts(query):
        begin = _beginning(index, part, cancellation)
        after: tuple[str, ...] | None = None
        limit = min(FIRST_PAGE, page)
        while begin is None or begin.ids:
            candidates = _page(index, part, _PagePosition(begin, after, limit), cancellation)
            yield candidates
            if len(candidates) < limit:
                break
            after = candidates[-1].unique_key(query.level)
            limit = _next_limit(limit, page, begin)


def _next_limit(limit: int, page: int, begin: "StartRows | None") -> int:
    """Soon larger; where the candidates are few each page sorts them all again, and there should not be many pages."""
    if begin is not None and limit >= FIRST_PAGE:
        return LARGEST_PAGE
    return min(GROWTH * limit, page) if limit < page else max(page, min(2 * limit, LARGEST_PAGE))


def _page(index: Index, query: Query, place: "_PagePosition", cancellation: Cancellation) -> list[_Candidate]:
    """The candidates of a page with what is computed of them, all seen in one state of the index."""
    with index.read() as connection, index.interrupting(connection, cancellation):
        rows = _rows(connection, query, place)
        computed: list[dict[str, Value]] = [{} for _ in rows]
        for keyword in _needed(query):
            made = COMPUTED[keyword]
            ids = [row[len(PER_LEVEL) * made.level] for row in rows]
            values = compute(connection, keyword, sorted(set(ids)))
            for each, row_id in zip(computed, ids, strict=True):
                each[keyword] = values.get(row_id, made.none)
    return [_Candidate(*each) for each in zip(rows, computed, strict=True)]


def _rows(connection: Connection, query: Query, place: "_PagePosition") -> Sequence[Row[Any]]:
    begin, limit = place.begin, place.limit
    if place.after is None and begin is None:
        return prepared.execute(connection, statements.page, query, None, limit)
    if place.after is None and begin is not None and len(begin.ids) == 1:
        return prepared.execute(connection, statements.page_of, query, begin.level, limit, row_id=begin.ids[0])
    also = [begin.condition] if begin is not None else []
    return connection.execute(statements.page(query, place.after, limit, *also)).all()


@dataclass(frozen=True, slots=True)
class StartRows:
    """The few rows of one level that a query can only be about."""

    level: QueryLevel
    ids: tuple[int, ...]

    @property
    def condition(self) -> Condition:
        """It is about these."""
        return among(TABLES[self.level].c.id, self.ids)


@dataclass(frozen=True, slots=True)
class _PagePosition:
    """Which page: the next `limit` behind the unique key `after`, of what belongs to a beginning."""

    begin: StartRows | None
    after: tuple[str, ...] | None
    limit: int


def _beginning(index: Index, query: Query, cancellation: Cancellation) -> StartRows | None:
    """On SQLite where to begin, if the keys of some level let through so few rows; None for anywhere."""
    for level in levels_to_begin_with(index, query):
        begin = beginning_at(index, query, level, cancellation)
        if begin is not None:
            return begin
    return None


def levels_to_begin_with(index: Index, query: Query) -> Sequence[QueryLevel]:
    """The levels at which it is worth looking for few rows to begin with, the best first.

    PostgreSQL knows from its statistics where to begin. SQLite would walk through all rows in the order of the answers
    wherever a condition lets irregular rows through; given the ids, it begins with those.
    """
    if not index.is_sqlite or any(key.attribute.key is KeyType.UNIQUE and _is_exact(key) for key in query.keys):
        return ()
    return statements.doubted_levels(query)


def beginning_at(index: Index, query: Query, level: QueryLevel, cancellation: Cancellation) -> StartRows | None:
    """The rows at a level that its keys let through, None if they are not few. Raises IndexUnavailable, Cancelled."""
    with index.read() as connection, index.interrupting(connection, cancellation):
        found = prepared.execute(connection, statements.few, query, level, FEW + 1)
    if len(found) > FEW:
        return None
    return StartRows(level, tuple(sorted({row_id for (row_id,) in found})))


def _narrowing(index: Index, query: Query, cancellation: Cancellation) -> list[Condition]:
    begin = _beginning(index, query, cancellation)
    return [begin.condition] if begin is not None else []


def parts(query: Query) -> Iterator[Query]:
    """The query with its list of UIDs at its own level in parts of bearable length, in byte order."""
    if query.nothing_matches:
        return
    for at, key in enumerate(query.keys):
        if key.attribute.keyword == query.level.unique_key and _is_exact(key) and isinstance(key.matching, Single):
            values = sorted({str(value) for value in key.matching.values}, key=str.encode)
            for chunk in chunks(values, LIST_PART):
                part = Key(key.attribute, Single(tuple(chunk)))
                yield replace(query, keys=(*query.keys[:at], part, *query.keys[at + 1 :]))
            return
    yield query


def _needed(query: Query) -> set[str]:
    """The computed attributes that a page needs, of the query's level and those above."""
    attributes = [*(each.attribute for each in query.return_keys), *(key.attribute for key in query.keys)]
    return {each.keyword for each in attributes if each.kept is Kept.COMPUTED and each.level <= query.level}


def _ids(index: Index, query: Query, level: QueryLevel, cancellation: Cancellation) -> set[int]:
    """The rows at `level` above or of what the query selects, every candidate judged."""
    found = chain.from_iterable(_selected(index, query, cancellation))
    return {candidate.key(level) for candidate in found}


def _is_doubtful(index: Index, query: Query, cancellation: Cancellation) -> bool:
    """Whether the rows that the query lets through have to be judged one by one."""
    if statements.row_keys(query) or statements.row_ranges(query):
        return True
    if statements.needs_no_judge(query):
        return False
    narrowing = _narrowing(index, query, cancellation)
    (row,) = _all(index, statements.has_doubtful(query, *narrowing), cancellation)
    return bool(next(iter(row.values())))


def _all(index: Index, statement: Select[Any], cancellation: Cancellation) -> list[RowMapping]:
    with index.read() as connection, index.interrupting(connection, cancellation):
        return list(connection.execute(statement).mappings())


# --- judging -----------------------------------------------------------------------------------------------------


class _RowMatcher:
    """Decides about single rows what their columns cannot (`pacs.dicom.matching`)."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._levels = levels_to(query.level)
        self._row_keys, self._row_ranges = statements.row_keys(query), statements.row_ranges(query)
        self._last: dict[QueryLevel, tuple[bytes, Dataset]] = {}
        self.judges_all = bool(self._row_keys or self._row_ranges)

    def accepts(self, candidate: _Candidate) -> bool:
        """Whether the row matches all keys that SQL did not decide about."""
        query = self._query
        doubted = {level for level in self._levels if candidate.is_irregular(level)}
        if not doubted and not self.judges_all:
            return True
        keys = [*self._row_keys, *(key for key in query.keys if _is_column(key) and key.attribute.level in doubted)]
        ranges = [*self._row_ranges, *(each for each in query.combined if each.date.level in doubted)]
        concerned = {key.attribute.level for key in keys} | {each.date.level for each in ranges}
        elements = {level: self._decoded(level, candidate.kept(level)) for level in concerned}
        unknown = query.unknown_matches
        return all(matching.matches(key, elements, candidate.computed, unknown) for key in keys) and all(
            matching.matches_combined(each, elements, unknown) for each in ranges
        )

    def _decoded(self, level: QueryLevel, blob: bytes) -> Dataset:
        """The kept elements of a row; neighbours often share those of the levels above."""
        last = self._last.get(level)
        if last is None or last[0] != blob:
            last = self._last[level] = (blob, row_elements.decode(blob))
        return last[1]


def _is_column(key: Key) -> bool:
    return key.attribute.kept is Kept.COLUMN


def _is_exact(key: Key) -> bool:
    return key.attribute.keyword in statements.EXACT
