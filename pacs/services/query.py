"""Run a `Query`: stream its matches, and read from the stored files the attributes that the index does not have."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, count

from pydicom.dataset import Dataset

from pacs.dicom import header, matching, part10, row_elements
from pacs.dicom.attributes import Kept
from pacs.dicom.levels import QueryLevel
from pacs.dicom.query import Key, Match, Query, for_instance
from pacs.dicom.response_identifier import match_data_set
from pacs.errors import TooManyMatches
from pacs.files.store import ObjectStore
from pacs.index import search
from pacs.index.database import Index
from pacs.services.replaced import read_current
from pacs.support.cancellation import Cancellation


@dataclass(slots=True)  # as `Match`
class QueryMatch:
    """A match, and the attributes that were read from its file; None if none had to be read."""

    match: Match
    from_file: Dataset | None = None

    def matches_in_file(self, keys: tuple[Key, ...], query: Query) -> bool:
        """Whether the attributes from its file match some keys of a query."""
        elements = self.from_file if self.from_file is not None else Dataset()
        return all(matching.matches_dataset(key, elements, query.unknown_matches) for key in keys)

    def data_set(self, query: Query) -> Dataset:
        """Return the attributes that `query` asks for and the unique keys, without those that only C-FIND adds."""
        return match_data_set(self.match, query, self.from_file)


class QueryService:
    """Answers queries from the index and the stored files.

    `page` matches are read from the index at a time. A query checks at most `scan_limit` rows outside of SQL and
    returns at most `max_matches` matches; 0 is no limit. `admit` raises IndexUnavailable while none is answered.
    """

    def __init__(
        self,
        index: Index,
        files: ObjectStore,
        *,
        page: int = search.PAGE,
        scan_limit: int = search.SCAN_LIMIT,
        max_matches: int = 0,
        admit: Callable[[], None] = lambda: None,
    ) -> None:
        self._index = index
        self._files = files
        self._page = page
        self._scan_limit = scan_limit
        self._max_matches = max_matches
        self._admit = admit

    def matches(self, query: Query, cancellation: Cancellation) -> Iterator[QueryMatch]:
        """Yield each matching entity at the level of the query once, in the order of its unique key.

        Raises Cancelled, IndexUnavailable, OutOfResources when more than `scan_limit` rows would have to be checked
        outside of SQL, TooManyMatches after `max_matches`, and InstanceUnreadable when a file cannot be read.
        """
        return chain.from_iterable(self.pages(query, cancellation))

    def pages(self, query: Query, cancellation: Cancellation) -> Iterator[Iterator[QueryMatch]]:
        """As `matches`, in pages: the index is read before each, and each has to be consumed before the next."""
        self._admit()
        tags, keys = _in_files(query)
        numbers = count(1)
        for page in search.pages(self._index, query, cancellation, self._page, self._scan_limit):
            matches = self._with_files(page, query, tags, keys, cancellation) if tags else map(QueryMatch, page)
            yield self._limited(matches, numbers) if self._max_matches else matches

    def _limited(self, matches: Iterator[QueryMatch], numbers: Iterator[int]) -> Iterator[QueryMatch]:
        for match, number in zip(matches, numbers, strict=False):
            if number > self._max_matches:
                raise TooManyMatches(f"More than {self._max_matches} matches (limits.query_answers): add a key")
            yield match

    def _with_files(
        self,
        matches: Iterator[Match],
        query: Query,
        tags: frozenset[int],
        keys: tuple[Key, ...],
        cancellation: Cancellation,
    ) -> Iterator[QueryMatch]:
        for match in matches:
            cancellation.check()
            found = self._read_current(match, query, tags, cancellation)
            if found is not None and found.matches_in_file(keys, query):
                yield found

    def _read_current(
        self, match: Match, query: Query, tags: frozenset[int], cancellation: Cancellation
    ) -> QueryMatch | None:
        """Read the file of a match, or of what has replaced it since the page was read; None if that matches no more.

        Row and file of a match are always of one instance.
        """

        def find_again() -> Match | None:
            elements = row_elements.decode(match.kept[QueryLevel.IMAGE])
            only = for_instance(query, elements.SOPInstanceUID)
            return next(search.matches(self._index, only, cancellation), None)

        return read_current(match, lambda each: QueryMatch(each, self._read(each, tags)), find_again)

    def _read(self, match: Match, tags: frozenset[int]) -> Dataset:
        assert match.file_key is not None, "only IMAGE level has attributes in files"
        with self._files.open(match.file_key) as file:
            head = part10.read_file_meta(file)
            file.seek(head.data_offset)
            return header.read_attributes(file, head.transfer_syntax, tags)


def _in_files(query: Query) -> tuple[frozenset[int], tuple[Key, ...]]:
    """Return the tags that a query matches or returns from the files, and the keys among them."""
    keys = tuple(key for key in query.keys if key.attribute.kept is Kept.FILE)
    wanted = (each.attribute for each in query.return_keys if each.attribute.kept is Kept.FILE)
    return frozenset(key.attribute.tag for key in keys) | {attribute.tag for attribute in wanted}, keys
