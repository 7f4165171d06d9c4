"""`-k`: what is asked for, in the words that DCMTK and dcm4che have for it.

A key is a keyword of PS3.6 or a tag, `PatientName` or `0010,0010`, in a sequence behind that one's and a dot. With `=`
and a value it is matched, without it is asked to be returned. Several values have a backslash between them.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from pacs.dicom.levels import QueryLevel, Root

if TYPE_CHECKING:
    from pydicom import Dataset

Command = Callable[..., None]

_TAG = re.compile(r"\(?([0-9A-Fa-f]{4}),?([0-9A-Fa-f]{4})\)?")
_ITEM = re.compile(r"\[0\]$")
UTF_8 = "ISO_IR 192"


def keys_option(command: Command) -> Command:
    """Give a command `-k`, and as `identifier` the data set that the keys are, without a level unless it was said."""
    return click.option(
        "identifier",
        "-k",
        "--key",
        multiple=True,
        metavar="KEY[=VALUE]",
        callback=lambda _ctx, _parameter, words: identifier(words),
        help="Match a key, or without =VALUE have it returned; a keyword or gggg,eeee, in sequences Outer.Inner.",
    )(command)


def identifier(words: Sequence[str]) -> "Dataset":
    """The data set these keys are, texts beyond ASCII in UTF-8. Raises click.BadParameter for what is no key."""
    from pydicom import Dataset

    found = Dataset()
    for word in words:
        path, equals, value = word.partition("=")
        *outer, last = [_tag(part) for part in re.split(r"[./]", path)]
        inner = found
        for tag in outer:
            inner = _item(inner, tag)
        if not (last in inner and not equals):
            _put(inner, last, value)
    if not "".join(words).isascii() and "SpecificCharacterSet" not in found:
        found.SpecificCharacterSet = UTF_8
    return found


def inferred_level(identifier: "Dataset", root: Root) -> QueryLevel:
    """The lowest level of which a key is asked for, as far as the model has it; its highest where there is no key."""
    from pacs.dicom.attributes import NOT_KEYS, attribute

    known = (attribute(int(tag)) for tag in identifier.keys() if int(tag) not in NOT_KEYS)  # noqa: SIM118
    lowest = max((each.level for each in known if each is not None), default=root.levels[0])
    return min(max(lowest, root.levels[0]), root.levels[-1])


def _tag(text: str) -> int:
    from pydicom.datadict import keyword_dict, tag_for_keyword

    name = _ITEM.sub("", text.strip())
    if match := _TAG.fullmatch(name):
        return int(match[1] + match[2], 16)
    tag = tag_for_keyword(name) if name else None  # one of PS3.6 has no keyword
    if tag is None:
        known = {keyword.lower(): keyword for keyword in keyword_dict if keyword}
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.75)
        hint = f"did you mean {known[near[0]]}?" if near else "expected one, or a tag such as 0010,0010"
        raise click.BadParameter(f"{name!r} is no keyword of PS3.6: {hint}")
    return tag


def _item(dataset: "Dataset", tag: int) -> "Dataset":
    """The only item of a sequence, made where it is not there yet."""
    from pydicom import Dataset, Sequence

    if _vr(tag) != "SQ":
        raise click.BadParameter(f"{_name(tag)} is no sequence")
    if tag not in dataset or not dataset[tag].value:
        dataset.add_new(tag, "SQ", Sequence([Dataset()]))
    inner: Dataset = dataset[tag].value[0]
    return inner


def _put(dataset: "Dataset", tag: int, text: str) -> None:
    from pydicom import config
    from pydicom.dataelem import DataElement

    vr = _vr(tag)
    try:
        value = _value(vr, text)
        dataset[tag] = DataElement(tag, vr, value, validation_mode=config.IGNORE)
    except (ValueError, TypeError, OverflowError):
        raise click.BadParameter(f"{_name(tag)} of VR {vr} cannot be {text!r}") from None


def _value(vr: str, text: str) -> Any:
    """A value as pydicom takes it. Raises ValueError."""
    from pacs.dicom.values import BINARY_FLOATS, BINARY_INTEGERS, ONE_VALUE

    if vr == "SQ":
        if text:
            raise ValueError
        return []
    if vr.startswith(("O", "UN")):
        return text.encode()
    values = [text] if vr in ONE_VALUE else text.split("\\")
    if vr == "AT":
        return [_tag(each) for each in values if each]
    number = {**dict.fromkeys(BINARY_INTEGERS, int), **dict.fromkeys(BINARY_FLOATS, float)}.get(vr)
    if number is not None:
        return [number(each) for each in values if each]
    return values if len(values) > 1 else values[0]


def _vr(tag: int) -> str:
    from pydicom.datadict import dictionary_VR

    from pacs.dicom.dataset import AMBIGUOUS

    if tag >> 16 & 1:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        return "UN"
    return AMBIGUOUS.get(vr, vr)


def _name(tag: int) -> str:
    from pydicom.datadict import keyword_for_tag

    return keyword_for_tag(tag) or f"{tag >> 16:04X},{tag & 0xFFFF:04X}"
