"""The content of a response: F6, M8, M14, K5 and the return of stored values without loss."""

import pytest
from pydicom import Dataset

from pacs.dicom.attributes import by_keyword
from pacs.dicom.dataset import raw
from pacs.dicom.identifier import decode, encode, parse_query
from pacs.dicom.levels import QueryLevel, Root
from pacs.dicom.matching_mode import STRICT, TOLERANT, Negotiated
from tests.dicom.build import answer, ask, dataset, texts

STORED = {
    "PatientID": "P1", "PatientName": "DOE^JOHN", "StudyInstanceUID": "1.2", "StudyDate": "20200101",
    "SeriesInstanceUID": "1.2.3", "Modality": "CT", "SOPInstanceUID": "1.2.3.4", "SeriesNumber": "7",
}  # fmt: skip
ALWAYS = {"QueryRetrieveLevel", "RetrieveAETitle", "InstanceAvailability"}
SYNTAXES = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"]


@pytest.mark.parametrize(
    ("root", "level", "unique"),
    [
        (Root.PATIENT, "PATIENT", {"PatientID"}),
        (Root.PATIENT, "IMAGE", {"PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"}),
        (Root.STUDY, "STUDY", {"StudyInstanceUID"}),
        (Root.STUDY, "SERIES", {"StudyInstanceUID", "SeriesInstanceUID"}),
    ],
)
def test_f6_a_response_has_the_unique_keys_and_no_other_attributes(root, level, unique):
    """The level, its unique key and those above in this model, Retrieve AE Title, availability; no more."""
    found = texts(answer(ask(level, root), dataset(**STORED)))
    assert found.keys() == ALWAYS | unique
    assert found["QueryRetrieveLevel"] == level
    assert found["RetrieveAETitle"] == "PACS"
    assert found["InstanceAvailability"] == "ONLINE"
    assert all(found[keyword] == STORED[keyword] for keyword in unique)


def test_f6_a_response_has_every_supported_attribute_of_the_request():
    """With its value, or with zero length where it is unknown; what matched is returned too."""
    query = ask(
        "SERIES",
        PatientName="",
        StudyDate="20200101-",
        StudyDescription="",
        SeriesNumber="7",
        RequestAttributesSequence=[],
    )
    found = answer(query, dataset(**STORED))
    assert texts(found)["PatientName"] == "DOE^JOHN"
    assert found.StudyDate == "20200101"
    assert found.SeriesNumber == 7
    assert found["StudyDescription"].value in ("", None)
    assert len(found.RequestAttributesSequence) == 0


def test_f5_ignored_keys_are_not_returned():
    """Attributes below the level and unsupported ones are not in the response."""
    found = answer(ask("STUDY", SOPInstanceUID="", WindowCenter=""), dataset(**STORED))
    assert "SOPInstanceUID" not in found
    assert "WindowCenter" not in found


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_response_is_the_same_in_every_transfer_syntax(syntax):
    """Sequences, numbers and text do not change."""
    item = {"ScheduledProcedureStepID": "A", "RequestedProcedureDescription": "Schädel"}
    stored = dataset("ISO_IR 100", Rows=512, RequestAttributesSequence=[item], **STORED)
    query = ask("IMAGE", charset_="ISO_IR 100", Rows=0, RequestAttributesSequence=[], PatientName="")
    found = decode(encode(answer(query, stored), syntax), syntax)
    assert found.Rows == 512
    assert found.SpecificCharacterSet == "ISO_IR 100"
    assert found.RequestAttributesSequence[0].RequestedProcedureDescription == "Schädel"


def test_k5_computed_attributes_are_never_copied_from_instances():
    """The response has the counts of the index, not those of an instance."""
    stored = dataset(NumberOfStudyRelatedSeries="99", ModalitiesInStudy="XX", **STORED)
    query = ask("STUDY", NumberOfStudyRelatedSeries="", ModalitiesInStudy="", SOPClassesInStudy="")
    computed = {"NumberOfStudyRelatedSeries": 3, "ModalitiesInStudy": ("CT", "PT"), "SOPClassesInStudy": ("1.2.3",)}
    found = answer(query, stored, **computed)
    assert found.NumberOfStudyRelatedSeries == 3
    assert list(found.ModalitiesInStudy) == ["CT", "PT"]
    assert found.SOPClassesInStudy == "1.2.3"
    assert answer(query, stored).get("ModalitiesInStudy") in ("", None)


def test_m3_a_response_to_a_list_of_uids_has_one_uid():
    """The entity's own."""
    query = ask("STUDY", StudyInstanceUID="1.1\\1.2\\1.3")
    assert answer(query, dataset(**STORED)).StudyInstanceUID == "1.2"


