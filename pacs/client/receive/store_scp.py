"""Where instances arrive: each streams from its association into a file, which gets its name when it is whole.

A file is `<to>/<Study Instance UID>/<Series Instance UID>/<SOP Instance UID>.dcm`, of UIDs that are UIDs: nothing else
of what a peer sent becomes part of a path.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from pacs.client.receive.uid_peek import BEGINNING, INSTANCE, SERIES, STUDY, is_same, named_in, uids_in
from pacs.dicom import part10
from pacs.dicom.header import read_header
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

STEP = 1 << 20
"""Bytes of one data set after which it is told that it goes on."""

UNFINISHED = ".arriving-"
"""How the name of a file begins that is not whole yet."""

LEVEL_UIDS = STUDY, SERIES, INSTANCE


def path_of(to: Path, study: str, series: str, instance: str) -> Path:
    """Where an instance lies in a folder. Raises MissingUID for what is no UID."""
    if not all(map(is_uid, (study, series, instance))):
        raise MissingUID("Study, Series or SOP Instance UID is missing or not valid")
    return to / study / series / f"{instance}.dcm"


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What has arrived by now: counts of instances and bytes, and when the last sign of life came (monotonic clock)."""

    received: int
    """Each instance that was asked for once."""
    repeated: int
    """How often an instance came again, by the same content, on the association that had brought it."""
    unasked: int
    bytes: int
    last: float

    def are_not(self, others: "Arrivals | None") -> bool:
        """Whether the others are of another moment."""
        return others is None or self.last != others.last


@dataclass(frozen=True, slots=True)
class _Arrived:
    """An instance that is there: whether it was there before, and on which association it came."""

    was_there: bool
    association: str


