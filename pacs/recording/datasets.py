"""Data sets of a recording: decoding, encoding, and conversion to and from JSON."""

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
MAX_PIXEL_BYTES = 1 << 28
"""Maximum size of zeros that replace pixels, for one recorded instance and for a whole recording."""

MAX_INFLATED_BYTES = 4 << 20
"""Maximum number of bytes of a deflated data set that are inflated."""


def decode(data: bytes, size: int, transfer_syntax: str) -> Dataset:
    """Return the data set of a message of `size` bytes that begins with `data`; pixels become zeros of the same length.

    Raises any exception of pydicom for invalid data.
    """
    syntax = UID(transfer_syntax)
    if syntax.is_deflated:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, MAX_INFLATED_BYTES)
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
        dataset.add_new(PIXEL_DATA, "OW", bytes(min(left, MAX_PIXEL_BYTES)))
    return dataset


def encode(dataset: Dataset, transfer_syntax: str) -> bytes:
    """Encode a data set in a transfer syntax; compressed pixels become one fragment of zeros."""
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


def to_json(dataset: Dataset) -> dict[str, Any]:
    """Return a data set as a dictionary of texts, numbers, lists and sequence items, by keyword."""
    return {_key(element.tag): _element_to_json(element) for element in dataset}


def _key(tag: BaseTag) -> str:
    """Return the keyword of an element, or gggg,eeee for an ambiguous one such as an overlay."""
    keyword = keyword_for_tag(tag)
    return keyword if tag_for_keyword(keyword) == tag else f"{tag.group:04X},{tag.element:04X}"


def _element_to_json(element: DataElement) -> Any:
    if element.VR == "SQ":
        return [to_json(item) for item in element.value]
    if isinstance(element.value, bytes):
        return {"zeros": len(element.value)}
    values = list(element.value) if isinstance(element.value, MultiValue | list) else [element.value]
    json_values = [_value_to_json(each, element.VR) for each in values]
    return json_values[0] if len(json_values) == 1 else json_values


def _value_to_json(value: Any, vr: str) -> Any:
    if value is None:
        return ""
    return value if isinstance(value, int | float) and vr not in ("IS", "DS") else str(value)


def from_json(json_values: Mapping[str, Any]) -> Dataset:
    """Return the data set from `to_json`. Raises ValueError for invalid input."""
    dataset = Dataset()
    for keyword, value in json_values.items():
        tag = tag_for_keyword(keyword) if "," not in keyword else int(keyword.replace(",", ""), 16)
        if not keyword or tag is None:
            raise ValueError(f"{keyword!r} is not a keyword of PS3.6")
        dataset.add(_element(tag, dictionary_vr(tag), value))
    return dataset


def _element(tag: int, vr: str, value: Any) -> DataElement:
    if vr == "SQ":
        return DataElement(tag, vr, [from_json(item) for item in value])
    if isinstance(value, dict):
        return DataElement(tag, vr, bytes(value["zeros"]))
    if vr == "AT":
        value = [int(each) for each in (value if isinstance(value, list) else [value]) if each != ""]
    return DataElement(tag, vr, value, validation_mode=IGNORE)


def count_zeros(json_values: Any) -> int:
    """Return the number of zero bytes in a part of a line. Raises ValueError for a negative number."""
    if isinstance(json_values, list):
        return sum(map(count_zeros, json_values))
    if not isinstance(json_values, dict):
        return 0
    count = int(json_values["zeros"]) if "zeros" in json_values else 0
    if count < 0:
        raise ValueError("a number of bytes is negative")
    return count + sum(map(count_zeros, json_values.values()))
