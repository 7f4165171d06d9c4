"""The audit log: who stored, queried, retrieved and deleted what, a line of JSON for each. Off where no file is named.

It holds patient data, and is therefore no subscriber to the event stream, whose events hold none: whoever does
something writes his record here. Values of peers are escaped as JSON has it, and nothing but ASCII is written.

What is to be done is never undone for the log's sake: a line that cannot be written is lost, counted and told by
`AuditLost`, and the operation it is about goes on as it would have.
"""

import json
import os
import pwd
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pacs.errors import ConfigurationError
from pacs.observability.events import AuditLost, Event

LONGEST_TEXT, MOST_VALUES = 1024, 1000
"""Characters of one value, and values of one list, in a line; of longer ones the beginning stands there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What an operation was about: UIDs, Patient IDs, and the keys that a request stated."""

    studies: Collection[str] = ()
    patients: Collection[str] = ()
    instances: Collection[str] = ()
    keys: Mapping[str, Any] = field(default_factory=dict)


NOTHING = Subject()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line. `operation` is a DIMSE service such as "C-STORE", or "delete", "export" or "import".

    `outcome` is the class of a status. `status` is the DIMSE status, None where there is none; `comment` says why it
    failed. Of an association the AE titles and the address are known, of a command the user of this machine.
    """

    operation: str
    outcome: str
    subject: Subject
    status: int | None = None
    comment: str = ""
    association: str = ""
    calling_ae_title: str = ""
    called_ae_title: str = ""
    address: str = ""
    user: str | None = None
    level: str = ""
    destination: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


class Auditor:
    """Appends records to the file at `path`, which is made if it is not there; with None it does nothing.

    Several processes may write to one file: each line is one append. Safe to use from many threads.
    """

    def __init__(self, path: Path | None = None, publish: Callable[[Event], None] = lambda _event: None) -> None:
        self._path, self._publish = path, publish
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._has_failed = False

    @property
    def is_on(self) -> bool:
        """Whether records are written at all: whoever has to make an effort for one may ask."""
        return self._path is not None

    def open(self) -> None:
        """Have the file open, for whoever begins something. Raises ConfigurationError when it cannot be had."""
        with self._lock:
            if self._descriptor is None:
                self._descriptor = self._opened()

    def reopen(self) -> None:
        """Go on in the file that has the path now: after it was renamed, or removed, by who rotates logs.

        Raises ConfigurationError when there can be none; what is written goes where it went then.
        """
        opened = self._opened()
        with self._lock:
            before, self._descriptor = self._descriptor, opened
        if before is not None:
            os.close(before)

    def close(self) -> None:
        """Let go of the file. Twice does no harm; a record that comes later opens it again."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor = None

    def write(self, record: Record) -> None:
        """Append one line. One that cannot be written is told, and raises nothing."""
        if self._path is None:
            return
        line = _line(record)
        try:
            self._append(line)
        except (OSError, ConfigurationError) as error:
            why = error.comment if isinstance(error, ConfigurationError) else error.strerror or ""
            repeated, self._has_failed = self._has_failed, True
            self._publish(AuditLost(comment=f"the audit log cannot be written ({why})", repeated=repeated))

    def _append(self, line: bytes) -> None:
        self.open()
        with self._lock:
            if self._descriptor is None:
                raise OSError(0, "it was closed")
            # What failed before may have left a part of a line, which must not be the beginning of this one.
            whole = b"\n" + line if self._has_failed else line
            if os.write(self._descriptor, whole) != len(whole):
                raise OSError(0, "only a part of the line went in")
            self._has_failed = False

    def _opened(self) -> int | None:
        if self._path is None:
            return None
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe may have no reader
        try:
            return os.open(self._path, flags, 0o640)
        except OSError as error:
            why = f"{self._path} cannot be written ({error.strerror})"
            raise ConfigurationError(f"audit.file: {why}; expected a file in a folder we may write to") from error


def local_user() -> str:
    """The name of the user this process runs as: who gave a command on this machine."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _line(record: Record) -> bytes:
    """The record as one line, empty fields left out; `user` always stands there."""
    subject = record.subject
    told = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "operation": record.operation,
        "outcome": record.outcome,
        "status": None if record.status is None else f"0x{record.status:04X}",
        "comment": record.comment,
        "calling_ae_title": record.calling_ae_title,
        "called_ae_title": record.called_ae_title,
        "address": record.address,
        "association": record.association,
        "destination": record.destination,
        "level": record.level,
        "keys": subject.keys,
        "patient_ids": list(subject.patients),
        "study_instance_uids": list(subject.studies),
        "sop_instance_uids": list(subject.instances),
        "counts": dict(record.counts),
    }
    fields = {name: _bounded(value) for name, value in told.items() if value not in (None, "", [], {})}
    return json.dumps(fields | {"user": record.user}).encode("ascii") + b"\n"


def _bounded(value: Any) -> Any:
    """The beginning of a long value, marked by `…` at its end."""
    if isinstance(value, str):
        return value if len(value) <= LONGEST_TEXT else value[:LONGEST_TEXT] + "…"
    if isinstance(value, Mapping):
        return {_bounded(name): _bounded(each) for name, each in list(value.items())[:MOST_VALUES]}
    if isinstance(value, list):
        return [_bounded(each) for each in value[:MOST_VALUES]] + ["…"] * (len(value) > MOST_VALUES)
    return value
