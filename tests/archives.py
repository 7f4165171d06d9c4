"""Helpers for tests of a running archive: Identifiers, and storing data sets."""

from collections.abc import Iterable

from pydicom import Dataset

from tests import raw

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
"""The Study Root models."""


def identifier(level: str, syntax: str = raw.IMPLICIT, **keys: object) -> bytes:
    """Return an Identifier in implicit or explicit VR little endian."""
    dataset = Dataset()
    dataset.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(dataset, keyword, value)
    return raw.encoded(dataset, syntax)


def take_in(archive, datasets: Iterable[Dataset]) -> None:
    """Store data sets in an archive, in explicit VR little endian, through the services that C-STORE uses."""
    for dataset in datasets:
        with archive.storage.receive(dataset.SOPClassUID, dataset.SOPInstanceUID, raw.EXPLICIT, "TEST") as reception:
            reception.write(raw.encoded(dataset, raw.EXPLICIT))
            reception.finish()
