"""Writes arriving instances to files: each is streamed to a partial file, which is renamed when it is complete.

The file is `<to>/<Study Instance UID>/<Series Instance UID>/<SOP Instance UID>.dcm`, made only of valid UIDs; nothing
else that a peer sends becomes part of a path.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from pacs.client.receive.senders import MAX_REFUSALS
from pacs.client.receive.uid_peek import (
    INSTANCE,
    PEEK_BYTES,
    SERIES,
    STUDY,
    instance_uid_of,
    is_same_instance,
    peek_uids,
)
from pacs.dicom import part10
from pacs.dicom.header import Header, read_attributes, read_header
from pacs.dicom.values import is_uid
from pacs.dimse.association.association import Association
from pacs.dimse.messages import status
from pacs.dimse.messages.message import Buffer, Message
from pacs.dimse.messages.status import Service, refusal
from pacs.errors import (
    AssociationLost,
    InstanceConflict,
    MissingUID,
    NotAuthorized,
    PacsError,
    SOPClassMismatch,
    StorageUnavailable,
)

_LOG = logging.getLogger("pacs")

PROGRESS_BYTES = 1 << 20
"""Bytes of a data set between two signs of progress."""

PARTIAL_PREFIX = ".arriving-"
"""Prefix of the names of partial files."""

LEVEL_UIDS = STUDY, SERIES, INSTANCE


def path_of(to: Path, study: str, series: str, instance: str) -> Path:
    """Return the path of an instance in a folder. Raises MissingUID for an invalid UID."""
    if not all(map(is_uid, (study, series, instance))):
        raise MissingUID("Study, Series or SOP Instance UID is missing or not valid")
    return to / study / series / f"{instance}.dcm"


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Counts of what has arrived, and the time of the last progress (monotonic clock)."""

    received: int
    """Number of requested instances, each counted once."""
    repeated: int
    """Number of repetitions with the same content on the same association."""
    unasked: int
    """Number of instances that were refused because they were not requested."""
    refused: int
    """Number of instances that were refused for other reasons."""
    bytes: int
    last: float

    def differ_from(self, others: "Arrivals | None") -> bool:
        """Return whether anything has happened since the other counts."""
        return others is None or self.last != others.last


@dataclass(frozen=True, slots=True)
class _ReceivedFile:
    """A file that is complete: whether it existed before, and the association that brought it."""

    existed: bool
    association: str


