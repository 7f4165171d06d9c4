"""Checks the keys and matches in section 3.3 of the conformance statement on a running server."""

import struct

import pytest
from pydicom import Dataset, Sequence

from pacs.testing import serving, study, uid
from tests import raw
from tests.archives import identifier, take_in
from tests.docs.requests import COMMENT, CT, FIND, MR, ROOTS, Requestor, model, store
from tests.docs.statement import covers, rows
from tests.raw import EXPLICIT, IMPLICIT, Raw

LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")
MODELS = {row[0]: row[1].split() for row in rows("3.3 Query", "information model")}
KEYS = [(level, *row) for level in LEVELS for row in rows(level, "attribute")]
UNIQUE = {"PATIENT": "PatientID", "STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}

# --- two instances with a value of their own for every key --------------------------------------------------------

VALUES = {
    "AE": ("STATION", "OTHER"), "AS": ("050Y", "030Y"), "CS": ("ALPHA", "BETA"), "DA": ("20200102", "20210203"),
    "DS": ("7.5", "8.5"), "DT": ("20200102030405", "20210203040506"), "IS": ("7", "8"), "LO": ("Alpha one", "Beta"),
    "LT": ("Alpha text", "Beta text"), "PN": ("Roe^Jane", "Poe^Edgar"), "SH": ("A123", "B456"),
    "ST": ("Alpha short", "Beta short"), "TM": ("101112", "202122"), "UI": ("1.2.9.1", "1.2.9.2"),
    "UC": ("Alpha", "Beta"), "UT": ("Alpha", "Beta"), "US": (7, 8), "US or SS": (7, 8), "UL": (7, 8), "FD": (7.5, 8.5),
    "FL": (7.5, 8.5),
}  # fmt: skip
"""The values of the first and the second instance by VR; a sequence has an item with a Code Value."""

COMPUTED = {
    "NumberOfPatientRelatedStudies": ("1", "2"), "NumberOfPatientRelatedSeries": ("1", "4"),
    "NumberOfPatientRelatedInstances": ("1", "8"), "ModalitiesInStudy": ("CT", "MR"), "SOPClassesInStudy": (CT, MR),
    "NumberOfStudyRelatedSeries": ("1", "2"), "NumberOfStudyRelatedInstances": ("1", "4"),
    "NumberOfSeriesRelatedInstances": ("1", "2"), "AvailableTransferSyntaxUID": (EXPLICIT, IMPLICIT),
}  # fmt: skip
"""The computed attributes; the instances have wrong values for them."""


def value(keyword: str, vr: str, which: int) -> object:
    """Return the value of a key in one of the two instances."""
    if keyword in COMPUTED:
        return COMPUTED[keyword][which]
    if keyword in OWN[which]:
        return OWN[which][keyword]
    return VALUES["SH" if vr == "SQ" else vr][which]


def own(which: int) -> dict[str, str]:
    """Return the values that an instance must have, whatever its VR."""
    sop_class, modality = ((CT, "CT"), (MR, "MR"))[which]
    uids = {keyword: uid(f"query {which} {keyword}") for keyword in UNIQUE.values()}
    return uids | {"PatientID": ("ONE", "TWO")[which], "SOPClassUID": sop_class, "Modality": modality}


OWN = [own(0), own(1)]


def item(content: object) -> Sequence:
    """Return a sequence of one item with this Code Value."""
    inner = Dataset()
    inner.CodeValue = content
    return Sequence([inner])


def instance(which: int) -> Dataset:
    """Return one of the two instances."""
    made = Dataset()
    for _, keyword, _, vr, *_ in KEYS:
        found = value(keyword, vr, which) if keyword not in COMPUTED else VALUES[vr][which]
        if "US or SS" in vr:
            made.add_new(keyword, "US", found)
        else:
            setattr(made, keyword, item(found) if vr == "SQ" else found)
    for keyword in COMPUTED:
        if keyword.startswith("NumberOf"):
            setattr(made, keyword, 4711)
    return made


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A server for all tests of the module."""
    with serving(tmp_path_factory.mktemp("query")) as running:
        yield running


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """A server with the two instances, another one of the series of the second, and one of another study."""
    with serving(tmp_path_factory.mktemp("keyed")) as running:
        assert store(running.port, instance(0)).status == 0x0000
        for data in (instance(1), *beside(instance(1))):
            assert store(running.port, data, syntax=IMPLICIT).status == 0x0000
        yield running


def beside(second: Dataset) -> list[Dataset]:
    """Return instances that make, with the second one, two studies of two series of two instances each."""
    found = []
    for name in ("112", "121", "122", "211", "212", "221", "222"):
        bare = Dataset()
        for keyword in ("SOPClassUID", "PatientID", "IssuerOfPatientID", "Modality"):
            setattr(bare, keyword, getattr(second, keyword))
        bare.StudyInstanceUID = second.StudyInstanceUID if name[0] == "1" else uid("beside 2")
        bare.SeriesInstanceUID = second.SeriesInstanceUID if name[:2] == "11" else uid("beside " + name[:2])
        bare.SOPInstanceUID = uid("beside " + name)
        found.append(bare)
    return found


@pytest.fixture(scope="module")
def requestor(keyed):
    """An association for all queries."""
    with Requestor(keyed.port) as made:
        yield made


# --- models and levels -------------------------------------------------------------------------------------------


@covers("Conformant to PS3.4 Annex C as SCP of C-FIND")
@pytest.mark.parametrize("root", MODELS)
def test_every_model_has_its_levels_and_no_others(requestor, root):
    """An entity of each level is found by its unique key; other levels, and no level, are A900."""
    assert set(MODELS) == set(ROOTS)
    for level in LEVELS:
        if level in MODELS[root]:
            (found,) = requestor.found(level, root, **{UNIQUE[level]: OWN[0][UNIQUE[level]]})
            assert found.QueryRetrieveLevel == level
        else:
            assert requestor.status(level, root, **{UNIQUE[level]: ""}) == 0xA900
    assert requestor.status("", root, PatientID="") == 0xA900


def levels_of(level: str) -> list[tuple[str, str]]:
    """Return the models with the keys of a level, and the level that has them."""
    folded = [(root, "STUDY" if (root, level) == ("Study Root", "PATIENT") else level) for root in MODELS]
    return [(root, at) for root, at in folded if at in MODELS[root]]


# --- keys --------------------------------------------------------------------------------------------------------


def found_by(requestor, root: str, level: str, keyword: str, key: object, vr: str) -> list[Dataset]:
    """Return the matches of a query by one key and the unique keys of its level, with FF00."""
    asked = {UNIQUE[level]: "", keyword: item(key) if vr == "SQ" else key}
    *pending, final = requestor.find(level, root, **asked)
    assert final.status == 0x0000, f"{final.status:04X} {final.text(COMMENT)}"
    assert {each.status for each in pending} <= {0xFF00}
    return [each.dataset() for each in pending]


def returned(answer: Dataset, keyword: str, vr: str) -> str:
    """Return the value of a key in a match, as text."""
    element = answer[keyword]
    return str(element.value[0].CodeValue if vr == "SQ" else element.value)


KINDS = {
    "single value": lambda content: [content],
    "wild card": lambda content: [content[:-1] + "*", "?" + content[1:]],
    "range": lambda content: [f"{content}-{content}", f"-{content}"],
    "list of UID": lambda content: [content, ["1.2.3", content]],
    "sequence": lambda content: [content],
}
"""Makes keys of each kind of matching from a stored value."""


@covers(
    "U is a unique, R a required and O an optional key",
    "In Study Root the keys of PATIENT belong to STUDY",
    "Required and optional keys are treated alike",
    "A key whose place is",
)
@pytest.mark.parametrize("key", KEYS, ids=lambda key: key[1])
def test_every_key_is_matched_and_returned(requestor, key):
    """Each kind of matching finds the entity in each model, and the value is returned."""
    level, keyword, tag, vr, _, kinds, _ = key
    content = value(keyword, vr, 0)
    (first, at), *others = levels_of(level)
    asked = [(first, at, each) for kind in kinds.split(", ") for each in KINDS[kind](content)]
    asked += [(root, its_own, content) for root, its_own in others]
    for root, its_own, each in asked:
        answers = found_by(requestor, root, its_own, keyword, each, vr)
        assert [answer[UNIQUE[its_own]].value for answer in answers] == [OWN[0][UNIQUE[its_own]]], (root, each)
        assert returned(answers[0], keyword, vr) == str(content)
        assert int(tag[1:5] + tag[6:10], 16) == answers[0][keyword].tag


@pytest.fixture(scope="module")
def universal(keyed):
    """The matches at each level of a model for a query of everything, with every key of the level."""
    found = {}
    for level in LEVELS:
        root, at = levels_of(level)[-1 if level == "PATIENT" else 0]
        keys = {keyword: [] if vr == "SQ" else None for of, keyword, _, vr, *_ in KEYS if of == level}
        with Requestor(keyed.port) as requestor:
            *pending, final = requestor.find(at, root, **({UNIQUE[at]: ""} | keys))
        assert (final.status, {each.status for each in pending}) == (0x0000, {0xFF00})
        found[level] = at, [each.dataset() for each in pending]
    return found


@covers("Every key can be universal as well")
@pytest.mark.parametrize("key", KEYS, ids=lambda key: key[1])
def test_every_universal_key_is_returned(universal, key):
    """An empty key finds everything; a match has the stored value, or zero length."""
    level, keyword, _, vr, _, _, _ = key
    at, answers = universal[level]
    assert len(answers) == {"PATIENT": 2, "STUDY": 3, "SERIES": 5, "IMAGE": 9}[at]
    mine = next(each for each in answers if each[UNIQUE[at]].value == OWN[0][UNIQUE[at]])
    assert returned(mine, keyword, vr) == str(value(keyword, vr, 0))
    assert all(keyword in each for each in answers)


def test_no_key_matches_another_value(requestor):
    """A value of the second instance does not find the first one, for each key."""
    wrong = []
    for level, keyword, _, vr, *_ in KEYS:
        root, at = levels_of(level)[0]
        answers = found_by(requestor, root, at, keyword, value(keyword, vr, 1), vr)
        found = [each[UNIQUE[at]].value for each in answers]
        wrong += [keyword] if OWN[0][UNIQUE[at]] in found or OWN[1][UNIQUE[at]] not in found else []
    assert wrong == []


@covers("A public attribute in none of these lists belongs to IMAGE")
def test_unlisted_attributes_are_read_from_the_instance(archive):
    """Public and private ones are matched and returned at IMAGE level, except long values."""
    made = study(series=1, instances=1, patient_id="FILE", WindowCenter=40)[0]
    made.private_block(0x0029, "SOMEBODY", create=True).add_new(0x01, "LO", "private")
    made.TextValue = "x" * 70_000
    store(archive.port, made)
    query = Dataset()
    query.QueryRetrieveLevel, query.SOPInstanceUID, query.WindowCenter, query.TextValue = "IMAGE", "", "40", ""
    query.private_block(0x0029, "SOMEBODY", create=True).add_new(0x01, "LO", "priv*")
    with Raw(archive.port) as client:
        client.associate((1, FIND, [EXPLICIT]))
        client.send(raw.request(raw.C_FIND, 1, FIND, 1, raw.encoded(query, EXPLICIT)))
        pending, final = client.until_final()
    found = pending.dataset(EXPLICIT)
    assert (pending.status, final.status, found.SOPInstanceUID) == (0xFF00, 0x0000, made.SOPInstanceUID)
    assert (found.WindowCenter, found.TextValue) == (40, "")
    assert found.private_block(0x0029, "SOMEBODY")[0x01].value == "private"
    with Requestor(archive.port) as requestor:
        assert requestor.found("IMAGE", PatientID="FILE", WindowCenter="41") == []


@covers("Bulk data, attributes that PS3.6 does not list, and above IMAGE level attributes in none of these lists")
@pytest.mark.parametrize(
    ("level", "tag"),
    [
        ("IMAGE", 0x7FE00010),
        ("IMAGE", 0x00091001),
        ("IMAGE", 0x0008FFFF),
        ("STUDY", 0x00281050),
        ("PATIENT", 0x00281050),
    ],
)
def test_unsupported_attributes_are_not_returned(requestor, level, tag):
    """The status is FF01, and the match lacks the attribute."""
    root = "Patient Root" if level == "PATIENT" else "Study Root"
    begun = identifier(level, **{UNIQUE[level]: OWN[0][UNIQUE[level]]})
    begun = identifier(level) if tag < 0x00100000 else begun
    unsupported = struct.pack("<HHL", tag >> 16, tag & 0xFFFF, 0)
    pending = requestor.ask(raw.C_FIND, model(root, "FIND"), begun + unsupported)[0]
    assert pending.status == 0xFF01
    assert tag not in pending.dataset()


@covers("SpecificCharacterSet (0008,0005), QueryRetrieveLevel (0008,0052)")
def test_elements_that_are_never_keys(requestor):
    """A value of one of these elements excludes no match, and does not cause FF01."""
    others = {
        "SpecificCharacterSet": "ISO_IR 192", "RetrieveAETitle": "NOBODY", "InstanceAvailability": "OFFLINE",
        "QueryRetrieveView": "CLASSIC", "TimezoneOffsetFromUTC": "+0100", "StorageMediaFileSetID": "NOWHERE",
        "StorageMediaFileSetUID": "1.2.3",
    }  # fmt: skip
    for keyword, content in others.items():
        (pending, _) = requestor.find("STUDY", StudyInstanceUID=OWN[0]["StudyInstanceUID"], **{keyword: content})
        assert pending.status == 0xFF00, keyword
        assert pending.dataset().StudyInstanceUID == OWN[0]["StudyInstanceUID"]


# --- answers -----------------------------------------------------------------------------------------------------


@covers("Every matching entity is returned once")
def test_each_entity_matches_once_in_byte_order(requestor):
    """At every level, for any number of instances."""
    for level in LEVELS:
        answers = requestor.found(level, "Patient Root", **{UNIQUE[level]: ""})
        keys = [each[UNIQUE[level]].value for each in answers]
        assert keys == sorted(set(keys), key=str.encode)


@covers(
    "A match has the supported attributes that were requested",
    "It contains nothing else, except Specific Character Set",
)
@pytest.mark.parametrize("level", LEVELS)
def test_the_attributes_of_a_match(requestor, level):
    """The requested attributes, those that are always present, and nothing else."""
    root = "Patient Root"
    above = [UNIQUE[each] for each in LEVELS[: LEVELS.index(level) + 1]]
    known = {keyword: OWN[0][keyword] for keyword in above}
    (found,) = requestor.found(level, root, **known, PatientBirthTime="", PatientMotherBirthName="")
    always = {"QueryRetrieveLevel": level, "RetrieveAETitle": "PACS", "InstanceAvailability": "ONLINE"} | known
    assert {each.keyword for each in found} == {*always, "PatientBirthTime", "PatientMotherBirthName"}
    assert {keyword: found[keyword].value for keyword in always} == always
    (second, *_) = requestor.found(level, root, **{UNIQUE[level]: OWN[0][UNIQUE[level]]})
    assert {each.keyword for each in second} == set(always)


def test_an_attribute_without_a_value_has_zero_length(requestor):
    """With FF00."""
    (found,) = requestor.found(
        "IMAGE", SOPInstanceUID=uid("beside 222"), InstanceNumber="", Rows=None, ContentTemplateSequence=[]
    )
    assert (found["InstanceNumber"].value, found["Rows"].value, len(found.ContentTemplateSequence)) == (None, None, 0)


@covers("At IMAGE level it has Timezone Offset From UTC if the instance does")
def test_the_time_zone_of_an_instance_is_returned(archive):
    """If the instance has one."""
    first, second = study(series=1, instances=2, patient_id="ZONE")
    first.TimezoneOffsetFromUTC = "+0200"
    take_in(archive, [first, second])
    with Requestor(archive.port) as requestor:
        found = {each.SOPInstanceUID: each for each in requestor.found("IMAGE", PatientID="ZONE", SOPInstanceUID="")}
    assert found[first.SOPInstanceUID].TimezoneOffsetFromUTC == "+0200"
    assert "TimezoneOffsetFromUTC" not in found[second.SOPInstanceUID]
