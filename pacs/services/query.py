"""Run a `Query`: stream its matches, and read from the stored files what the index does not keep."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count

from pydicom.dataset import Dataset

from pacs.dicom import header, matching, part10
from pacs.dicom.attributes import Kept
from pacs.dicom.query import Key, Match, Query
from pacs.errors import TooManyMatches
from pacs.files.store import FileStore
from pacs.index import search
from pacs.index.database import Index
from pacs.support.cancellation import Cancellation


@dataclass(frozen=True, slots=True)
class Answer:
    """A match, with the attributes that had to be read from its file (None where there was no need)."""

    match: Match
    from_file: Dataset | None = None


class QueryService:
    """Questions to the archive, for any mouth.

    `page` matches are read from the index at a time; at most `scan_limit` rows of one query are judged one by one, and
    at most `most` are answered, all where that is 0.
    """

    def __init__(
        self,
        index: Index,
        files: FileStore,
        *,
        page: int = search.PAGE,
        scan_limit: int = search.SCAN_LIMIT,
        most: int = 0,
    ) -> None:
        self._index = index
        self._files = files
        self._page = page
        self._scan_limit = scan_limit
        self._most = most

    def answers(self, query: Query, cancellation: Cancellation) -> Iterator[Answer]:
        """Every entity at the query's level that matches it, once, in the order of the unique key.

        Raises Cancelled when the cancellation comes, IndexUnavailable when the index does not answer, OutOfResources
        when too many rows would have to be judged one by one, TooManyMatches after the last that is answered, and
        InstanceUnreadable when an attribute asked for at IMAGE level stands in a file that cannot be read.
        """
        return chain.from_iterable(self.pages(query, cancellation))

    def pages(self, query: Query, cancellation: Cancellation) -> Iterator[Iterator[Answer]]:
        """As `answers`, in portions between which the index is asked; each is to be used up before the next."""
        tags, keys = _in_files(query)
        numbers = count(1)
        for page in search.pages(self._index, query, cancellation, self._page, self._scan_limit):
            answers = self._from_files(page, query, tags, keys, cancellation) if tags else map(Answer, page)
            yield self._bounded(answers, numbers) if self._most else answers

    def _bounded(self, answers: Iterator[Answer], numbers: Iterator[int]) -> Iterator[Answer]:
        for answer, number in zip(answers, numbers, strict=False):
            if number > self._most:
                raise TooManyMatches(f"More than {self._most} matches (limits.query_answers): ask more exactly")
            yield answer

    def _from_files(
        self,
        matches: Iterator[Match],
        query: Query,
        tags: frozenset[int],
        keys: tuple[Key, ...],
        cancellation: Cancellation,
    ) -> Iterator[Answer]:
        for match in matches:
            cancellation.check()
            found = self._read(match, tags)
            if all(matching.matches_dataset(key, found, query.unknown_matches) for key in keys):
                yield Answer(match, found)

    def _read(self, match: Match, tags: frozenset[int]) -> Dataset:
        assert match.file_key is not None, "only IMAGE level has attributes in files"
        with self._files.open(match.file_key) as file:
            head = part10.read_file_meta(file)
            file.seek(head.data_offset)
            return header.read_attributes(file, head.transfer_syntax, tags)


def _in_files(query: Query) -> tuple[frozenset[int], tuple[Key, ...]]:
    """The tags a query needs from the files, to match or to return, and the keys among them."""
    keys = tuple(key for key in query.keys if key.attribute.kept is Kept.FILE)
    wanted = (each.attribute for each in query.requested if each.attribute.kept is Kept.FILE)
    return frozenset(key.attribute.tag for key in keys) | {attribute.tag for attribute in wanted}, keys
