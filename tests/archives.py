"""Small things that tests of a running archive share: putting data sets in, and Identifiers."""

from collections.abc import Iterable

from pydicom import Dataset

from tests import raw

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
"""The Study Root models."""


def identifier(level: str, syntax: str = raw.IMPLICIT, **keys: object) -> bytes:
    """An Identifier in implicit or explicit VR little endian."""
    dataset = Dataset()
    dataset.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(dataset, keyword, value)
    return raw.encoded(dataset, syntax)


def take_in(archive, datasets: Iterable[Dataset]) -> None:
    """Put data sets into an archive, in explicit VR little endian, through the same ingest as the network's."""
    for dataset in datasets:
        with archive.storage.receive(dataset.SOPClassUID, dataset.SOPInstanceUID, raw.EXPLICIT, "TEST") as reception:
            reception.write(raw.encoded(dataset, raw.EXPLICIT))
            reception.finish()