def test_m4b_all_values_are_returned_when_one_matches():
    """Of ImageType ORIGINAL PRIMARY AXIAL asked for by AXIAL."""
    stored = dataset(ImageType="ORIGINAL\\PRIMARY\\AXIAL", **STORED)
    assert list(answer(ask("IMAGE", ImageType="AXIAL"), stored).ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]


# --- sequences ---------------------------------------------------------------------------------------------------

STEPS = [
    {"ScheduledProcedureStepID": "A", "RequestedProcedureID": "1", "RequestedProcedureDescription": "head"},
    {"ScheduledProcedureStepID": "B", "RequestedProcedureID": "1", "RequestedProcedureDescription": "neck"},
    {"ScheduledProcedureStepID": "C", "RequestedProcedureID": "2"},
]


def steps(item) -> list[dict[str, str]]:
    """Return the items of the response to a query for Request Attributes with this item."""
    query = ask("SERIES", RequestAttributesSequence=item)
    found = answer(query, dataset(RequestAttributesSequence=STEPS, **STORED))
    return [{each.keyword: str(each.value or "") for each in item} for item in found.RequestAttributesSequence]


def test_m8_the_matching_items_are_returned_with_the_requested_attributes():
    """Not the other items, and of them nothing else."""
    assert steps([{"RequestedProcedureID": "1", "ScheduledProcedureStepID": ""}]) == [
        {"ScheduledProcedureStepID": "A", "RequestedProcedureID": "1"},
        {"ScheduledProcedureStepID": "B", "RequestedProcedureID": "1"},
    ]
    assert steps([{"RequestedProcedureID": "2", "RequestedProcedureDescription": ""}]) == [
        {"RequestedProcedureID": "2", "RequestedProcedureDescription": ""}
    ]


def test_m8_universal_item_keys_return_every_item():
    """With the attributes asked for only."""
    ids = [{"ScheduledProcedureStepID": letter} for letter in "ABC"]
    assert steps([{"ScheduledProcedureStepID": ""}]) == ids


@pytest.mark.parametrize("item", [[], [{}]], ids=["empty sequence", "empty item"])
def test_m8_an_empty_sequence_or_item_returns_the_whole_sequence(item):
    """Every item with everything in it."""
    assert steps(item) == STEPS


def test_m8_items_within_items_are_chosen_too():
    """Recursively, for keys within keys."""
    codes = [{"CodeValue": "X", "CodeMeaning": "x"}, {"CodeValue": "Y", "CodeMeaning": "y"}]
    stored = dataset(RequestAttributesSequence=[{"ScheduledProtocolCodeSequence": codes}], **STORED)
    query = ask("SERIES", RequestAttributesSequence=[{"ScheduledProtocolCodeSequence": [{"CodeValue": "Y"}]}])
    (item,) = answer(query, stored).RequestAttributesSequence
    (code,) = item.ScheduledProtocolCodeSequence
    assert [(each.keyword, each.value) for each in code] == [("CodeValue", "Y")]


# --- character sets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored_in", "name", "asked_in", "answered_in"),
    [
        ("ISO_IR 100", "DOE^JOHN", "ISO_IR 192", None),
        ("ISO_IR 100", "Jérôme", "", "ISO_IR 100"),
        ("ISO_IR 192", "Jérôme", "ISO_IR 100", "ISO_IR 100"),
        ("ISO_IR 100", "Jérôme", "ISO_IR 192", "ISO_IR 192"),
        ("ISO_IR 144", "Люк", "ISO_IR 100", "ISO_IR 192"),
        ("ISO_IR 144", "Люк", "ISO_IR 144", "ISO_IR 144"),
        ("ISO_IR 192", "Yamada=山田", "\\ISO 2022 IR 87", ["", "ISO 2022 IR 87"]),
        ("GB18030", "小东", "GB18030", "GB18030"),
        ("", "Jérôme", "klingon", "ISO_IR 100"),
    ],
)
def test_m14_a_response_states_its_character_set(stored_in, name, asked_in, answered_in):
    """None for ASCII, the requestor's if it can encode the text, else another one; pydicom reads the name."""
    query = ask("STUDY", charset_=asked_in, PatientName="")
    found = answer(query, dataset(stored_in, **STORED | {"PatientName": name}))
    sent = decode(encode(found, SYNTAXES[1]), SYNTAXES[1])
    for each in (found, sent):
        assert each.PatientName == name
        assert each.get("SpecificCharacterSet") == answered_in


def test_m14_text_of_items_decides_about_the_character_set_too():
    """With non-ASCII text in a sequence the response states a character set."""
    stored = dataset("ISO_IR 192", RequestAttributesSequence=[{"RequestedProcedureDescription": "頭"}], **STORED)
    found = answer(ask("SERIES", RequestAttributesSequence=[]), stored)
    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert found.RequestAttributesSequence[0].RequestedProcedureDescription == "頭"