class StoreSCP:
    """Writes instances to a folder, from any number of threads.

    `requested` are the UIDs that may arrive, by keyword of the level; a missing keyword allows all UIDs, None allows
    every instance. `on_arrival` is called in the thread of the arrival. Existing files are kept, or replaced with
    `overwrite`; a file that arrived just now is replaced only if `requested` is None.
    """

    def __init__(
        self,
        to: Path,
        *,
        overwrite: bool = False,
        requested: Mapping[str, frozenset[str]] | None = None,
        on_arrival: Callable[[], None] = lambda: None,
    ) -> None:
        self._to = to
        self._overwrite = overwrite
        self._replaces = overwrite and requested is None
        self._requested = dict(requested or {})
        self._on_arrival = on_arrival
        self._state = threading.Condition()
        self._paths: dict[Path, _ReceivedFile] = {}
        self._uids: set[str] = set()
        self._conflicts: dict[str, None] = {}
        self._refusals: dict[str, tuple[str, int]] = {}
        """The UID of the first refused instance and the number of instances, by reason."""
        self._bytes = 0
        self._repeated = 0
        self._unasked = 0
        self._refused = 0
        self._last = time.monotonic()
        self._problem: StorageUnavailable | None = None
        _make_folder(to)

    # --- state ----------------------------------------------------------------------------------------------------

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of all instances that have arrived, in order of arrival, without duplicates."""
        with self._state:
            return tuple(self._paths)

    @property
    def uids(self) -> frozenset[str]:
        """The SOP Instance UIDs of `paths`."""
        return frozenset(path.stem for path in self.paths)

    @property
    def skipped(self) -> tuple[Path, ...]:
        """The files that existed before and were kept."""
        with self._state:
            return tuple(path for path, arrived in self._paths.items() if arrived.existed)

    @property
    def conflicts(self) -> tuple[str, ...]:
        """The UIDs of instances that arrived twice with different content; the first one is kept."""
        with self._state:
            return tuple(self._conflicts)

    @property
    def refusals(self) -> str:
        """The reasons for which instances were refused, with the first instance of each, '' if there were none."""
        with self._state:
            return "; ".join(f"{_named(*refused)} refused here: {why}" for why, refused in self._refusals.items())

    @property
    def arrivals(self) -> Arrivals:
        """The current counts; bytes are counted while they arrive."""
        with self._state:
            return Arrivals(len(self._paths), self._repeated, self._unasked, self._refused, self._bytes, self._last)

    def check(self) -> None:
        """Raise StorageUnavailable if an instance could not be written to the folder."""
        if self._problem is not None:
            raise self._problem

    def wait_for(self, condition: Callable[[Arrivals], bool], timeout: float) -> bool:
        """Wait at most `timeout` seconds until a condition holds for the counts; return whether it holds."""
        deadline = time.monotonic() + timeout
        while not condition(self.arrivals):
            with self._state:
                if not self._state.wait(max(0.0, deadline - time.monotonic())):
                    break
        return condition(self.arrivals)

    # --- receiving ------------------------------------------------------------------------------------------------

    def store(self, association: Association, message: Message) -> None:
        """Handle a C-STORE request (PS3.4 B.2): write its instance and respond. Raises AssociationLost."""
        request = message.command
        try:
            self._receive(association, message)
        except AssociationLost:
            raise
        except PacsError as error:
            message.drain()
            self._add_refusal(request.affected_sop_instance_uid or "without UID", error)
            refused = refusal(Service.STORE, error)
            response = request.response(refused.status, error_comment=refused.comment, offending_elements=refused.tags)
        else:
            response = request.response(status.SUCCESS)
        association.send(message.context.id, response)

    def _add_refusal(self, uid: str, error: PacsError) -> None:
        _LOG.info("instance %s refused: %s", uid, error.comment)
        with self._state:
            self._refused += not isinstance(error, NotAuthorized)
            if error.comment in self._refusals or len(self._refusals) < MAX_REFUSALS:
                first, count = self._refusals.get(error.comment, (uid, 0))
                self._refusals[error.comment] = first, count + 1

    def _receive(self, association: Association, message: Message) -> None:
        """Write the instance of a request. Raises PacsError if it cannot be kept."""
        fragments = message.fragments()
        try:
            beginning, is_requested = self._read_beginning(message, fragments)
            self._save(association, message, chain((beginning,), fragments), is_requested=is_requested)
        except NotAuthorized:
            with self._state:
                self._unasked += 1
            raise

    def _read_beginning(self, message: Message, fragments: Iterator[Buffer]) -> tuple[bytes, bool]:
        """Return the first bytes of the data set, and whether all requested UIDs are confirmed already.

        Raises MissingUID, and NotAuthorized if the instance was not requested.
        """
        found = instance_uid_of(message.command)
        self._check_requested(found)
        beginning = bytearray()
        if self._requested.keys() - found:
            while len(beginning) < PEEK_BYTES and (fragment := next(fragments, None)) is not None:
                beginning += fragment
            found |= peek_uids(bytes(beginning), message.context.transfer_syntax)
            self._check_requested(found)
        return bytes(beginning), self._requested.keys() <= found.keys()

    def _check_requested(self, found: Mapping[str, str]) -> None:
        """Check the UIDs that are known so far. Raises NotAuthorized."""
        for keyword, uid in found.items():
            if uid not in self._requested.get(keyword, (uid,)):
                raise NotAuthorized(
                    f"This instance is not among those that were asked for; its {keyword} is {uid or 'empty'}"
                )

    def _save(
        self, association: Association, message: Message, pieces: Iterator[Buffer], *, is_requested: bool
    ) -> None:
        """Write an instance to its file. Raises PacsError. An I/O error ends the retrieve only if the instance was
        requested.
        """
        is_new = message.command.affected_sop_instance_uid not in self._uids
        try:
            with self._partial_file() as (file, partial):
                uncounted = self._write(file, association, message, pieces, counts_progress=is_requested and is_new)
                path = self._final_path(file, message)
                self._count(uncounted)
                self._move_into_place(file, partial, path, association.id)
        except OSError as error:
            why = error.strerror or error
            if is_requested:
                self._fail(StorageUnavailable(f"Cannot write to {self._to}: {why}"))
            raise StorageUnavailable(f"Cannot write the instance: {why}") from error

    @contextmanager
    def _partial_file(self) -> Iterator[tuple[BinaryIO, Path]]:
        """Yield a new file in the folder, and remove it afterwards unless it was renamed."""
        path = self._to / f"{PARTIAL_PREFIX}{uuid.uuid4().hex}"
        with path.open("xb+") as file:
            try:
                yield file, path
            finally:
                with suppress(OSError):
                    path.unlink()

    def _write(
        self,
        file: BinaryIO,
        association: Association,
        message: Message,
        pieces: Iterator[Buffer],
        *,
        counts_progress: bool,
    ) -> int:
        """Write the whole message; return the bytes not counted yet. With `counts_progress`, count every
        `PROGRESS_BYTES`.
        """
        named, syntax = instance_uid_of(message.command), message.context.transfer_syntax
        sop_class = message.command.affected_sop_class_uid or ""
        sender, now = association.calling_ae_title, time.time_ns() // 1000
        file.write(part10.build_file_meta(sop_class, named[INSTANCE], syntax, sender, received_at=now))
        size = 0
        for piece in pieces:
            size += file.write(piece)
            if counts_progress and size >= PROGRESS_BYTES:
                self._count(size, is_progress=True)
                size = 0
        file.flush()
        return size

    def _final_path(self, file: BinaryIO, message: Message) -> Path:
        """Return the path of a complete file.

        Raises UndecodableDataSet, SOPClassMismatch, MissingUID, NotAuthorized.
        """
        header = _header_of(file)
        named = message.command.affected_sop_class_uid, message.command.affected_sop_instance_uid
        if (header.sop_class_uid, header.sop_instance_uid) != named:
            raise SOPClassMismatch(
                "The data set and the request name different SOP Instances; the data set is "
                f"{header.sop_instance_uid} of SOP Class {header.sop_class_uid}"
            )
        uids = (header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid)
        path = path_of(self._to, *uids)
        self._check_requested(dict(zip(LEVEL_UIDS, uids, strict=True)))
        return path

    def _move_into_place(self, file: BinaryIO, partial: Path, path: Path, association: str) -> None:
        """Rename a complete file, unless an existing one is kept. Raises InstanceConflict, OSError."""
        _make_folder(path.parent)
        with self._state:
            is_there, before = path.exists(), self._paths.get(path)
            if is_there and before is not None and not self._replaces:
                self._count_repeat(file, path, before, association)
                return
            if self._overwrite or not is_there:
                partial.replace(path)
            self._paths.setdefault(path, _ReceivedFile(is_there and not self._overwrite, association))
            self._uids.add(path.stem)
            self._note_progress()

    def _count_repeat(self, file: BinaryIO, path: Path, before: _ReceivedFile, association: str) -> None:
        """Count a repeated instance; the lock is held. Raises OSError, and InstanceConflict if its content differs."""
        if not before.existed and not is_same_instance(file, path):
            self._conflicts[path.stem] = None
            raise InstanceConflict("The instance has already arrived with different content")
        if association == before.association:
            self._repeated += 1
            self._note_progress()

    def _count(self, size: int, *, is_progress: bool = False) -> None:
        """Count received bytes, optionally as progress."""
        with self._state:
            self._bytes += size
            if is_progress:
                self._note_progress()

    def _fail(self, problem: StorageUnavailable) -> None:
        with self._state:
            self._problem = self._problem or problem
            self._note_progress()

    def _note_progress(self) -> None:
        """Record progress: a requested instance arrived, or cannot arrive any more; the lock is held."""
        self._last = time.monotonic()
        self._state.notify_all()
        self._on_arrival()


def _named(uid: str, count: int) -> str:
    """Return the subject of a sentence about refused instances."""
    return f"instance {uid} was" if count == 1 else f"{count} instances, such as {uid}, were"


def _header_of(file: BinaryIO) -> Header:
    """Return the header of a complete file. Raises UndecodableDataSet, and MissingUID with the invalid values."""
    file.seek(0)
    syntax = part10.read_file_meta(file).transfer_syntax
    start = file.tell()
    try:
        return read_header(file, syntax)
    except MissingUID as error:
        file.seek(start)
        values = [str(each.value) for each in read_attributes(file, syntax, error.tags) if each.value]
        found = f"; found {', '.join(map(repr, values))}" if values else ""
        raise MissingUID(f"{error.comment}{found}", error.tags) from error


def _make_folder(folder: Path) -> None:
    """Create a folder. Raises StorageUnavailable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageUnavailable(f"Cannot create the folder {folder}: {error.strerror or error}") from error
