"""Who an association is about, taken out of it: the same original has the same pseudonym all through a recording.

By the VR that PS3.6 has for an element, whatever was sent, in the spirit of PS3.15 Annex E: names and texts become
numbered words, UIDs other ones, dates move by some thousand days, pixels and all else that is bulk become zeros,
private elements and ages go. Wild cards, ranges, lists and empty values stay what they are, so that a query still asks
the same kind of question. Numbers, times and codes stay where they are none but that: a recording is for those who mend
software, not for the public.
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable
from datetime import date, timedelta

from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import UID_dictionary

from pacs.dicom.dataset import dictionary_vr
from pacs.dicom.sop_classes import STORAGE

BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
"""The VRs whose values become zeros."""

TEXTS = ("LO", "LT", "SH", "ST", "UC", "UR", "UT")
NUMBERS = frozenset({"FD", "FL", "SL", "SS", "SV", "UL", "US", "UV", "AT"})

PATIENT_GROUP = 0x0010
SEXES = ("M", "F", "O")

_WORD = re.compile(r"[^*?]+")
_NAME_PART = re.compile(r"[^*?^=]+")
_DAY = re.compile(r"(?<![\d.])\d{8}")
_DATE = r"\d{8}"
_MOMENT = r"\d{8}(?:\d{2}){0,3}(?:\.\d{1,6})?(?:[+-]\d{4})?"
_TIME = r"\d{2}(?::?\d{2}(?::?\d{2}(?:\.\d{1,6})?)?)?"


def _whole(pattern: str) -> "re.Pattern[str]":
    """A value or a range of values, and nothing else."""
    return re.compile(rf"(?:{pattern})?\s*-?\s*(?:{pattern})?")


_GRAMMARS = {
    "DA": _whole(_DATE),
    "DT": _whole(_MOMENT),
    "TM": _whole(_TIME),
    "CS": re.compile(r"[A-Z0-9 _*?]{0,16}"),
    "IS": re.compile(r" *[+-]?[0-9]{0,12} *|\*"),
    "DS": re.compile(r" *[+-]?[0-9]*\.?[0-9]*(?:[eE][+-]?[0-9]+)? *|\*"),
}
"""What a value of these VRs looks like (PS3.5 6.2), with the wild cards of a query: anything else does not stay."""


class Pseudonyms:
    """The pseudonyms of one recording. What leads back from them is kept nowhere."""

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(16)
        self._days = timedelta(days=1000 + secrets.randbelow(5000))
        self._numbers: dict[tuple[str, str], int] = {}
        self._titles = {""}
        self._by_vr: dict[str, Callable[[int, str], str]] = {
            "PN": lambda _tag, text: _NAME_PART.sub(lambda part: self._number("NAME", part[0]), text),
            "UI": lambda _tag, text: self.uid(text),
            "AE": lambda _tag, text: self.ae_title(text),
            "AS": lambda _tag, _text: "",
            **dict.fromkeys(TEXTS, self._text),
            **dict.fromkeys(_GRAMMARS, self._plain),
        }

    def know(self, titles: Iterable[str]) -> None:
        """These AE titles are those of an association: they stay where they stand in messages too."""
        self._titles.update(titles)

    def dataset(self, dataset: Dataset) -> Dataset:
        """The same data set about somebody else. Raises RecursionError where it is nested too deep."""
        told = Dataset()
        for tag in dataset.keys():  # noqa: SIM118 - not its elements, which are converted then
            if not tag.is_private and keyword_for_tag(tag):
                told.add(self._about_nobody(dataset, tag))
        return told

    def _about_nobody(self, dataset: Dataset, tag: BaseTag) -> DataElement:
        """An element about somebody else; one whose value is none of its VR is empty."""
        try:
            return self._element(dataset[tag])
        except RecursionError:
            raise
        except Exception:  # whatever values make pydicom stumble over
            return DataElement(tag, dictionary_vr(tag), None)

    def uid(self, text: str) -> str:
        """Another UID, always the same for the same one; those that PS3.6 lists stay."""
        if not text or text in UID_dictionary or text in STORAGE or text == "*":
            return text
        digest = hashlib.sha256(self._salt + text.encode("utf-8", "replace")).digest()
        return f"2.25.{int.from_bytes(digest[:15], 'big')}"

    def ae_title(self, text: str) -> str:
        """An AE title of the associations as it is, another one as a numbered word."""
        return text if text.strip() in self._titles else self._number("AE", text.strip())

    def _element(self, element: DataElement) -> DataElement:
        tag, vr = element.tag, dictionary_vr(element.tag)
        if vr == "SQ":
            items = element.value if element.VR == "SQ" else []
            return DataElement(tag, vr, [self.dataset(item) for item in items])
        if vr in BULK:
            return DataElement(tag, vr, bytes(len(element.value or b"")))
        if isinstance(element.value, bytes):  # sent as another VR
            return DataElement(tag, vr, None)
        if vr in NUMBERS:
            values = _values(element.value)
            is_told = tag.group != PATIENT_GROUP and all(isinstance(each, int | float) for each in values)
            return DataElement(tag, vr, values if is_told else None)
        change = self._by_vr[vr]
        if element.keyword == "SpecificCharacterSet":
            change = self._plain
        return DataElement(tag, vr, [change(tag, str(each)) for each in _values(element.value)])

    def _text(self, tag: int, text: str) -> str:
        kind = {0x00100020: "ID", 0x00101000: "ID", 0x00080050: "ACC"}.get(tag, "TEXT")
        return _WORD.sub(lambda word: self._number(kind, word[0].strip()), text)

    def _number(self, kind: str, original: str) -> str:
        if not original:
            return ""
        return f"{kind}{self._numbers.setdefault((kind, original), len(self._numbers) + 1)}"

    def _plain(self, tag: int, text: str) -> str:
        """What is a value of its VR and no more: dates moved, the rest as it is, but not what tells of a patient."""
        vr = dictionary_vr(tag)
        if not _GRAMMARS[vr].fullmatch(text):
            return ""
        if tag >> 16 == PATIENT_GROUP and vr in ("CS", "DS", "IS"):
            return text if text in SEXES else ""
        return _DAY.sub(self._another_day, text) if vr in ("DA", "DT") else text

    def _another_day(self, found: "re.Match[str]") -> str:
        try:
            return (date.fromisoformat(f"{found[0][:4]}-{found[0][4:6]}-{found[0][6:]}") - self._days).strftime(
                "%Y%m%d"
            )
        except (ValueError, OverflowError):
            return "19000101"


def _values(value: object) -> list[object]:
    """The values of an element."""
    if value is None:
        return []
    return list(value) if isinstance(value, MultiValue | list) else [value]