# --- from the files ----------------------------------------------------------------------------------------------


LONG = "ÄÖÜ456789012345"
TEXTS = {
    "AccessionNumber": "SH", "StudyDescription": "LO", "PatientName": "PN", "InstitutionAddress": "ST",
    "PatientComments": "LT", "StrainDescription": "UC", "ReasonForVisit": "UT", "SeriesDescription": "LO",
}  # fmt: skip


@pytest.mark.parametrize("asked_in", ["ISO_IR 100", "ISO_IR 192", ""])
@pytest.mark.parametrize("padding", ["", " ", "\0"])
@pytest.mark.parametrize("text", [LONG, "Ä" + LONG, "ABC"])
@pytest.mark.parametrize("keyword", TEXTS)
def test_m14_a_value_never_gets_longer_than_it_was_stored(keyword, text, padding, asked_in):
    """A response in another character set has no more characters than the instance, but for one of padding (6.2)."""
    value = (text + padding).encode("latin-1")
    stored = dataset("ISO_IR 100", **{**STORED, keyword: value})
    query = ask("IMAGE", charset_=asked_in, **{keyword: ""})
    found = answer(query, stored).get_item(by_keyword(keyword).tag).value
    characters = found.decode("utf-8" if asked_in == "ISO_IR 192" else "latin-1")
    assert len(found) % 2 == 0
    assert characters.rstrip(" \0") == text
    needed = characters.removesuffix(" ").encode("utf-8" if asked_in == "ISO_IR 192" else "latin-1")
    assert len(characters) <= len(value) or len(needed) % 2, "padding only where the length is odd"


def test_attributes_in_files_are_returned_at_image_level():
    """From the data set that was read, in its own character set."""
    stored = dataset("ISO_IR 100", WindowCenter="40\\400", ContrastBolusAgent="Ränke", **STORED)
    found = answer(ask("IMAGE", charset_="ISO_IR 192", WindowCenter="", ContrastBolusAgent="", FilterType=""), stored)
    assert [str(value) for value in found.WindowCenter] == ["40", "400"]
    assert found.ContrastBolusAgent == "Ränke"
    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert found["FilterType"].value in ("", None)


def test_f6_the_timezone_of_an_instance_is_returned_if_known():
    """At IMAGE level, where it belongs to the dates and times of the response."""
    stored = dataset(TimezoneOffsetFromUTC="+0100", **STORED)
    assert answer(ask("IMAGE"), stored).TimezoneOffsetFromUTC == "+0100"
    assert "TimezoneOffsetFromUTC" not in answer(ask("STUDY"), stored)
    assert "TimezoneOffsetFromUTC" not in answer(ask("IMAGE"), dataset(**STORED))


def test_m17_a_private_attribute_is_returned_in_the_block_of_the_request():
    """With its creator, in any block of the file; with zero length where the block has another creator."""

    def private(block: int, creator: bytes, value: bytes) -> Dataset:
        made = dataset(**STORED)
        made[0x00090000 | block] = raw(0x00090000 | block, "LO", creator)
        made[0x00090001 | block << 8] = raw(0x00090001 | block << 8, "LO", value)
        return made

    asked = private(0x10, b"ACME", b"")
    asked[0x00080052] = raw(0x00080052, "CS", b"IMAGE ")
    query = parse_query(asked, Root.STUDY, TOLERANT, Negotiated())
    for stored, value in ((private(0x42, b"ACME", b"ABC"), "ABC"), (private(0x10, b"OTHER ", b"X"), "")):
        found = answer(query, stored)
        assert found[0x00090010].value == "ACME"
        assert (found[0x00091001].value or "") == value


# --- strange values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [TOLERANT, STRICT])
def test_invalid_values_are_returned_unchanged(mode):
    """An invalid date, an invalid number and a name with seven components are returned byte for byte."""
    strange = {
        "StudyInstanceUID": "1.2", "StudyDate": "00000000", "StudyTime": b"\xff?", "PatientName": "a^b^c^d^e^f^g",
        "NumberOfFrames": "many", "PatientSex": b"\xe9\xe9",
    }  # fmt: skip
    asked = dict.fromkeys([*strange, "SOPInstanceUID"], "")
    query = ask("IMAGE", mode=mode, negotiated=Negotiated(relational=True), **asked)
    found = answer(query, dataset(**strange))
    for element in dataset(**strange).values():
        assert found.get_item(element.tag).value.rstrip(b" \0") == element.value
    assert query.level is QueryLevel.IMAGE
