"""The real files that come with pydicom and pydicom-data."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from pacs.dicom import part10
from pacs.errors import UndecodableDataSet

FOLDERS = [Path(pydicom.__file__).parent / "data"]
if (_data := find_spec("data_store")) is not None and _data.origin:
    FOLDERS.append(Path(_data.origin).parent / "data")

FILES = sorted(
    path for folder in FOLDERS for path in folder.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}
)
"""Every bundled file, storable or not."""

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

SYNTAXES = {
    (True, True): "1.2.840.10008.1.2",
    (False, True): "1.2.840.10008.1.2.1",
    (False, False): "1.2.840.10008.1.2.2",
}
"""The transfer syntaxes of bare data sets: (is implicit, is little endian) -> UID."""


def named(name: str) -> Path:
    """The bundled file with this name."""
    return next(path for path in FILES if path.name == name)


def data_set(path: Path) -> tuple[bytes, str]:
    """The bytes of a Part 10 file's data set and its transfer syntax."""
    with path.open("rb") as file:
        head = part10.read_file_meta(file)
        return file.read(), head.transfer_syntax


def _has_head(path: Path) -> bool:
    try:
        return bool(data_set(path)[1])
    except UndecodableDataSet:
        return False


PART10 = [path for path in FILES if _has_head(path)]
"""The bundled files with File Meta Information that names a transfer syntax."""


# --- the files as somebody sends them ----------------------------------------------------------------------------


@dataclass(frozen=True)
class RealFile:
    """A bundled file as a sender that trusts it would send it; what it says is read by pydicom, not by us."""

    path: Path

    @property
    def name(self) -> str:
        """Its path below the folder of all."""
        folder = next(folder for folder in FOLDERS if self.path.is_relative_to(folder))
        return self.path.relative_to(folder).as_posix()

    @cached_property
    def header(self) -> Dataset:
        """What stands before the pixels, its values as they are in the file."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(self.path, force=True, stop_before_pixels=True)

    @cached_property
    def data(self) -> bytes:
        """The bytes of the data set; of a file that is none, all of it."""
        content = self.path.read_bytes()
        return content[self._data_offset(content) :]

    def _data_offset(self, content: bytes) -> int:
        try:
            with self.path.open("rb") as file:
                return part10.read_file_meta(file).data_offset
        except UndecodableDataSet:
            return 0

    @property
    def transfer_syntax(self) -> str:
        """What its File Meta Information names, else what pydicom found."""
        return str(self.header.file_meta.get("TransferSyntaxUID", "")) or SYNTAXES[self.header.original_encoding]

    @property
    def sop_class(self) -> str:
        """Its SOP Class; Secondary Capture where it has none."""
        return self._uid("SOPClassUID", "MediaStorageSOPClassUID") or SECONDARY_CAPTURE

    @property
    def uid(self) -> str:
        """Its SOP Instance UID; one of our own where it has none."""
        return self._uid("SOPInstanceUID", "MediaStorageSOPInstanceUID") or "2.25.1"

    def _uid(self, keyword: str, in_meta: str) -> str:
        return self.text(keyword) or str(self.header.file_meta.get(in_meta, ""))

    def value(self, keyword: str) -> bytes:
        """The encoded value of a top-level element, b'' where there is none."""
        element = self.header.get_item(keyword)
        if isinstance(element, RawDataElement):
            return element.value or b""
        values = element.value if element is not None else None  # what pydicom has decoded: empty or a character set
        return (values if isinstance(values, str) else "\\".join(values or ())).encode("ascii")

    def text(self, keyword: str) -> str:
        """The value of a top-level element of ASCII text, without padding."""
        return self.value(keyword).decode("ascii", "replace").strip(" \0")
