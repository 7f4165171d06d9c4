"""The real files that come with pydicom and pydicom-data."""

from importlib.util import find_spec
from pathlib import Path

import pydicom

from pacs.dicom import part10
from pacs.errors import UndecodableDataSet

FOLDERS = [Path(pydicom.__file__).parent / "data"]
if (_data := find_spec("data_store")) is not None and _data.origin:
    FOLDERS.append(Path(_data.origin).parent / "data")

FILES = sorted(
    path for folder in FOLDERS for path in folder.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}
)
"""Every bundled file, storable or not."""


def named(name: str) -> Path:
    """The bundled file with this name."""
    return next(path for path in FILES if path.name == name)


def data_set(path: Path) -> tuple[bytes, str]:
    """The bytes of a Part 10 file's data set and its transfer syntax."""
    with path.open("rb") as file:
        head = part10.read_head(file)
        return file.read(), head.transfer_syntax


def _has_head(path: Path) -> bool:
    try:
        return bool(data_set(path)[1])
    except UndecodableDataSet:
        return False


PART10 = [path for path in FILES if _has_head(path)]
"""The bundled files with File Meta Information that names a transfer syntax."""
