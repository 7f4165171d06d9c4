"""Values of data sets as text and as JSON, for the output of commands.

JSON has a keyword and a text for each element, a list for several values, objects for items, and binary values as
`InlineBinary` in Base64, as in the DICOM JSON Model (PS3.18 F.2.7). Values that break the rules of their VR are shown
as they are.
"""

import base64
from typing import Any

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag, tag_for_keyword

from pacs.dicom.dataset import Element, View, items, numbers, vr
from pacs.dicom.identifier import BULK
from pacs.dicom.values import BINARY_FLOATS, BINARY_INTEGERS, ONE_VALUE, stripped


def tag_of(name: str) -> int:
    """Return the tag of an element that is named by keyword or gggg,eeee (`name_of_tag`)."""
    tag = tag_for_keyword(name)
    return int(name.replace(",", ""), 16) if tag is None else tag


def name_of_tag(tag: int) -> str:
    """Return the keyword of an element, or its tag as gggg,eeee if it has none."""
    keyword = keyword_for_tag(tag)  # that of a repeating group, such as OverlayRows, has several tags
    return keyword if tag_for_keyword(keyword) == tag else f"{tag >> 16:04x},{tag & 0xFFFF:04x}"


def json_value(dataset: Dataset, tag: int) -> Any:
    """Return a value for JSON, "" where the data set has none."""
    return _json(View.of(dataset), dataset.get_item(tag)) if tag in dataset else ""


def text_value(dataset: Dataset, tag: int) -> str:
    """Return a value as one text: several values joined by backslashes, items by semicolons, binary ones in Base64."""
    return _text(json_value(dataset, tag))


def texts(view: View, element: Element) -> list[str]:
    """Return the values of an element that is neither binary nor a sequence, without padding."""
    name = vr(element)
    if name == "AT":
        return [f"({int(tag) >> 16:04x},{int(tag) & 0xFFFF:04x})" for tag in numbers(element)]
    if name in BINARY_INTEGERS or name in BINARY_FLOATS:
        return [str(number) for number in numbers(element)]
    text = view.text(element)
    found = [stripped(name, each) for each in ([text] if name in ONE_VALUE else text.split("\\"))]
    return found if any(found) else []


def _json(view: View, element: Element) -> Any:
    if vr(element) == "SQ":
        return [_json_item(View.of(item, view.terms)) for item in items(element)]
    if vr(element) in BULK:
        return {"InlineBinary": base64.b64encode(element.value).decode()} if element.value else ""
    found = texts(view, element)
    return found if len(found) > 1 else "".join(found)


def _json_item(view: View) -> dict[str, Any]:
    return {name_of_tag(tag): _json(view, view.dataset.get_item(tag)) for tag in sorted(view.dataset.keys())}


def _text(value: Any) -> str:
    match value:
        case str():
            return value
        case {"InlineBinary": str(encoded)}:
            return encoded
        case dict():
            return " ".join(f"{name}={_text(each)}" for name, each in value.items())
        case [str(), *_]:
            return "\\".join(value)
        case _:
            return "; ".join(map(_text, value))
