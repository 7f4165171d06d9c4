"""Any Identifier can be reported, and the report agrees with the parser."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.tag import BaseTag

from pacs.dicom.dataset import raw
from pacs.dicom.elements import LONG_VRS, SHORT_VRS
from pacs.dicom.identifier import parse_query, parse_retrieve
from pacs.dicom.identifier_report import differences, make_report, matching_kind, matching_text
from pacs.dicom.levels import MODELS, DimseOperation
from pacs.dicom.matching_mode import MATCHING_MODES, Negotiated
from pacs.errors import IdentifierError

TAGS = [
    0x00080005, 0x00080016, 0x00080018, 0x00080020, 0x00080030, 0x00080050, 0x00080053, 0x00080060, 0x00080061,
    0x00080201, 0x00100010, 0x00100020, 0x00104000, 0x0020000D, 0x0020000E, 0x00200013, 0x00280010, 0x00400275,
    0x00091001, 0x00090010, 0x7FE00010,
]  # fmt: skip
VALUES = [b"", b"*", b"1.2\\1.3", b"20260101-", b"DOE^J*", b'""', b"1", b"\xff\xfe", b"A\\B", b"\0", b"\x1b[31m\n"]
VRS = sorted({*SHORT_VRS, *LONG_VRS} - {"SQ"})

elements = st.tuples(
    st.sampled_from(TAGS) | st.integers(0, 2**32 - 1),
    st.sampled_from(VRS),
    st.sampled_from(VALUES) | st.binary(max_size=20),
)
levels = st.sampled_from([b"PATIENT ", b"STUDY ", b"SERIES", b"IMAGE ", b"", b"\xff"])
switches = st.builds(Negotiated, *[st.booleans()] * len(Negotiated.__dataclass_fields__))


@settings(max_examples=400, deadline=None)
@given(
    st.lists(elements, max_size=8),
    levels,
    st.sampled_from(sorted(MODELS)),
    st.sampled_from(sorted(MATCHING_MODES)),
    switches,
)
def test_any_identifier_can_be_reported(
    asked: list[tuple[int, str, bytes]], level: bytes, model: str, mode: str, negotiated: Negotiated
) -> None:
    """The report agrees with the parser, and making its texts raises nothing."""
    identifier = Dataset({BaseTag(tag): raw(tag, vr, value) for tag, vr, value in asked})
    identifier[0x00080052] = raw(0x00080052, "CS", level)
    found = make_report(identifier, MODELS[model], MATCHING_MODES[mode], negotiated)
    assert (found.query, _comment(found.error)) == _parsed(identifier, model, mode, negotiated)
    assert all(
        isinstance(text, str) for part in found.parts for text in (matching_kind(part), matching_text(part), part.asked)
    )
    for other in MATCHING_MODES.values():
        assert isinstance(differences(found, make_report(identifier, MODELS[model], other, negotiated)), tuple)


def _parsed(identifier: Dataset, model: str, mode: str, negotiated: Negotiated) -> tuple[Any, str]:
    how = identifier, MODELS[model].root, MATCHING_MODES[mode], negotiated
    try:
        if MODELS[model].operation is DimseOperation.FIND:
            return parse_query(*how), ""
        return parse_retrieve(*how).query, ""
    except IdentifierError as error:
        return None, error.comment


def _comment(error: IdentifierError | None) -> str:
    return error.comment if error is not None else ""