class Intake:
    """Takes instances into a folder, from any number of threads.

    `asked` are the UIDs that may come, by keyword of the level, those of all where a keyword is missing; None is for
    who takes whatever comes. `rung` is called in the thread of an arrival. What is there already is kept, or replaced
    with `overwrite`; what came just now is replaced only where nobody asked for anything.
    """

    def __init__(
        self,
        to: Path,
        *,
        overwrite: bool = False,
        asked: Mapping[str, frozenset[str]] | None = None,
        rung: Callable[[], None] = lambda: None,
    ) -> None:
        self._to = to
        self._overwrite = overwrite
        self._replaces = overwrite and asked is None
        self._asked = dict(asked or {})
        self._rung = rung
        self._state = threading.Condition()
        self._paths: dict[Path, _Arrived] = {}
        self._uids: set[str] = set()
        self._conflicts: dict[str, None] = {}
        self._bytes = 0
        self._repeated = 0
        self._unasked = 0
        self._last = time.monotonic()
        self._problem: StorageUnavailable | None = None
        _make(to)

    # --- what there is ------------------------------------------------------------------------------------------

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file of every instance that has arrived, in order of arrival, each once."""
        with self._state:
            return tuple(self._paths)

    @property
    def skipped(self) -> tuple[Path, ...]:
        """Those that were there before and were kept."""
        with self._state:
            return tuple(path for path, arrived in self._paths.items() if arrived.was_there)

    @property
    def conflicts(self) -> tuple[str, ...]:
        """The UIDs of instances that came twice, with other content the second time: the first is what is kept."""
        with self._state:
            return tuple(self._conflicts)

    @property
    def arrivals(self) -> Arrivals:
        """The counts at this moment; bytes are counted as they come."""
        with self._state:
            return Arrivals(len(self._paths), self._repeated, self._unasked, self._bytes, self._last)

    def check(self) -> None:
        """Raise StorageUnavailable when the folder could not take an instance."""
        if self._problem is not None:
            raise self._problem

    def wait_for(self, condition: Callable[[Arrivals], bool], timeout: float) -> bool:
        """Wait until a condition holds for what has arrived, for at most so many seconds; whether it does."""
        deadline = time.monotonic() + timeout
        while not condition(self.arrivals):
            with self._state:
                if not self._state.wait(max(0.0, deadline - time.monotonic())):
                    break
        return condition(self.arrivals)

    # --- what comes ---------------------------------------------------------------------------------------------

    def store(self, association: Association, message: Message) -> None:
        """Storage as SCP (PS3.4 B.2): take in the instance of a request and answer it. Raises AssociationLost."""
        request = message.command
        try:
            self._receive(association, message)
        except AssociationLost:
            raise
        except PacsError as error:
            message.drain()
            refused = refusal(Service.STORE, error)
            response = request.response(refused.status, error_comment=refused.comment, offending_elements=refused.tags)
        else:
            response = request.response(status.SUCCESS)
        association.send(message.context.id, response)

    def _receive(self, association: Association, message: Message) -> None:
        """Raises PacsError where the instance cannot be kept."""
        fragments = message.fragments()
        try:
            beginning, is_asked = self._beginning(message, fragments)
            self._keep(association, message, chain((beginning,), fragments), is_asked=is_asked)
        except NotAuthorized:
            with self._state:
                self._unasked += 1
            raise

    def _beginning(self, message: Message, fragments: Iterator[Buffer]) -> tuple[bytes, bool]:
        """What has to be read before anything is written, and whether it says already that the instance was asked for.

        Raises MissingUID, and NotAuthorized where it says that it was not.
        """
        found = named_in(message.command)
        self._check(found)
        beginning = bytearray()
        if self._asked.keys() - found:
            while len(beginning) < BEGINNING and (fragment := next(fragments, None)) is not None:
                beginning += fragment
            found |= uids_in(bytes(beginning), message.context.transfer_syntax)
            self._check(found)
        return bytes(beginning), self._asked.keys() <= found.keys()

    def _check(self, found: Mapping[str, str]) -> None:
        """See that an instance was asked for, as far as its UIDs are known. Raises NotAuthorized."""
        if any(uid not in self._asked.get(keyword, (uid,)) for keyword, uid in found.items()):
            raise NotAuthorized("Nobody asked for this instance")

    def _keep(self, association: Association, message: Message, pieces: Iterator[Buffer], *, is_asked: bool) -> None:
        """Have an instance in its file. Raises PacsError; what fails ends all only where the instance was asked for."""
        is_new = message.command.affected_sop_instance_uid not in self._uids
        try:
            with self._unfinished() as (file, unfinished):
                untold = self._write(file, association, message, pieces, tells=is_asked and is_new)
                path = self._place(file, message)
                self._count(untold)
                self._put(file, unfinished, path, association.id)
        except OSError as error:
            why = error.strerror or error
            if is_asked:
                self._fail(StorageUnavailable(f"Cannot write to {self._to}: {why}"))
            raise StorageUnavailable(f"Cannot write what arrives: {why}") from error

    @contextmanager
    def _unfinished(self) -> Iterator[tuple[BinaryIO, Path]]:
        """A new file with a name of our own in the folder, which is gone afterwards unless it was renamed."""
        path = self._to / f"{UNFINISHED}{uuid.uuid4().hex}"
        with path.open("xb+") as file:
            try:
                yield file, path
            finally:
                with suppress(OSError):
                    path.unlink()

    def _write(
        self, file: BinaryIO, association: Association, message: Message, pieces: Iterator[Buffer], *, tells: bool
    ) -> int:
        """The whole message into a file; where it `tells`, every `STEP` bytes are a sign of life. The bytes untold."""
        named, syntax = named_in(message.command), message.context.transfer_syntax
        sop_class = message.command.affected_sop_class_uid or ""
        sender, now = association.calling_ae_title, time.time_ns() // 1000
        file.write(part10.build_file_meta(sop_class, named[INSTANCE], syntax, sender, received_at=now))
        size = 0
        for piece in pieces:
            size += file.write(piece)
            if tells and size >= STEP:
                self._count(size, is_sign=True)
                size = 0
        file.flush()
        return size

    def _place(self, file: BinaryIO, message: Message) -> Path:
        """Where a whole file belongs. Raises UndecodableDataSet, SOPClassMismatch, MissingUID, NotAuthorized."""
        file.seek(0)
        header = read_header(file, part10.read_file_meta(file).transfer_syntax)
        named = message.command.affected_sop_class_uid, message.command.affected_sop_instance_uid
        if (header.sop_class_uid, header.sop_instance_uid) != named:
            raise SOPClassMismatch("The data set is of another SOP Instance than the request")
        uids = (header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid)
        path = path_of(self._to, *uids)
        self._check(dict(zip(LEVEL_UIDS, uids, strict=True)))
        return path

    def _put(self, file: BinaryIO, unfinished: Path, path: Path, association: str) -> None:
        """Give a whole file its name, unless there is one that is kept. Raises InstanceConflict, OSError."""
        _make(path.parent)
        with self._state:
            is_there, before = path.exists(), self._paths.get(path)
            if is_there and before is not None and not self._replaces:
                self._repeat(file, path, before, association)
                return
            if self._overwrite or not is_there:
                unfinished.replace(path)
            self._paths.setdefault(path, _Arrived(is_there and not self._overwrite, association))
            self._uids.add(path.stem)
            self._touch()

    def _repeat(self, file: BinaryIO, path: Path, before: _Arrived, association: str) -> None:
        """Count an instance that came again; the lock is held. Raises InstanceConflict where it is another, OSError."""
        if not before.was_there and not is_same(file, path):
            self._conflicts[path.stem] = None
            raise InstanceConflict("The instance has come already with other content")
        if association == before.association:
            self._repeated += 1
            self._touch()

    def _count(self, size: int, *, is_sign: bool = False) -> None:
        """Count bytes that came, which may be a sign of life."""
        with self._state:
            self._bytes += size
            if is_sign:
                self._touch()

    def _fail(self, problem: StorageUnavailable) -> None:
        with self._state:
            self._problem = self._problem or problem
            self._touch()

    def _touch(self) -> None:
        """Note a sign of life: something came that was asked for, or can be no more; the lock is held."""
        self._last = time.monotonic()
        self._state.notify_all()
        self._rung()


def _make(folder: Path) -> None:
    """Make a folder. Raises StorageUnavailable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageUnavailable(f"{folder} cannot be made: {error.strerror or error}") from error
