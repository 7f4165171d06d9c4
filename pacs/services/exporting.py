"""Exporting instances as Part 10 files, as they are stored or in another transfer syntax, for `pacs export`."""

import hashlib
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from pacs.dicom import part10
from pacs.errors import (
    InstanceDamaged,
    InstanceMissing,
    InstanceUnreadable,
    NoPixelData,
    NotSupported,
    PacsError,
    StorageUnavailable,
    UndecodableDataSet,
    UndecodablePixelData,
)
from pacs.files.store import ObjectStore
from pacs.index import writer
from pacs.index.database import Index
from pacs.index.writer import StoredInstance
from pacs.observability.audit import Auditor, Record, local_user
from pacs.observability.events import Event, Notice
from pacs.pixels.look_ahead import LookAhead
from pacs.pixels.seekable import wait_without_limit
from pacs.pixels.target_names import name_of
from pacs.services.maintenance import BATCH, subject_of
from pacs.services.pixels import ConvertedDataSet, PixelService
from pacs.services.replaced import read_current
from pacs.services.retrieve import damaged, verify
from pacs.support.chunks import chunks

CHUNK = 1 << 18

_OF_ONE_INSTANCE = (InstanceUnreadable, NotSupported, UndecodableDataSet, UndecodablePixelData)
"""Errors with which one instance fails and the others are exported."""


@dataclass(frozen=True, slots=True)
class NotExported:
    """An instance that was not exported, and the reason."""

    sop_instance_uid: str
    comment: str


@dataclass(slots=True)
class Exported:
    """The result of an export."""

    instances: int = 0
    size: int = 0
    """Bytes."""
    failed: list[NotExported] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Source:
    """The open file of an instance to copy, or its conversion, which has begun."""

    instance: StoredInstance
    data: BinaryIO | ConvertedDataSet
    transfer_syntax: str = ""
    """Into which it is converted."""
    rest: Sequence[str] = ()
    """The transfer syntaxes to try next."""

    @property
    def size_in_memory(self) -> int:
        """The bytes of frames in memory at most."""
        return self.data.size_in_memory if isinstance(self.data, ConvertedDataSet) else 0

    def close(self) -> None:
        """Cancel the conversion, and close the file."""
        self.data.close()


class Exporter:
    """Exports instances into folders."""

    def __init__(
        self,
        index: Index,
        files: ObjectStore,
        pixels: PixelService,
        *,
        verify: bool = False,
        publish: Callable[[Event], None] = lambda event: None,
        auditor: Auditor | None = None,
    ) -> None:
        """With `verify` the digest of each instance is compared before it is exported."""
        self._index = index
        self._files = files
        self._pixels = pixels
        self._verify = verify
        self._publish = publish
        self._auditor = auditor or Auditor()

    def export(
        self,
        instances: Sequence[StoredInstance],
        folder: Path,
        progress: Callable[[int], None] = lambda count: None,
        send_as: Sequence[str] = (),
    ) -> Exported:
        """Write instances as Part 10 files to `folder`/patient/study/series/instance.dcm, over older copies.

        With `send_as`, each is converted into the first of these transfer syntaxes that is possible; one without
        pixel data stays as it is. Received names are made safe first. Instances that cannot be read or converted are
        listed in the result. Raises StorageUnavailable when the folder cannot be written; files written before stay.
        """
        export = _Export(self._index, self._files, self._pixels, folder, send_as, verify=self._verify)
        left = deque(instances)
        with closing(LookAhead(export.begin, self._pixels.at_once)) as ahead:
            for batch in chunks(instances, BATCH):
                with self._audited(batch, export.result):
                    for instance in batch:
                        left.popleft()
                        export.write(instance, partial(ahead.take, instance, left))
                        progress(1)
        for notice in export.notices:
            self._publish(Notice(sentence=notice))
        return export.result

    @contextmanager
    def _audited(self, instances: Sequence[StoredInstance], result: Exported) -> Iterator[None]:
        """Record the export of these instances, the `with` block, in the audit log."""
        comment, completed, failed = "interrupted", result.instances, len(result.failed)
        try:
            yield
            comment = result.failed[failed].comment if len(result.failed) > failed else ""
        except PacsError as error:
            comment = error.comment
            raise
        finally:
            counts = {"completed": result.instances - completed, "failed": len(result.failed) - failed}
            outcome = "success" if not comment else "warning" if counts["completed"] else "failure"
            self._auditor.write(
                Record(
                    operation="export",
                    outcome=outcome,
                    comment=comment,
                    counts=counts,
                    subject=subject_of(instances),
                    user=local_user(),
                )
            )


