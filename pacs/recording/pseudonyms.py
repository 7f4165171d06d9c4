"""De-identifies recorded messages; within a recording, equal originals get equal pseudonyms.

The VR in PS3.6 decides, not the one received, in the spirit of PS3.15 Annex E. Names and texts become numbered words,
UIDs new UIDs; dates move by some thousand days; pixels and other bulk data become zeros; private elements and ages are
removed. Wild cards, ranges, lists and empty values remain, so that a query keeps its meaning. Valid numbers, times and
codes remain: a recording is for developers, not for publication.
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
"""VRs whose values become zeros."""

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
    """Return a pattern for a value or a range of values."""
    return re.compile(rf"(?:{pattern})?\s*-?\s*(?:{pattern})?")


_GRAMMARS = {
    "DA": _whole(_DATE),
    "DT": _whole(_MOMENT),
    "TM": _whole(_TIME),
    "CS": re.compile(r"[A-Z0-9 _*?]{0,16}"),
    "IS": re.compile(r" *[+-]?[0-9]{0,12} *|\*"),
    "DS": re.compile(r" *[+-]?[0-9]*\.?[0-9]*(?:[eE][+-]?[0-9]+)? *|\*"),
}
"""Valid values of these VRs (PS3.5 6.2), including wild cards; other values are removed."""


class Pseudonyms:
    """The pseudonyms of one recording. Originals are not stored."""

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
            **dict.fromkeys(_GRAMMARS, self._valid_value),
        }

    def keep_titles(self, titles: Iterable[str]) -> None:
        """Keep these AE titles of the associations unchanged in messages too."""
        self._titles.update(titles)

    def dataset(self, dataset: Dataset) -> Dataset:
        """Return the de-identified data set. Raises RecursionError if it is nested too deeply."""
        result = Dataset()
        for tag in dataset.keys():  # noqa: SIM118 - iterating over elements converts them
            if not tag.is_private and keyword_for_tag(tag):
                result.add(self._pseudonymized(dataset, tag))
        return result

    def _pseudonymized(self, dataset: Dataset, tag: BaseTag) -> DataElement:
        """Return the de-identified element, empty if its value is invalid for its VR."""
        try:
            return self._element(dataset[tag])
        except RecursionError:
            raise
        except Exception:  # any exception of pydicom for invalid values
            return DataElement(tag, dictionary_vr(tag), None)

    def uid(self, text: str) -> str:
        """Return the pseudonym of a UID; those listed in PS3.6 remain."""
        if not text or text in UID_dictionary or text in STORAGE or text == "*":
            return text
        digest = hashlib.sha256(self._salt + text.encode("utf-8", "replace")).digest()
        return f"2.25.{int.from_bytes(digest[:15], 'big')}"

    def ae_title(self, text: str) -> str:
        """Return an AE title of the associations unchanged, another one as a numbered word."""
        return text if text.strip() in self._titles else self._number("AE", text.strip())

    def _element(self, element: DataElement) -> DataElement:
        tag, vr = element.tag, dictionary_vr(element.tag)
        if vr == "SQ":
            items = element.value if element.VR == "SQ" else []
            return DataElement(tag, vr, [self.dataset(item) for item in items])
        if vr in BULK:
            return DataElement(tag, vr, bytes(len(element.value or b"")))
        if isinstance(element.value, bytes):  # received with another VR
            return DataElement(tag, vr, None)
        if vr in NUMBERS:
            values = values_of(element.value)
            is_told = tag.group != PATIENT_GROUP and all(isinstance(each, int | float) for each in values)
            return DataElement(tag, vr, values if is_told else None)
        change = self._by_vr[vr]
        if element.keyword == "SpecificCharacterSet":
            change = self._valid_value
        return DataElement(tag, vr, [change(tag, str(each)) for each in values_of(element.value)])

    def _text(self, tag: int, text: str) -> str:
        kind = {0x00100020: "ID", 0x00101000: "ID", 0x00080050: "ACC"}.get(tag, "TEXT")
        return _WORD.sub(lambda word: self._number(kind, word[0].strip()), text)

    def _number(self, kind: str, original: str) -> str:
        if not original:
            return ""
        return f"{kind}{self._numbers.setdefault((kind, original), len(self._numbers) + 1)}"

    def _valid_value(self, tag: int, text: str) -> str:
        """Return a valid value with shifted dates, '' for an invalid one or one that describes the patient."""
        vr = dictionary_vr(tag)
        if not _GRAMMARS[vr].fullmatch(text):
            return ""
        if tag >> 16 == PATIENT_GROUP and vr in ("CS", "DS", "IS"):
            return text if text in SEXES else ""
        return _DAY.sub(self._shifted_day, text) if vr in ("DA", "DT") else text

    def _shifted_day(self, found: "re.Match[str]") -> str:
        try:
            return (date.fromisoformat(f"{found[0][:4]}-{found[0][4:6]}-{found[0][6:]}") - self._days).strftime(
                "%Y%m%d"
            )
        except (ValueError, OverflowError):
            return "19000101"


def values_of(value: object) -> list[object]:
    """Return the values of an element."""
    if value is None:
        return []
    return list(value) if isinstance(value, MultiValue | list) else [value]
