"""The real files that come with pydicom and pydicom-data, and a representative sample of them."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import pydicom
import pytest
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


def _file_meta(path: Path) -> part10.FileMeta | None:
    try:
        with path.open("rb") as file:
            return part10.read_file_meta(file)
    except UndecodableDataSet:
        return None


_METAS = {path: meta for path in FILES if (meta := _file_meta(path)) is not None and meta.transfer_syntax}

PART10 = list(_METAS)
"""The bundled files with File Meta Information that names a transfer syntax."""


def transfer_syntax(path: Path) -> str:
    """The transfer syntax that the File Meta Information of one of `PART10` names."""
    return _METAS[path].transfer_syntax


PECULIAR = {
    "MR_truncated.dcm", "DICOMDIR-nooffset", "DICOMDIR-reordered", "nested_priv_SQ.dcm", "bad_sequence.dcm",
    "explicit_VR-UN.dcm", "SC_rgb_jpeg.dcm", "JPEG2000-embedded-sequence-delimiter.dcm", "rtplan.dcm", "rtstruct.dcm",
    "reportsi.dcm",
}  # fmt: skip
"""Files whose encoding or nesting is unlike that of the others."""


def _sample() -> frozenset[Path]:
    smallest: dict[tuple[str, str], Path] = {}
    for path, meta in sorted(_METAS.items(), key=lambda each: each[0].stat().st_size):
        smallest.setdefault((meta.transfer_syntax, meta.sop_class_uid), path)
    others = {path for path in PART10 if path.parent.name == "charset_files" or path.name in PECULIAR}
    return frozenset(others.union(smallest.values()))


SAMPLE = _sample()
"""The smallest file of each transfer syntax and SOP Class, those with character sets, and the peculiar ones."""


@dataclass(frozen=True)
class CheckFiles:
    """Runs a check on many files: on the sample, or on all of them with `is_long`."""

    is_long: bool

    def __call__(self, check: Callable[[Path], None], paths: Iterable[Path] = PART10) -> None:
        """Call `check` with each file, and fail with the names of those it fails for."""
        chosen = [path for path in paths if self.is_long or path in SAMPLE]
        assert chosen
        failures = {path.name: failure for path in chosen if (failure := _failure(check, path))}
        assert not failures, f"{len(failures)} of {len(chosen)} files fail: {failures}"


def _failure(check: Callable[[Path], None], path: Path) -> str:
    try:
        check(path)
    except (Exception, pytest.fail.Exception) as error:
        return f"{type(error).__name__}: {error}"
    return ""


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
