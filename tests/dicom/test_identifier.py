"""Identifiers: decoding within bounds, the rules of the information models (F1 to F6, K2 to K4, M17, M18, V1)."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs.dicom.dataset import IMPLICIT_LITTLE, View, raw, write
from pacs.dicom.identifier import LONGEST, decode, encode, parse_query, parse_retrieve
from pacs.dicom.levels import QueryLevel, Root
from pacs.dicom.matching_mode import STRICT, TOLERANT, Negotiated
from pacs.dicom.query import Single
from pacs.errors import IdentifierError, PacsError, UndecodableDataSet
from tests.dicom.build import ask, dataset

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
BOTH = pytest.mark.parametrize("mode", [TOLERANT, STRICT], ids=lambda mode: mode.name)
NOTHING = Negotiated()
RELATIONAL = Negotiated(relational=True)


def refused(level: str | None = None, root: Root = Root.STUDY, mode=TOLERANT, negotiated=NOTHING, **keys) -> PacsError:
    """Return the error of a C-FIND with these keys."""
    levels = {} if level is None else {"QueryRetrieveLevel": level}
    with pytest.raises(IdentifierError) as caught:
        parse_query(dataset(**levels, **keys), root, mode, negotiated)
    assert 0 < len(caught.value.comment) <= 64
    assert caught.value.tags
    return caught.value


def keywords(query) -> set[str]:
    """The attributes that a query has keys for."""
    return {key.attribute.keyword for key in query.keys}


# --- decoding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_an_identifier_is_the_same_in_every_transfer_syntax(syntax):
    """Decoding what was encoded gives the same query, sequences and binary keys included."""
    asked = dataset(
        "ISO_IR 192", QueryRetrieveLevel="IMAGE", PatientName="Jérôme", Rows=512, SOPInstanceUID="1.2\\1.3",
        SpecimenDescriptionSequence=[{"SpecimenIdentifier": "S1"}],
    )  # fmt: skip
    again = decode(encode(asked, syntax), syntax)
    assert parse_query(again, Root.STUDY, TOLERANT, RELATIONAL) == parse_query(asked, Root.STUDY, TOLERANT, RELATIONAL)


def test_p9_a_deflated_identifier_is_refused():
    """A megabyte cannot become a gigabyte."""
    with pytest.raises(UndecodableDataSet):
        decode(b"", DEFLATED)
    with pytest.raises(UndecodableDataSet):
        encode(dataset(), DEFLATED)


@pytest.mark.parametrize("depth", [65, 300, 100_000])
@pytest.mark.parametrize("is_delimited", [True, False])
def test_p10_deep_nesting_is_refused_without_recursion(depth, is_delimited):
    """A named error, not a RecursionError, for delimited and for defined lengths."""
    head = struct.pack("<HHL", 0x0040, 0x0275, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    data = head * depth
    if not is_delimited:
        levels = min(depth, 3000)
        data = b""
        for _ in range(levels):
            item = struct.pack("<HHL", 0xFFFE, 0xE000, len(data)) + data
            data = struct.pack("<HHL", 0x0040, 0x0275, len(item)) + item
    with pytest.raises(UndecodableDataSet):
        decode(data, IMPLICIT)


def test_p10_sixty_four_nested_sequences_are_accepted():
    """The limit is DCMTK's."""
    nested: list = []
    for _ in range(63):
        nested = [{"RequestAttributesSequence": nested}]
    made = dataset(QueryRetrieveLevel="SERIES", RequestAttributesSequence=nested)
    query = parse_query(decode(encode(made, EXPLICIT), EXPLICIT), Root.STUDY, TOLERANT, Negotiated())
    assert not query.keys


