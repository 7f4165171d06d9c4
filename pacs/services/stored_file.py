"""Reading a stored file: its data set, and everything that the row of its instance needs."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from pacs.dicom import part10
from pacs.dicom.header import Header, read_header
from pacs.dicom.syntaxes import KEPT
from pacs.errors import InstanceDamaged, InstanceUnreadable, PacsError, StorageUnavailable, UndecodableDataSet
from pacs.files import digest
from pacs.files.store import ObjectStore
from pacs.index.writer import NewInstance, StoredInstance


@contextmanager
def opened_data_set(files: ObjectStore, instance: StoredInstance) -> Iterator[BinaryIO]:
    """Open the file of an instance at the beginning of its data set.

    Raises InstanceUnreadable when the file is missing or has another size, StorageUnavailable as every read.
    """
    with files.open(instance.file_key) as file:
        if file.seek(0, os.SEEK_END) != instance.size:
            raise InstanceUnreadable("The size of the stored file has changed")
        file.seek(instance.data_offset)
        yield file


def headers_of(files: ObjectStore) -> Callable[[str], Header | None]:
    """Return a function that reads the header of a stored file; None for one that contains no instance.

    The function raises StorageUnavailable.
    """

    def read(key: str) -> Header | None:
        try:
            return read_stored_file(files, key, verify=False).header
        except (InstanceUnreadable, UndecodableDataSet):  # reported by fsck
            return None

    return read


def read_stored_file(files: ObjectStore, key: str, *, verify: bool = True) -> NewInstance:
    """Read the instance in a stored file, as it was when it arrived; with `verify` compare its digest.

    Raises UndecodableDataSet when the file does not contain a complete instance that this software stored,
    InstanceUnreadable when it cannot be read, StorageUnavailable as every read.
    """
    size = files.size(key)
    with files.open(key) as file:
        head = part10.read_file_meta(file)
        if head.received_at is None or head.digest is None or head.transfer_syntax not in KEPT:
            raise UndecodableDataSet("The file was not written by this software")
        if verify:
            try:
                digest.require(head.digest, files.pieces(key, size, head.data_offset))
            except InstanceDamaged as error:
                raise UndecodableDataSet("The file does not contain what was received") from error
        file.seek(head.data_offset)
        try:
            header = read_header(file, head.transfer_syntax)
        except (InstanceUnreadable, StorageUnavailable):
            raise
        except PacsError as error:
            raise UndecodableDataSet("The file contains no complete instance") from error
    if (header.sop_class_uid, header.sop_instance_uid) != (head.sop_class_uid, head.sop_instance_uid):
        raise UndecodableDataSet("The File Meta Information names another instance than the data set")
    return NewInstance(
        header=header,
        file_key=key,
        size=size,
        digest=head.digest,
        transfer_syntax=head.transfer_syntax,
        data_offset=head.data_offset,
        received_at=head.received_at,
        source_ae=head.source_ae,
    )
