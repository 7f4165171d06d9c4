"""What a row needs to know of an instance stands in its file: the index can be made again from the files."""

from pacs.dicom import part10
from pacs.dicom.header import read_header
from pacs.dicom.syntaxes import KEPT
from pacs.errors import InstanceDamaged, InstanceUnreadable, PacsError, UndecodableDataSet
from pacs.files import digest
from pacs.files.store import ObjectStore
from pacs.index.writer import NewInstance


def arrival_of(files: ObjectStore, key: str, *, verify: bool = True) -> NewInstance:
    """What a file of ours says of itself, which is what it said when it arrived; with `verify` its digest is compared.

    Raises UndecodableDataSet when it is no whole instance of ours, InstanceUnreadable when it cannot be read.
    """
    size = files.size(key)
    with files.open(key) as file:
        head = part10.read_file_meta(file)
        if head.received_at is None or head.digest is None or head.transfer_syntax not in KEPT:
            raise UndecodableDataSet("It is no file of ours")
        if verify:
            try:
                digest.require(head.digest, files.pieces(key, size, head.data_offset))
            except InstanceDamaged as error:
                raise UndecodableDataSet("It does not hold what was received") from error
        file.seek(head.data_offset)
        try:
            header = read_header(file, head.transfer_syntax)
        except InstanceUnreadable:
            raise
        except PacsError as error:
            raise UndecodableDataSet("It holds no whole instance") from error
    if (header.sop_class_uid, header.sop_instance_uid) != (head.sop_class_uid, head.sop_instance_uid):
        raise UndecodableDataSet("Its head names another instance than it holds")
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
