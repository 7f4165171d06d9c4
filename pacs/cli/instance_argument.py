"""`FILE|UID`: an instance in a file, or of the archive by its SOP Instance UID."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import click

from pacs.cli.archive import open_archive
from pacs.dicom.levels import QueryLevel
from pacs.errors import InstanceUnreadable, NoPixelData, NothingFound, UndecodableDataSet

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.config import Config
    from pacs.index.writer import StoredInstance

instance_argument = click.argument("what", metavar="FILE|UID")


class Stored(NamedTuple):
    """An instance of the archive."""

    archive: "Archive"
    instance: "StoredInstance"

    def open(self) -> AbstractContextManager[BinaryIO]:
        """Open its file. Raises InstanceUnreadable and StorageUnavailable."""
        return self.archive.files.open(self.instance.file_key)


@contextmanager
def find_instance(what: str, read_config: "Callable[[], Config]") -> "Iterator[Path | Stored]":
    """Yield the file with this name, or the instance of the archive with this UID.

    Raises click.UsageError if there is neither, and NothingFound for a UID that no instance has.
    """
    from pacs.dicom.values import is_uid

    path = Path(what)
    if path.is_file():
        with naming(path):
            yield path
        return
    if path.is_dir():
        raise click.UsageError(f"{what!r} is a folder; expected a file in it")
    if not is_uid(what):
        raise click.UsageError(f"{what!r} is neither a file nor a UID")
    with open_archive(read_config()) as archive:
        found = archive.maintenance.instances({"SOPInstanceUID": what})
        if not found:
            raise NothingFound(_missing(archive, what))
        yield Stored(archive, found[0])


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Begin the errors of the `with` block about the content of a file with its name."""
    try:
        yield
    except (UndecodableDataSet, NoPixelData) as error:
        raise type(error)(f"{path}: {error.comment}") from error


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Translate the errors of the `with` block, which reads a file, into InstanceUnreadable."""
    try:
        yield
    except OSError as error:
        raise InstanceUnreadable(f"{what} cannot be read: {error.strerror or error}") from error


def explained(error: UndecodableDataSet, *, is_certain: bool) -> UndecodableDataSet:
    """Return the error of a data set for its reader, not its sender; `is_certain` says that it is one at all."""
    from pacs.dicom.part10 import NOT_DICOM

    return UndecodableDataSet(error.comment.removesuffix(": send it whole") if is_certain else NOT_DICOM)


def _missing(archive: "Archive", uid: str) -> str:
    """Say that there is no such instance, and how to list those of a study or series with this UID."""
    for level, keyword in ((QueryLevel.STUDY, "StudyInstanceUID"), (QueryLevel.SERIES, "SeriesInstanceUID")):
        if any(archive.maintenance.entities(level, {keyword: uid})):
            return f"{uid} is a {level.name.lower()}; list its instances with `pacs ls images {keyword}={uid}`"
    return f"the archive has no instance {uid}; list those it has with `pacs ls images`"
