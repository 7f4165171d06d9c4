"""The audit log: who stored, queried, retrieved and deleted what, as one line of JSON for each operation.

It contains patient data, so it does not subscribe to the event stream, whose events have none: services write their
records here. The file is ASCII; JSON escapes other characters.

A record that cannot be written is lost and reported by `AuditLost`; the operation continues.
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
from pacs.support import private

LONGEST_TEXT, MOST_VALUES = 1024, 1000
"""Maximum number of characters of a value, and of values of a list; longer ones are truncated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The subject of an operation: UIDs, Patient IDs, and the keys of a request."""

    studies: Collection[str] = ()
    patients: Collection[str] = ()
    instances: Collection[str] = ()
    keys: Mapping[str, Any] = field(default_factory=dict)


NOTHING = Subject()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record. `operation` is a DIMSE service such as "C-STORE", or "delete", "export" or "import"; it is
    "association" for one that was rejected because of caller or user: `user` is the name that was claimed then.

    `outcome` is the class of the status. `status` is the DIMSE status, None for a command; `comment` is the reason of a
    failure. An association has AE titles and an address, a command the local user.
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
    """Appends records to the file at `path`, which is created if missing; does nothing if `path` is None.

    Several processes may write to the same file, because each record is one append. Safe to use from many threads.
    """

    def __init__(self, path: Path | None = None, publish: Callable[[Event], None] = lambda _event: None) -> None:
        self._path, self._publish = path, publish
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._has_failed = False

    @property
    def is_on(self) -> bool:
        """Whether records are written."""
        return self._path is not None

    def open(self) -> None:
        """Open the file, to find problems before the first record. Raises ConfigurationError."""
        with self._lock:
            if self._descriptor is None:
                self._descriptor = self._opened()

    def reopen(self) -> None:
        """Reopen the file after log rotation. Raises ConfigurationError; the old file stays open then."""
        opened = self._opened()
        with self._lock:
            before, self._descriptor = self._descriptor, opened
        if before is not None:
            os.close(before)

    def close(self) -> None:
        """Close the file. A later record opens it again."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor = None

    def write(self, record: Record) -> None:
        """Append a record. A failure is published as AuditLost, and raises nothing."""
        if self._path is None:
            return
        line = _line(record)
        try:
            self._append(line)
        except (OSError, ConfigurationError) as error:
            why = error.comment if isinstance(error, ConfigurationError) else error.strerror or ""
            repeated, self._has_failed = self._has_failed, True
            self._publish(AuditLost(comment=f"cannot write the audit log ({why})", repeated=repeated))

    def _append(self, line: bytes) -> None:
        self.open()
        with self._lock:
            if self._descriptor is None:
                raise OSError(0, "the file is closed")
            # A failed write may have left a partial line, which must not become the beginning of this one.
            whole = b"\n" + line if self._has_failed else line
            if os.write(self._descriptor, whole) != len(whole):
                raise OSError(0, "partial write")
            self._has_failed = False

    def _opened(self) -> int | None:
        if self._path is None:
            return None
        flags = (
            os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        )  # does not block on a pipe without reader
        try:
            return os.open(self._path, flags, private.FILE)
        except OSError as error:
            why = f"audit.file = {str(self._path)!r}: cannot write ({error.strerror})"
            raise ConfigurationError(f"{why}; expected a file in a writable folder") from error


def local_user() -> str:
    """Return the name of the user this process runs as."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _line(record: Record) -> bytes:
    """Return a record as a line, without empty fields except `user`."""
    subject = record.subject
    values = {
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
    fields = {name: _bounded(value) for name, value in values.items() if value not in (None, "", [], {})}
    return json.dumps(fields | {"user": record.user}).encode("ascii") + b"\n"


def _bounded(value: Any) -> Any:
    """Truncate a long value, and mark it with `…`."""
    if isinstance(value, str):
        return value if len(value) <= LONGEST_TEXT else value[:LONGEST_TEXT] + "…"
    if isinstance(value, Mapping):
        return {_bounded(name): _bounded(each) for name, each in list(value.items())[:MOST_VALUES]}
    if isinstance(value, list):
        return [_bounded(each) for each in value[:MOST_VALUES]] + ["…"] * (len(value) > MOST_VALUES)
    return value
