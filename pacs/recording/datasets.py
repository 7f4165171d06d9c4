"""The data sets of a recording: from the wire, onto it again, and by keywords for a file that people can read."""

import zlib
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from pydicom.config import IGNORE
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import UID

from pacs.dicom.dataset import dictionary_vr

FIRST_OF_PIXELS, PIXEL_DATA = 0x7FE00008, 0x7FE00010
MOST_PIXELS = 1 << 28
"""How many bytes of zeros stand for pixels, at most: of one instance that is recorded, and in all of a recording."""

MOST_INFLATED = 4 << 20
"""How much of a deflated data set is looked at, in bytes."""


def decoded(data: bytes, size: int, transfer_syntax: str) -> Dataset:
    """The data set of a message of `size` bytes, of which `data` is the beginning; pixels are zeros of their length.

    Raises whatever the bytes make pydicom stumble over.
    """
    syntax = UID(transfer_syntax)
    if syntax.is_deflated:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, MOST_INFLATED)
        size = len(data)
    stream = BytesIO(data)
    implicit = syntax.is_implicit_VR
    found: list[BaseTag] = []

    def at_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        found.append(tag)
        return bool(tag >= FIRST_OF_PIXELS)

    dataset = read_dataset(stream, implicit, syntax.is_little_endian, stop_when=at_pixels)
    left = size - stream.tell() - (8 if implicit else 12)
    if found and found[-1] == PIXEL_DATA and left >= 0:
        dataset.add_new(PIXEL_DATA, "OW", bytes(min(left, MOST_PIXELS)))
    return dataset


def encoded(dataset: Dataset, transfer_syntax: str) -> bytes:
    """A data set in a transfer syntax; with compressed pixels, what stands for them is one fragment of zeros."""
    syntax = UID(transfer_syntax)
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = syntax.is_little_endian, syntax.is_implicit_VR
    if syntax.is_encapsulated and "PixelData" in dataset:
        dataset = Dataset(dataset)
        dataset.add_new("PixelData", "OB", encapsulate([bytes(dataset.PixelData)]))
        dataset["PixelData"].is_undefined_length = True
    write_dataset(stream, dataset)
    raw = stream.getvalue()
    if not syntax.is_deflated:
        return raw
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = packer.compress(raw) + packer.flush()
    return deflated + bytes(len(deflated) % 2)


def plain(dataset: Dataset) -> dict[str, Any]:
    """A data set by keywords, for JSON: texts and numbers, lists of them, items of sequences as the same again."""
    return {_key(element.tag): _plain(element) for element in dataset}


def _key(tag: BaseTag) -> str:
    """The keyword of an element, or gggg,eeee where that does not tell which of several it is: overlays."""
    keyword = keyword_for_tag(tag)
    return keyword if tag_for_keyword(keyword) == tag else f"{tag.group:04X},{tag.element:04X}"


def _plain(element: DataElement) -> Any:
    if element.VR == "SQ":
        return [plain(item) for item in element.value]
    if isinstance(element.value, bytes):
        return {"zeros": len(element.value)}
    values = list(element.value) if isinstance(element.value, MultiValue | list) else [element.value]
    told = [_told(each, element.VR) for each in values]
    return told[0] if len(told) == 1 else told


def _told(value: Any, vr: str) -> Any:
    if value is None:
        return ""
    return value if isinstance(value, int | float) and vr not in ("IS", "DS") else str(value)


def rebuilt(told: Mapping[str, Any]) -> Dataset:
    """The data set that `plain` told of. Raises ValueError for what is none."""
    dataset = Dataset()
    for keyword, value in told.items():
        tag = tag_for_keyword(keyword) if "," not in keyword else int(keyword.replace(",", ""), 16)
        if not keyword or tag is None:
            raise ValueError(f"{keyword!r} is no keyword of PS3.6")
        dataset.add(_element(tag, dictionary_vr(tag), value))
    return dataset


def _element(tag: int, vr: str, value: Any) -> DataElement:
    if vr == "SQ":
        return DataElement(tag, vr, [rebuilt(item) for item in value])
    if isinstance(value, dict):
        return DataElement(tag, vr, bytes(value["zeros"]))
    if vr == "AT":
        value = [int(each) for each in (value if isinstance(value, list) else [value]) if each != ""]
    return DataElement(tag, vr, value, validation_mode=IGNORE)


def zeros(told: Any) -> int:
    """How many bytes of zeros a part of a line stands for. Raises ValueError for less than none."""
    if isinstance(told, list):
        return sum(map(zeros, told))
    if not isinstance(told, dict):
        return 0
    count = int(told["zeros"]) if "zeros" in told else 0
    if count < 0:
        raise ValueError("fewer bytes than none")
    return count + sum(map(zeros, told.values()))
