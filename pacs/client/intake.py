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
from pathlib import Path
from typing import BinaryIO

from pacs.dicom import part10
from pacs.dicom.header import read_header
from pacs.dicom.values import is_uid
from pacs.dimse import status
from pacs.dimse.association import Association
from pacs.dimse.messages import Message
from pacs.dimse.status import Service, refusal
from pacs.errors import (
    AssociationLost,
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

LEVEL_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def path_of(to: Path, study: str, series: str, instance: str) -> Path:
    """Where an instance lies in a folder. Raises MissingUID for what is no UID."""
    if not all(map(is_uid, (study, series, instance))):
        raise MissingUID("Study, Series or SOP Instance UID is missing or not valid")
    return to / study / series / f"{instance}.dcm"


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What has arrived by now: counts of instances and bytes, and when the last one came, on the monotonic clock."""

    received: int
    """Each instance once."""
    answered: int
    """Every C-STORE that was answered with success, and those of instances that nobody asked for."""
    unasked: int
    bytes: int
    last: float

    def are_not(self, others: "Arrivals | None") -> bool:
        """Whether the others are of another moment."""
        return others is None or self.last != others.last


class Intake:
    """Takes instances into a folder, from any number of threads.

    `asked` are the UIDs that may come, by keyword of the level, those of all where a keyword is missing. `rung` is
    called in the thread of an arrival. What is there already is kept, or replaced with `overwrite`.
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
        self._asked = dict(asked or {})
        self._rung = rung
        self._state = threading.Condition()
        self._paths: dict[Path, bool] = {}
        self._bytes = 0
        self._answered = 0
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
            return tuple(path for path, was_there in self._paths.items() if was_there)

    @property
    def arrivals(self) -> Arrivals:
        """The counts at this moment; bytes are counted as they come."""
        with self._state:
            return Arrivals(len(self._paths), self._answered, self._unasked, self._bytes, self._last)

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
            refused = refusal(Service.STORE, error)
            response = request.response(refused.status, error_comment=refused.comment, offending_elements=refused.tags)
        else:
            response = request.response(status.SUCCESS)
        association.send(message.context.id, response)
        self._rung()

    def _receive(self, association: Association, message: Message) -> None:
        """Raises PacsError where the instance cannot be kept."""
        try:
            with self._unfinished() as (file, unfinished):
                self._write(file, association, message)
                path = self._place(file, message)
                self._arrived(path, was_there=not self._put(unfinished, path))
        except OSError as error:
            why = error.strerror or error
            self._fail(StorageUnavailable(f"Cannot write to {self._to}: {why}"))
            raise StorageUnavailable(f"Cannot write what arrives: {why}") from error
        except NotAuthorized:
            with self._state:
                self._unasked += 1
                self._answered += 1
                self._touch()
            raise

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

    def _write(self, file: BinaryIO, association: Association, message: Message) -> None:
        """The whole message into a file; every `STEP` bytes it is rung, for they are a sign of life."""
        command = message.command
        sop_class, instance = command.affected_sop_class_uid or "", command.affected_sop_instance_uid or ""
        if not (is_uid(sop_class) and is_uid(instance)):
            raise MissingUID("The C-STORE request names no valid SOP Instance")
        syntax, sender = message.context.transfer_syntax, association.calling_ae_title
        file.write(part10.head(sop_class, instance, syntax, sender, received_at=time.time_ns() // 1000))
        size = 0
        for fragment in message.fragments():
            size += file.write(fragment)
            if size >= STEP:
                self._came(size)
                self._rung()
                size = 0
        file.flush()
        self._came(size)

    def _place(self, file: BinaryIO, message: Message) -> Path:
        """Where a whole file belongs. Raises UndecodableDataSet, SOPClassMismatch, MissingUID, NotAuthorized."""
        file.seek(0)
        header = read_header(file, part10.read_head(file).transfer_syntax)
        named = message.command.affected_sop_class_uid, message.command.affected_sop_instance_uid
        if (header.sop_class_uid, header.sop_instance_uid) != named:
            raise SOPClassMismatch("The data set is of another SOP Instance than the request")
        uids = (header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid)
        path = path_of(self._to, *uids)
        if any(uid not in self._asked.get(keyword, (uid,)) for keyword, uid in zip(LEVEL_UIDS, uids, strict=True)):
            raise NotAuthorized("Nobody asked for this instance")
        return path

    def _put(self, unfinished: Path, path: Path) -> bool:
        """Give a whole file its name: False where there is one already that is kept."""
        _make(path.parent)
        with self._state:
            if not self._overwrite and path.exists():
                return False
            unfinished.replace(path)
            return True

    def _came(self, size: int) -> None:
        with self._state:
            self._bytes += size
            self._touch()

    def _arrived(self, path: Path, *, was_there: bool) -> None:
        with self._state:
            self._paths.setdefault(path, was_there)
            self._answered += 1
            self._touch()

    def _fail(self, problem: StorageUnavailable) -> None:
        with self._state:
            self._problem = self._problem or problem
            self._touch()

    def _touch(self) -> None:
        """Note that something came; the lock is held."""
        self._last = time.monotonic()
        self._state.notify_all()


def _make(folder: Path) -> None:
    """Make a folder. Raises StorageUnavailable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageUnavailable(f"{folder} cannot be made: {error.strerror or error}") from error
