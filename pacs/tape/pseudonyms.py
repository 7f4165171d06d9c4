"""Who an association is about, taken out of it: the same original has the same pseudonym all through a recording.

By the VR of an element, in the spirit of PS3.15 Annex E: names and texts become numbered words, UIDs other ones, dates
move by some thousand days, pixels and all else that is bulk become zeros, private elements and ages go. Wild cards,
ranges, lists and empty values stay what they are, so that a query still asks the same kind of question. What numbers,
codes and times say stays: a recording is for those who mend software, not for the public.
"""

import hashlib
import re
import secrets
from collections.abc import Callable
from datetime import date, timedelta

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID_dictionary

BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
"""The VRs whose values become zeros."""

DICOM_ROOT = "1.2.840.10008."
PATIENT_GROUP = 0x0010

_DATE = re.compile(r"(?<!\d)\d{8}")
_WORD = re.compile(r"[^*?]+")
_NAME_PART = re.compile(r"[^*?^=]+")


class Pseudonyms:
    """The pseudonyms of one recording. What leads back from them is kept nowhere."""

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(16)
        self._days = timedelta(days=1000 + secrets.randbelow(5000))
        self._numbers: dict[tuple[str, str], int] = {}
        self._by_vr: dict[str, Callable[[str, str], str]] = {
            "PN": lambda _keyword, text: _NAME_PART.sub(lambda part: self._number("NAME", part[0]), text),
            "UI": lambda _keyword, text: self.uid(text),
            "DA": lambda _keyword, text: self._moved(text),
            "DT": lambda _keyword, text: self._moved(text),
            "AS": lambda _keyword, _text: "",
        } | dict.fromkeys(("LO", "LT", "SH", "ST", "UC", "UR", "UT"), self._text)

    def dataset(self, dataset: Dataset) -> Dataset:
        """The same data set about somebody else; `dataset` is not changed."""
        told = Dataset()
        for element in dataset:
            if not element.tag.is_private and element.keyword:
                told.add(self._element(element))
        return told

    def uid(self, text: str) -> str:
        """Another UID, always the same for the same one; those of the standard stay."""
        if not text or text in UID_dictionary or text.startswith(DICOM_ROOT):
            return text
        digest = hashlib.sha256(self._salt + text.encode("utf-8", "replace")).digest()
        return f"2.25.{int.from_bytes(digest[:15], 'big')}"

    def _element(self, element: DataElement) -> DataElement:
        vr = element.VR
        if vr == "SQ":
            return DataElement(element.tag, vr, [self.dataset(item) for item in element.value])
        if vr in BULK:
            return DataElement(element.tag, vr, bytes(len(element.value or b"")))
        change = self._by_vr.get(vr)
        if change is not None and element.keyword != "SpecificCharacterSet":
            return DataElement(element.tag, vr, [change(element.keyword, each) for each in _texts(element.value)])
        if element.tag.group == PATIENT_GROUP and vr not in ("CS", "TM"):
            return DataElement(element.tag, vr, None)
        return DataElement(element.tag, vr, element.value)

    def _text(self, keyword: str, text: str) -> str:
        kind = {"PatientID": "ID", "OtherPatientIDs": "ID", "AccessionNumber": "ACC"}.get(keyword, "TEXT")
        return _WORD.sub(lambda word: self._number(kind, word[0].strip()), text)

    def _number(self, kind: str, original: str) -> str:
        if not original:
            return ""
        return f"{kind}{self._numbers.setdefault((kind, original), len(self._numbers) + 1)}"

    def _moved(self, text: str) -> str:
        """Dates, alone or in ranges, moved by the days of this recording; what is no whole date goes."""
        return _DATE.sub(self._another, text) if _DATE.search(text) else "-" if text == "-" else ""

    def _another(self, found: re.Match[str]) -> str:
        try:
            return (date.fromisoformat(f"{found[0][:4]}-{found[0][4:6]}-{found[0][6:]}") - self._days).strftime(
                "%Y%m%d"
            )
        except (ValueError, OverflowError):
            return "19000101"


def _texts(value: object) -> list[str]:
    """The values of an element as texts."""
    if value is None:
        return []
    return [str(each) for each in value] if isinstance(value, MultiValue | list) else [str(value)]