class _Export:
    """One export that runs: its folder, and its result so far."""

    def __init__(
        self,
        index: Index,
        files: ObjectStore,
        pixels: PixelService,
        folder: Path,
        send_as: Sequence[str],
        *,
        verify: bool,
    ) -> None:
        self._index, self._files, self._pixels = index, files, pixels
        self._folder = folder
        self._send_as = send_as
        self._verify = verify
        self.result = Exported()
        self.notices: dict[str, None] = {}

    # --- sources --------------------------------------------------------------------------------------------------

    def begin(self, instance: StoredInstance) -> _Source:
        """Open the file of an instance, or of what has replaced it since it was selected, and begin its conversion.

        Raises InstanceUnreadable, NotSupported, UndecodableDataSet and UndecodablePixelData.
        """
        source = read_current(
            instance,
            lambda each: self._begin(each, self._send_as),
            lambda: writer.find(self._index, instance.sop_instance_uid),
        )
        if source is None:
            raise InstanceMissing("an instance was deleted since it was selected: run the command again")
        return source

    def _begin(self, instance: StoredInstance, targets: Sequence[str], reason: str = "") -> _Source:
        """Open a file and begin with the first of these transfer syntaxes that is possible, if there are any."""
        if self._verify:
            self._require_undamaged(instance)
        for number, target in enumerate(targets, 1):
            if target == instance.transfer_syntax:
                break
            try:
                converted = self._pixels.convert(instance, target, wait_without_limit)
            except NoPixelData:
                break
            except NotSupported as error:
                reason = reason or _named(target, error)
            else:
                return _Source(instance, converted, target, targets[number:])
        else:
            if reason:
                raise NotSupported(reason)
        return _Source(instance, self._files.open(instance.file_key))

    def _require_undamaged(self, instance: StoredInstance) -> None:
        try:
            verify(self._files, instance)
        except InstanceDamaged as error:
            raise InstanceDamaged(damaged(instance)) from error

    # --- files ----------------------------------------------------------------------------------------------------

    def write(self, instance: StoredInstance, take: Callable[[], _Source]) -> None:
        """Write the file of an instance, and record the result. Raises StorageUnavailable."""
        try:
            self.result.size += self._write(take())
        except _OF_ONE_INSTANCE as error:
            self.result.failed.append(NotExported(instance.sop_instance_uid, error.comment))
        else:
            self.result.instances += 1

    def _write(self, source: _Source) -> int:
        """Write a file and return its size; try the next transfer syntax if a value cannot be encoded."""
        try:
            with closing(source):
                return self._write_file(source)
        except NotSupported as error:
            return self._write(self._begin(source.instance, source.rest, _named(source.transfer_syntax, error)))

    def _write_file(self, source: _Source) -> int:
        target = self._folder.joinpath(*_path_of(source.instance))
        unfinished = target.with_suffix(".part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb+") as file:
                self._fill(file, source)
                size = file.seek(0, os.SEEK_END)
            os.replace(unfinished, target)
        except OSError as error:
            raise StorageUnavailable(
                f"cannot write the exported files ({error.strerror}); choose another DEST"
            ) from error
        finally:
            with suppress(OSError):  # it has its final name, or was never made
                unfinished.unlink()
        return size

    def _fill(self, file: BinaryIO, source: _Source) -> None:
        """Write a copy, or File Meta Information and the converted data set."""
        if not isinstance(source.data, ConvertedDataSet):
            shutil.copyfileobj(source.data, file, CHUNK)
            if file.tell() != source.instance.size:
                raise InstanceUnreadable("The size of the stored file has changed")
            return
        head, sha256 = self._file_meta(source.instance, source.transfer_syntax), hashlib.sha256()
        file.write(head)
        for piece in source.data.pieces():
            sha256.update(piece)
            file.write(piece)
        file.seek(0)
        file.write(part10.with_digest(head, sha256.hexdigest()))
        self.notices |= dict.fromkeys(f"exported in another transfer syntax: {each}" for each in source.data.notices)

    def _file_meta(self, instance: StoredInstance, transfer_syntax: str) -> bytes:
        """Return File Meta Information with the sender and the time of arrival of the stored file."""
        with closing(self._files.open(instance.file_key)) as file:
            stored = part10.read_file_meta(file)
        return part10.build_file_meta(
            instance.sop_class_uid,
            instance.sop_instance_uid,
            transfer_syntax,
            stored.source_ae,
            received_at=stored.received_at or time.time_ns() // 1000,
        )


def _named(target: str, error: NotSupported) -> str:
    """Return why an instance is not converted into `target`, whose name the error may lack."""
    name = name_of(target)
    return error.comment if name in error.comment else f"{name}: {error.comment}"


_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def safe_name(text: str) -> str:
    """Make a name of a file or folder from `text`: valid on any system, in this folder, not empty and not hidden."""
    name = _UNSAFE.sub("_", text).strip("._-")[:64].rstrip("._-")
    return f"_{name}" if not name or _RESERVED.fullmatch(name) else name


def _path_of(instance: StoredInstance) -> Sequence[str]:
    folders = (instance.patient_id, instance.study_instance_uid, instance.series_instance_uid)
    return (*map(safe_name, folders), safe_name(instance.sop_instance_uid) + ".dcm")
