"""Finds the instances to store, in files, folders and data sets."""

import copy
import io
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID

from pacs.client.outcomes import NotStored
from pacs.dicom import part10, syntaxes
from pacs.dicom.attributes import by_keyword
from pacs.dicom.dataset import View
from pacs.dicom.elements import LONGEST, PIXELS, TOO_LONG
from pacs.dicom.header import (
    PIXEL_DATA,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    is_cut_off,
    plain_uids,
    read_attributes,
    require_uids,
)
from pacs.dicom.sop_classes import MEDIA_STORAGE_DIRECTORY, check_storable
from pacs.dicom.values import is_uid
from pacs.errors import (
    InstanceUnreadable,
    InvalidArgument,
    NotDICOM,
    PacsError,
    SOPClassNotSupported,
    UndecodableDataSet,
)
from pacs.support.folders import files_under
from pacs.support.regular_files import open_regular

_UIDS = (SOP_CLASS_UID, SOP_INSTANCE_UID)
_TO_THE_PIXELS = (*_UIDS, PIXEL_DATA)

Storable = Path | str | Dataset | Iterable["Path | str | Dataset"]


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance to send: its UIDs, its transfer syntax, and the offset of its data set in the file."""

    what: Path | Dataset
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    offset: int = 0

    def open(self) -> BinaryIO:
        """Open a file positioned at the data set. Raises InstanceUnreadable."""
        try:
            file = io.BytesIO(_written(self.what)) if isinstance(self.what, Dataset) else open_regular(self.what)
        except OSError as error:
            raise InstanceUnreadable(f"The file cannot be read: {error.strerror or error}") from error
        if isinstance(self.what, Dataset):
            part10.read_file_meta(file)
        else:
            file.seek(self.offset)
        return file


@dataclass(slots=True)
class Sources:
    """Search result: the instances in order, what should be one and is not or cannot be read, and the number of other
    files in folders.
    """

    instances: list[Instance] = field(default_factory=list)
    refused: list[NotStored] = field(default_factory=list)
    skipped: int = 0


def sources_of(what: Iterable[Storable]) -> Sources:
    """Search all items. Raises InvalidArgument for an item that is no path, data set or iterable of these."""
    found = Sources()
    for each in what:
        _add(found, each)
    return found


def _add(found: Sources, what: Storable) -> None:
    if isinstance(what, Dataset):
        _add_item(found, what)
    elif isinstance(what, str | os.PathLike):
        path = Path(what)
        if path.is_dir():
            _add_folder(found, path)
        else:
            _add_item(found, path)
    elif isinstance(what, Iterable):
        for each in what:
            _add(found, each)
    else:
        raise InvalidArgument(f"Files, folders and data sets can be stored, not a {type(what).__name__}")


def _add_folder(found: Sources, folder: Path) -> None:
    """Add the files in a folder; only those that are not DICOM, and DICOMDIRs, may be there without being stored."""
    for path in files_under(folder):
        _add_item(found, path, skipped=(NotDICOM, SOPClassNotSupported))


def _add_item(found: Sources, what: Path | Dataset, skipped: tuple[type[PacsError], ...] = ()) -> None:
    try:
        found.instances.append(_in_memory(what) if isinstance(what, Dataset) else instance_in(what))
    except skipped:
        found.skipped += 1
    except PacsError as error:
        found.refused.append(NotStored(what, None, error.comment))
    except OSError as error:
        found.refused.append(NotStored(what, None, f"The file cannot be read: {error.strerror or error}"))


def is_image(instance: Instance) -> bool:
    """Return whether an instance has Rows (0028,0010). Raises InstanceUnreadable, UndecodableDataSet."""
    rows = by_keyword("Rows")
    with instance.open() as file:
        return bool(View.of(read_attributes(file, instance.transfer_syntax, (rows.tag,))).texts(rows))


# --- in files ----------------------------------------------------------------------------------------------------


def instance_in(path: Path) -> Instance:
    """Return the instance in a file. Raises UndecodableDataSet if there is none, and OSError."""
    with open_regular(path) as file:
        head = part10.find_data_set(file)
        is_long = os.fstat(file.fileno()).st_size > LONGEST
        plain = None if is_long else plain_uids(file, head.transfer_syntax)
        try:
            found = plain or _uids(file, head.transfer_syntax, _TO_THE_PIXELS if is_long else _UIDS)
        except UndecodableDataSet as error:
            raise part10.file_error(error, head) from error
        sop_class = found[SOP_CLASS_UID] or head.sop_class_uid
        instance = found[SOP_INSTANCE_UID] or head.sop_instance_uid
        if MEDIA_STORAGE_DIRECTORY in (sop_class, head.sop_class_uid):
            check_storable(MEDIA_STORAGE_DIRECTORY, unknown=True)
        if not head.data_offset and not (is_uid(sop_class) and is_uid(instance)):
            raise NotDICOM(part10.NOT_DICOM)
        require_uids({SOP_CLASS_UID: sop_class, SOP_INSTANCE_UID: instance})
        file.seek(head.data_offset)
        # Most receivers would store it as it is, with a success.
        if plain is None and is_cut_off(file, head.transfer_syntax):
            raise UndecodableDataSet(part10.FILE_CUT_OFF)
    return Instance(path, sop_class, instance, head.transfer_syntax, head.data_offset)


def _uids(file: BinaryIO, transfer_syntax: str, tags: Collection[int]) -> dict[int, str]:
    """Return the UIDs of a data set; read it up to the last of the tags. Raises UndecodableDataSet."""
    found = View.of(read_attributes(file, transfer_syntax, tags))
    texts = {each.tag: found.texts(each) for each in map(by_keyword, ("SOPClassUID", "SOPInstanceUID"))}
    return {tag: next(iter(each), "").strip(" \0") for tag, each in texts.items()}


# --- in memory ---------------------------------------------------------------------------------------------------


def _in_memory(dataset: Dataset) -> Instance:
    """Return the instance in a data set. Raises UndecodableDataSet if there is none."""
    sop_class, instance = str(dataset.get("SOPClassUID", "")), str(dataset.get("SOPInstanceUID", ""))
    if not (is_uid(sop_class) and is_uid(instance)):
        raise UndecodableDataSet("A data set without SOP Class UID and SOP Instance UID is not an instance")
    values = (dataset.get_item(tag).value for tag in PIXELS if tag in dataset)
    is_long = any(isinstance(each, bytes) and len(each) > LONGEST for each in values)
    if is_long and syntaxes.is_native(_syntax(dataset)):
        raise UndecodableDataSet(TOO_LONG)
    return Instance(dataset, sop_class, instance, _syntax(dataset))


def _syntax(dataset: Dataset) -> str:
    """Return the transfer syntax that a data set names or was read in; Explicit VR Little Endian for a new one."""
    meta = getattr(dataset, "file_meta", None)
    stated = str(meta.get("TransferSyntaxUID", "") or "") if meta is not None else ""
    if stated:
        return stated
    implicit, little = dataset.original_encoding
    if implicit:
        return syntaxes.IMPLICIT_LITTLE
    return syntaxes.EXPLICIT_BIG if little is False else syntaxes.EXPLICIT_LITTLE


def _written(dataset: Dataset) -> bytes:
    """Return a data set as the bytes of a Part 10 file, without changing it. Raises InstanceUnreadable."""
    written = copy.copy(dataset)
    written.file_meta = FileMetaDataset()
    with suppress(AttributeError):
        written.file_meta.update(dataset.file_meta)
    written.file_meta.TransferSyntaxUID = UID(_syntax(dataset))
    out = io.BytesIO()
    try:
        dcmwrite(out, written, enforce_file_format=True)
    except (ValueError, TypeError, AttributeError, NotImplementedError, OverflowError) as error:
        raise InstanceUnreadable(f"The data set cannot be encoded: {error}") from error
    out.seek(0)
    return out.getvalue()