def test_a_million_elements_are_refused_before_they_are_read():
    """Many tiny elements, and many tiny items, cost bounded time and memory."""
    elements = b"".join(struct.pack("<HHL", 0x0009 + n // 60_000 * 2, 0x1000 + n % 60_000, 0) for n in range(100_000))
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 100_000
    for data in (elements, struct.pack("<HHL", 0x0040, 0x0275, len(items)) + items):
        with pytest.raises(UndecodableDataSet):
            decode(data, IMPLICIT)


@pytest.mark.parametrize(
    ("data", "syntax"),
    [
        (b"\x08", IMPLICIT),
        (b"\x08\0\x52\0\xff\xff\xff\x7fSTUDY ", IMPLICIT),
        (b"\x08\0\x52\0CS\xff\xffSTUDY ", EXPLICIT),
        (encode(dataset(QueryRetrieveLevel="STUDY"), EXPLICIT), IMPLICIT),
        (encode(dataset(QueryRetrieveLevel="STUDY"), IMPLICIT), EXPLICIT),
        (encode(dataset(QueryRetrieveLevel="STUDY"), BIG), EXPLICIT),
        (b"\0" * (LONGEST + 1), IMPLICIT),
        (b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0", EXPLICIT),
    ],
)
def test_an_invalid_identifier_is_refused_with_a_named_error(data, syntax):
    """Truncated, wrong lengths, the wrong transfer syntax, too long, encapsulated Pixel Data."""
    with pytest.raises(UndecodableDataSet):
        decode(data, syntax)


@given(st.binary(max_size=200), st.sampled_from([IMPLICIT, EXPLICIT, BIG]))
def test_any_bytes_are_parsed_or_refused_with_a_named_error(data, syntax):
    """Only the project's own errors are raised."""
    try:
        found = decode(data, syntax)
        parse_query(found, Root.STUDY, TOLERANT, Negotiated())
    except (UndecodableDataSet, IdentifierError):
        return


ASKED = (
    "PatientName", "StudyDate", "StudyTime", "SeriesNumber", "StudyInstanceUID", "Rows", "PixelSpacing",
    "RequestAttributesSequence", "SpecificCharacterSet", "ModalitiesInStudy",
)  # fmt: skip


@pytest.mark.parametrize("mode", [TOLERANT, STRICT])
@given(st.dictionaries(st.sampled_from(ASKED), st.binary(max_size=24), max_size=4))
def test_any_values_are_parsed_or_refused_with_a_named_error(mode, values):
    """Keys of any bytes, in queries and in retrieves; the comment fits an Error Comment."""
    asked = dataset(QueryRetrieveLevel="IMAGE", **values)
    comments = []
    for parse in (
        lambda: parse_query(asked, Root.STUDY, mode, RELATIONAL),
        lambda: parse_retrieve(asked, Root.STUDY, mode),
    ):
        try:
            parse()
        except IdentifierError as error:
            comments.append(error.comment)
    assert all(0 < len(comment) <= 64 for comment in comments)


# --- F1 to F6: the rules of a query ------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("level", [None, "", "  "])
def test_f1_a_missing_level_is_never_guessed(mode, level):
    """Refused, with the level as Offending Element."""
    assert refused(level, mode=mode, PatientID="P1").tags == (0x00080052,)


@BOTH
@pytest.mark.parametrize(
    ("root", "level"),
    [
        (Root.STUDY, "PATIENT"),
        (Root.PATIENT_STUDY_ONLY, "SERIES"),
        (Root.PATIENT_STUDY_ONLY, "IMAGE"),
        (Root.PATIENT, "FRAME"),
        (Root.PATIENT_STUDY_ONLY, "IMAGES"),
        (Root.PATIENT, "STUDY\\SERIES"),
    ],
)
def test_f2_a_level_outside_the_model_is_refused(mode, root, level):
    """PATIENT in Study Root, IMAGE in Patient/Study Only, and an unknown level."""
    assert refused(level, root, mode, PatientID="P1").tags == (0x00080052,)


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("INSTANCE", "IMAGE"),
        ("Instances", "IMAGE"),
        ("IMAGES ", "IMAGE"),
        ("studies", "STUDY"),
        ("PATIENTS", "PATIENT"),
    ],
)
def test_f2_other_names_of_levels_are_understood_in_the_tolerant_mode_only(name, level):
    """As dcm4che and viewers write them, in queries and retrieves."""
    assert ask(name, Root.PATIENT, TOLERANT, PatientID="P1").level is QueryLevel[level]
    key = QueryLevel[level].unique_key
    assert select(name, Root.PATIENT, TOLERANT, **{key: "1.2"}).level is QueryLevel[level]
    assert refused(name, Root.PATIENT, STRICT, PatientID="P1").tags == (0x00080052,)


@pytest.mark.parametrize("level", ["study", "Study ", " STUDY", b"STUDY\0"])
def test_m18_case_and_padding_of_the_level_do_not_matter(level):
    """Devices send them."""
    assert ask(level, PatientID="P1").level is QueryLevel.STUDY


def test_m18_group_lengths_and_groups_below_0008_are_ignored():
    """They are not keys, and no reason for FF01."""
    asked = dataset(QueryRetrieveLevel="STUDY", PatientID="P1")
    for tag in (0x00080001, 0x00000002, 0x00020010, 0x00040000, 0x00080000, 0x00100000, 0x00090000):
        asked[tag] = raw(tag, "UL", b"\1\0\0\0")
    query = parse_query(asked, Root.STUDY, TOLERANT, Negotiated())
    assert keywords(query) == {"PatientID"}
    assert not query.ignored


def test_f3_no_key_at_all_matches_nothing_or_everything():
    """The hierarchical search finds nothing without keys; the tolerant mode lists all."""
    assert ask("STUDY", mode=STRICT).nothing_matches
    assert ask("SERIES", Root.PATIENT, mode=STRICT).nothing_matches
    assert not ask("STUDY", mode=TOLERANT).nothing_matches


def test_f3_the_unique_key_of_the_level_is_required_in_the_strict_mode():
    """Present, be it empty; the tolerant mode takes it as universal."""
    assert refused("STUDY", mode=STRICT, PatientID="P1").tags == (0x0020000D,)
    assert refused("STUDY", mode=STRICT, negotiated=RELATIONAL, PatientID="P1").tags == (0x0020000D,)
    assert keywords(ask("STUDY", mode=TOLERANT, PatientID="P1")) == {"PatientID"}
    assert keywords(ask("STUDY", mode=STRICT, PatientID="P1", StudyInstanceUID="")) == {"PatientID"}


@pytest.mark.parametrize(
    ("root", "level", "keys", "missing"),
    [
        (Root.PATIENT, "STUDY", {"StudyInstanceUID": ""}, 0x00100020),
        (Root.PATIENT, "STUDY", {"StudyInstanceUID": "", "PatientID": ""}, 0x00100020),
        (Root.PATIENT, "STUDY", {"StudyInstanceUID": "", "PatientID": "P*"}, 0x00100020),
        (Root.PATIENT, "SERIES", {"SeriesInstanceUID": "", "PatientID": "P1"}, 0x0020000D),
        (Root.STUDY, "SERIES", {"SeriesInstanceUID": ""}, 0x0020000D),
        (Root.STUDY, "IMAGE", {"SOPInstanceUID": "", "StudyInstanceUID": "1.2"}, 0x0020000E),
        (
            Root.STUDY,
            "IMAGE",
            {"SOPInstanceUID": "", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1\\2"},
            0x0020000E,
        ),
    ],
)
def test_f4_each_level_above_needs_one_unique_key(root, level, keys, missing):
    """Single-valued and not wild; unless relational queries are negotiated or tolerated."""
    assert refused(level, root, STRICT, **keys).tags == (missing,)
    assert ask(level, root, STRICT, RELATIONAL, **keys).level.name == level
    assert ask(level, root, TOLERANT, **keys).level.name == level


def test_f4_a_complete_hierarchical_query_is_valid_in_both_modes():
    """Patient Root at IMAGE, every level named."""
    keys = {"PatientID": "P1", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3", "SOPInstanceUID": ""}
    for mode in (TOLERANT, STRICT):
        assert keywords(ask("IMAGE", Root.PATIENT, mode, **keys)) == {
            "PatientID",
            "StudyInstanceUID",
            "SeriesInstanceUID",
        }


def test_f5_keys_below_the_level_are_refused_or_ignored():
    """Strict: A900 naming them. Tolerant: not matched, not returned, FF01."""
    keys = {"StudyInstanceUID": "", "SOPInstanceUID": "1.2.3", "Modality": ""}
    assert set(refused("STUDY", mode=STRICT, **keys).tags) == {0x00080018, 0x00080060}
    query = ask("STUDY", mode=TOLERANT, **keys)
    assert set(query.ignored) == {0x00080018, 0x00080060}
    assert not query.keys
    assert {each.attribute.keyword for each in query.return_keys} == {"StudyInstanceUID"}


@BOTH
def test_f5_keys_above_the_level_are_returned(mode):
    """Viewers send Patient Name at STUDY level of Patient Root; it matches, and nothing is ignored."""
    query = ask("STUDY", Root.PATIENT, mode, PatientID="P1", PatientName="DOE*", StudyInstanceUID="")
    assert keywords(query) == {"PatientID", "PatientName"}
    assert not query.ignored


@pytest.mark.parametrize(
    ("values", "tag"),
    [
        ({"QueryRetrieveView": "CLASSIC"}, 0x00080053),
        ({"InstanceAvailability": ""}, 0x00080056),
        ({"SpecificCharacterSet": ""}, 0x00080005),
        ({"TimezoneOffsetFromUTC": ""}, 0x00080201),
    ],
)
def test_f6_elements_not_allowed_in_a_request_are_refused_or_ignored(values, tag):
    """View, Instance Availability, and an empty character set or time zone."""
    assert refused("STUDY", mode=STRICT, StudyInstanceUID="", **values).tags == (tag,)
    query = ask("STUDY", mode=TOLERANT, StudyInstanceUID="", **values)
    assert not query.keys
    assert not query.ignored


@BOTH
def test_f6_elements_that_are_not_keys_never_match(mode):
    """Retrieve AE Title, character set and time zone are in the request and select nothing."""
    query = ask(
        "STUDY", mode=mode, StudyInstanceUID="", RetrieveAETitle="OTHER", TimezoneOffsetFromUTC="+0100",
        charset_="ISO_IR 100",
    )  # fmt: skip
    assert not query.keys
    assert not query.ignored
    assert query.character_set == ("ISO_IR 100",)


@BOTH
@pytest.mark.parametrize("tag", [0x00091001, 0x00187FFF, 0x7FE00010])
def test_k3_unsupported_keys_are_ignored_and_listed(mode, tag):
    """Private without creator, unknown, and bulk data: FF01."""
    asked = dataset(QueryRetrieveLevel="IMAGE", SOPInstanceUID="")
    asked[tag] = raw(tag, "UN", b"")
    query = parse_query(asked, Root.STUDY, mode, RELATIONAL)
    assert query.ignored == (tag,)
    assert tag not in {each.attribute.tag for each in query.return_keys}


@BOTH
def test_k3_attributes_in_files_are_keys_at_image_level_only(mode):
    """At IMAGE they match and return; above they are not supported."""
    at_image = ask("IMAGE", mode=mode, negotiated=RELATIONAL, SOPInstanceUID="", WindowCenter="40")
    assert keywords(at_image) == {"WindowCenter"}
    at_study = ask("STUDY", mode=mode, StudyInstanceUID="", WindowCenter="40")
    assert at_study.ignored == (0x00281050,)
    assert not at_study.keys


@BOTH
@pytest.mark.parametrize(
    "values",
    [{"PatientName": [{}]}, {"RequestAttributesSequence": b"x\0"}],
    ids=["an item as name", "text as sequence"],
)
def test_a_key_of_the_wrong_kind_is_refused(mode, values):
    """A sequence where there is none, and none where there is one."""
    asked = dataset(QueryRetrieveLevel="SERIES", SeriesInstanceUID="", **values)
    for tag, element in list(asked.items()):
        if tag in (0x00100010, 0x00400275):
            asked[tag] = element._replace(VR="SQ" if tag == 0x00100010 else "LO")
    with pytest.raises(IdentifierError):
        parse_query(asked, Root.STUDY, mode, RELATIONAL)


def test_a_list_longer_than_16_bits_is_accepted_as_un_or_implicit():
    """PS3.5 6.2.2: what is too long for its explicit VR is sent as UN."""
    uids = "\\".join(f"1.2.{n:050}" for n in range(2000))
    asked = dataset(QueryRetrieveLevel="STUDY", StudyInstanceUID=uids)
    for syntax in (IMPLICIT, EXPLICIT):
        query = parse_query(decode(encode(asked, syntax), syntax), Root.STUDY, TOLERANT, Negotiated())
        assert isinstance(query.keys[0].matching, Single)
        assert len(query.keys[0].matching.values) == 2000


def test_a_nested_character_set_is_honoured():
    """An item may state its own (PS3.5 7.5.3)."""
    item = write(View(dataset("ISO_IR 144", RequestedProcedureDescription="Люк"), ("ISO_IR 144",)), IMPLICIT_LITTLE)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, len(item)) + item
    sequence = struct.pack("<HHL", 0x0040, 0x0275, len(item)) + item
    data = encode(dataset(QueryRetrieveLevel="SERIES"), IMPLICIT) + sequence
    (key,) = parse_query(decode(data, IMPLICIT), Root.STUDY, TOLERANT, Negotiated()).keys
    assert key.matching.keys[0].matching == Single(("Люк",))


# --- V1, K4: the rules of a retrieve -----------------------------------------------------------------------------


def select(level: str, root: Root = Root.PATIENT, mode=TOLERANT, **keys):
    """Return the selection of a C-MOVE with these keys."""
    return parse_retrieve(dataset(QueryRetrieveLevel=level, **keys), root, mode)


PATIENT_KEYS = {"PatientID": "P1"}
STUDY_KEYS = {**PATIENT_KEYS, "StudyInstanceUID": "1.2"}
SERIES_KEYS = {**STUDY_KEYS, "SeriesInstanceUID": "1.2.3"}
IMAGE_KEYS = {**SERIES_KEYS, "SOPInstanceUID": "1.2.3.4"}


@BOTH
@pytest.mark.parametrize(
    ("level", "keys"),
    [
        ("PATIENT", PATIENT_KEYS),
        ("STUDY", STUDY_KEYS),
        ("STUDY", {**PATIENT_KEYS, "StudyInstanceUID": "1.2\\1.3"}),
        ("SERIES", SERIES_KEYS),
        ("SERIES", {**STUDY_KEYS, "SeriesInstanceUID": "1.2.3\\1.2.4"}),
        ("IMAGE", IMAGE_KEYS),
        ("IMAGE", {**SERIES_KEYS, "SOPInstanceUID": "1\\2\\3"}),
    ],
)
def test_v1_unique_keys_select_at_every_level(mode, level, keys):
    """One of each level above, one or a list of UID at the level; the query is for instances."""
    found = select(level, mode=mode, **keys)
    assert found.level.name == level
    assert found.query.level is QueryLevel.IMAGE
    assert keywords(found.query) == set(keys)
    assert not found.query.unknown_matches


@BOTH
@pytest.mark.parametrize(
    ("level", "keys"),
    [
        ("PATIENT", {}),
        ("PATIENT", {"PatientID": ""}),
        ("PATIENT", {"PatientID": "P*"}),
        ("PATIENT", {"PatientID": "*"}),
        ("PATIENT", {"PatientID": "P1\\P2"}),
        ("STUDY", PATIENT_KEYS),
        ("STUDY", {**PATIENT_KEYS, "StudyInstanceUID": ""}),
        ("STUDY", {**PATIENT_KEYS, "StudyInstanceUID": "*"}),
        ("STUDY", {**PATIENT_KEYS, "StudyInstanceUID": "1.*"}),
        ("SERIES", STUDY_KEYS),
        ("SERIES", {**STUDY_KEYS, "SeriesInstanceUID": ""}),
        ("IMAGE", {**SERIES_KEYS, "SOPInstanceUID": ""}),
        ("IMAGE", {**SERIES_KEYS, "SOPInstanceUID": "?"}),
        ("STUDY", {**STUDY_KEYS, "SOPInstanceUID": "1.2"}),
        ("STUDY", {**STUDY_KEYS, "WindowCenter": "40"}),
        ("IMAGE", {**IMAGE_KEYS, "WindowCenter": "40"}),
        ("STUDY", {**STUDY_KEYS, "PatientName": "DOE*"}),
        ("STUDY", {**STUDY_KEYS, "StudyDescription": "*"}),
    ],
)
def test_v1_a_retrieve_with_an_unsupported_key_is_refused(mode, level, keys):
    """Missing, universal and wild keys, and keys that are not supported, are A900 and never ignored."""
    with pytest.raises(IdentifierError) as caught:
        select(level, mode=mode, **keys)
    assert 0 < len(caught.value.comment) <= 64
    assert caught.value.tags


@BOTH
def test_v1_a_private_or_unknown_key_is_refused(mode):
    """An unknown key must not be ignored."""
    for tag in (0x00091001, 0x00187FFF):
        asked = dataset(QueryRetrieveLevel="STUDY", **STUDY_KEYS)
        asked[tag] = raw(tag, "LO", b"X ")
        with pytest.raises(IdentifierError) as caught:
            parse_retrieve(asked, Root.PATIENT, mode)
        assert caught.value.tags == (tag,)


@BOTH
def test_v1_a_level_outside_the_model_is_refused(mode):
    """As in a query."""
    for root, level in ((Root.STUDY, "PATIENT"), (Root.PATIENT_STUDY_ONLY, "SERIES"), (Root.PATIENT, "")):
        with pytest.raises(IdentifierError) as caught:
            select(level, root, mode, **IMAGE_KEYS)
        assert caught.value.tags == (0x00080052,)


@pytest.mark.parametrize(
    ("root", "level", "keys"),
    [
        (Root.STUDY, "STUDY", {"AccessionNumber": "A1"}),
        (Root.STUDY, "STUDY", {"PatientID": "P1"}),
        (Root.PATIENT, "PATIENT", {"PatientName": "DOE^JOHN", "PatientID": "P1"}),
        (Root.PATIENT, "PATIENT", {"PatientName": "DOE^JOHN"}),
        (Root.STUDY, "STUDY", {"PatientID": "P1", "StudyDate": "20200101-20200131"}),
        (Root.STUDY, "SERIES", {"StudyInstanceUID": "1.2", "Modality": "CT"}),
        (Root.STUDY, "SERIES", {"SeriesInstanceUID": "1.2.3"}),
        (Root.STUDY, "IMAGE", {"SOPInstanceUID": "1\\2"}),
        (Root.STUDY, "STUDY", {"PatientID": "P1", "ModalitiesInStudy": "CT"}),
        (Root.STUDY, "STUDY", {"StudyInstanceUID": "1.2", "PatientID": "", "PatientName": ""}),
        (Root.PATIENT, "STUDY", {"StudyInstanceUID": "1.2", "PatientID": "", "WindowCenter": ""}),
        (Root.STUDY, "STUDY", {"StudyInstanceUID": "", "AccessionNumber": "A1"}),
        (Root.STUDY, "STUDY", {"StudyInstanceUID": "", "PatientID": "P1"}),
        (Root.STUDY, "SERIES", {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "", "Modality": "CT"}),
        (Root.PATIENT, "PATIENT", {"PatientID": "", "PatientName": "DOE^JOHN"}),
        (Root.STUDY, "STUDY", {"StudyInstanceUID": "", "StudyDescription": "Schädel".encode()}),
    ],
)
def test_k4_other_keys_select_in_the_tolerant_mode_only(root, level, keys):
    """An Accession Number alone, a name and an ID together; the strict mode wants unique keys and no others."""
    found = select(level, root, TOLERANT, **keys)
    assert keywords(found.query) == {keyword for keyword, value in keys.items() if value}
    with pytest.raises(IdentifierError):
        select(level, root, STRICT, **keys)


@pytest.mark.parametrize(
    ("root", "level", "keys"),
    [
        (Root.STUDY, "STUDY", {"StudyDate": "20200101-"}),
        (Root.STUDY, "STUDY", {"AccessionNumber": "A1\\A2"}),
        (Root.STUDY, "STUDY", {"AccessionNumber": "A*", "PatientID": "P1"}),
        (Root.STUDY, "STUDY", {"StudyInstanceUID": "", "AccessionNumber": ""}),
        (Root.STUDY, "STUDY", {"StudyInstanceUID": "", "AccessionNumber": "A*"}),
        (Root.STUDY, "STUDY", {"StudyInstanceUID": "*", "AccessionNumber": "A1"}),
        (Root.STUDY, "STUDY", {"StudyInstanceUID": "", "StudyDate": "202001"}),
        (Root.STUDY, "SERIES", {"SeriesInstanceUID": "", "StudyInstanceUID": "1.2"}),
        (Root.STUDY, "SERIES", {"SeriesInstanceUID": "", "AccessionNumber": "A1"}),
    ],
)
def test_k4_one_key_must_be_a_single_value_or_a_list_of_uid(root, level, keys):
    """A range alone, a list of other values alone or a wild card would send too much."""
    with pytest.raises(IdentifierError):
        select(level, root, TOLERANT, **keys)
