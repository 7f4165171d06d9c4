"""What the conformance statement says of keys and answers of queries (section 3.3), asked of a running server."""

import struct

import pytest
from pydicom import Dataset, Sequence

from pacs.testing import serving, study, uid
from tests import raw
from tests.archives import identifier, take_in
from tests.docs.asking import COMMENT, CT, FIND, MR, ROOTS, Asker, model, store
from tests.docs.statement import asks, rows
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
"""What the first and the second instance hold, by VR; a sequence holds an item with a Code Value like an SH."""

COMPUTED = {
    "NumberOfPatientRelatedStudies": ("1", "2"), "NumberOfPatientRelatedSeries": ("1", "4"),
    "NumberOfPatientRelatedInstances": ("1", "8"), "ModalitiesInStudy": ("CT", "MR"), "SOPClassesInStudy": (CT, MR),
    "NumberOfStudyRelatedSeries": ("1", "2"), "NumberOfStudyRelatedInstances": ("1", "4"),
    "NumberOfSeriesRelatedInstances": ("1", "2"), "AvailableTransferSyntaxUID": (EXPLICIT, IMPLICIT),
}  # fmt: skip
"""What is made from what is stored; in the instances themselves stands nonsense."""


def value(keyword: str, vr: str, which: int) -> object:
    """What one of the two instances answers for a key."""
    if keyword in COMPUTED:
        return COMPUTED[keyword][which]
    if keyword in OWN[which]:
        return OWN[which][keyword]
    return VALUES["SH" if vr == "SQ" else vr][which]


def own(which: int) -> dict[str, str]:
    """What an instance has to be, whatever its VR would make of it."""
    sop_class, modality = ((CT, "CT"), (MR, "MR"))[which]
    uids = {keyword: uid(f"query {which} {keyword}") for keyword in UNIQUE.values()}
    return uids | {"PatientID": ("ONE", "TWO")[which], "SOPClassUID": sop_class, "Modality": modality}


OWN = [own(0), own(1)]


def item(content: object) -> Sequence:
    """A sequence of one item with this Code Value."""
    inner = Dataset()
    inner.CodeValue = content
    return Sequence([inner])


def instance(which: int) -> Dataset:
    """One of the two instances."""
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
    """A server with whatever the tests store in it."""
    with serving(tmp_path_factory.mktemp("query")) as running:
        yield running


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """A server with the two instances, and beside the second one another of its series and of another study."""
    with serving(tmp_path_factory.mktemp("keyed")) as running:
        assert store(running.port, instance(0)).status == 0x0000
        for data in (instance(1), *beside(instance(1))):
            assert store(running.port, data, syntax=IMPLICIT).status == 0x0000
        yield running


def beside(second: Dataset) -> list[Dataset]:
    """Bare instances around the second one: with it two studies of two series of two instances each."""
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
def asker(keyed):
    """An association on which one key is asked after the other."""
    with Asker(keyed.port) as made:
        yield made


# --- models and levels -------------------------------------------------------------------------------------------


@asks("Conformant to PS3.4 Annex C as SCP of C-FIND")
@pytest.mark.parametrize("root", MODELS)
def test_every_model_has_its_levels_and_no_others(asker, root):
    """An entity of each level is found by its unique key; other levels, and none, are A900."""
    assert set(MODELS) == set(ROOTS)
    for level in LEVELS:
        if level in MODELS[root]:
            (found,) = asker.found(level, root, **{UNIQUE[level]: OWN[0][UNIQUE[level]]})
            assert found.QueryRetrieveLevel == level
        else:
            assert asker.status(level, root, **{UNIQUE[level]: ""}) == 0xA900
    assert asker.status("", root, PatientID="") == 0xA900


def levels_of(level: str) -> list[tuple[str, str]]:
    """The models that have the keys of a level, and the level they have them at."""
    folded = [(root, "STUDY" if (root, level) == ("Study Root", "PATIENT") else level) for root in MODELS]
    return [(root, at) for root, at in folded if at in MODELS[root]]


# --- keys --------------------------------------------------------------------------------------------------------


def found_by(asker, root: str, level: str, keyword: str, key: object, vr: str) -> list[Dataset]:
    """The answers to a query by one key and the unique keys of its level, with FF00."""
    asked = {UNIQUE[level]: "", keyword: item(key) if vr == "SQ" else key}
    *pending, final = asker.find(level, root, **asked)
    assert final.status == 0x0000, f"{final.status:04X} {final.text(COMMENT)}"
    assert {each.status for each in pending} <= {0xFF00}
    return [each.dataset() for each in pending]


def returned(answer: Dataset, keyword: str, vr: str) -> str:
    """The value of a key in an answer, as text."""
    element = answer[keyword]
    return str(element.value[0].CodeValue if vr == "SQ" else element.value)


KINDS = {
    "single value": lambda content: [content],
    "wild card": lambda content: [content[:-1] + "*", "?" + content[1:]],
    "range": lambda content: [f"{content}-{content}", f"-{content}"],
    "list of UID": lambda content: [content, ["1.2.3", content]],
    "sequence": lambda content: [content],
}
"""The keys of each kind of matching that a stored value matches."""


@asks(
    "U is a unique, R a required and O an optional key",
    "In Study Root the keys of PATIENT belong to STUDY",
    "Required and optional keys are treated alike",
    "A key whose place is",
)
@pytest.mark.parametrize("key", KEYS, ids=lambda key: key[1])
def test_every_key_is_matched_and_returned(asker, key):
    """The entity with the value is found by each kind of matching, and in each model, and the value returned."""
    level, keyword, tag, vr, _, kinds, _ = key
    content = value(keyword, vr, 0)
    (first, at), *others = levels_of(level)
    asked = [(first, at, each) for kind in kinds.split(", ") for each in KINDS[kind](content)]
    asked += [(root, its_own, content) for root, its_own in others]
    for root, its_own, each in asked:
        answers = found_by(asker, root, its_own, keyword, each, vr)
        assert [answer[UNIQUE[its_own]].value for answer in answers] == [OWN[0][UNIQUE[its_own]]], (root, each)
        assert returned(answers[0], keyword, vr) == str(content)
        assert int(tag[1:5] + tag[6:10], 16) == answers[0][keyword].tag


@pytest.fixture(scope="module")
def universal(keyed):
    """The answers at each level of a model to a query for everything, with every key of the level."""
    found = {}
    for level in LEVELS:
        root, at = levels_of(level)[-1 if level == "PATIENT" else 0]
        keys = {keyword: [] if vr == "SQ" else None for of, keyword, _, vr, *_ in KEYS if of == level}
        with Asker(keyed.port) as asker:
            *pending, final = asker.find(at, root, **({UNIQUE[at]: ""} | keys))
        assert (final.status, {each.status for each in pending}) == (0x0000, {0xFF00})
        found[level] = at, [each.dataset() for each in pending]
    return found


@asks("Every key can be universal as well")
@pytest.mark.parametrize("key", KEYS, ids=lambda key: key[1])
def test_every_key_is_returned_when_it_is_universal(universal, key):
    """Zero length finds everything; the answers have what the instances have, and zero length where that is nothing."""
    level, keyword, _, vr, _, _, _ = key
    at, answers = universal[level]
    assert len(answers) == {"PATIENT": 2, "STUDY": 3, "SERIES": 5, "IMAGE": 9}[at]
    mine = next(each for each in answers if each[UNIQUE[at]].value == OWN[0][UNIQUE[at]])
    assert returned(mine, keyword, vr) == str(value(keyword, vr, 0))
    assert all(keyword in each for each in answers)


def test_no_key_matches_another_value(asker):
    """What the second instance has does not find the first one, key by key."""
    wrong = []
    for level, keyword, _, vr, *_ in KEYS:
        root, at = levels_of(level)[0]
        answers = found_by(asker, root, at, keyword, value(keyword, vr, 1), vr)
        found = [each[UNIQUE[at]].value for each in answers]
        wrong += [keyword] if OWN[0][UNIQUE[at]] in found or OWN[1][UNIQUE[at]] not in found else []
    assert wrong == []


@asks("A public attribute in none of these lists belongs to IMAGE")
def test_attributes_in_no_list_come_from_the_instance(archive):
    """Public and private ones are matched and returned at IMAGE level; of a long one nothing."""
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
    with Asker(archive.port) as asker:
        assert asker.found("IMAGE", PatientID="FILE", WindowCenter="41") == []


@asks("Bulk data, attributes that PS3.6 does not list, and above IMAGE level attributes in none of these lists")
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
def test_what_is_not_supported_is_not_returned(asker, level, tag):
    """FF01, and the attribute is missing in the answer."""
    root = "Patient Root" if level == "PATIENT" else "Study Root"
    begun = identifier(level, **{UNIQUE[level]: OWN[0][UNIQUE[level]]})
    begun = identifier(level) if tag < 0x00100000 else begun
    unsupported = struct.pack("<HHL", tag >> 16, tag & 0xFFFF, 0)
    pending = asker.ask(raw.C_FIND, model(root, "FIND"), begun + unsupported)[0]
    assert pending.status == 0xFF01
    assert tag not in pending.dataset()


@asks("SpecificCharacterSet (0008,0005), QueryRetrieveLevel (0008,0052)")
def test_what_is_never_a_key(asker):
    """A value in one of these elements excludes nothing, and none of them makes a key unsupported."""
    others = {
        "SpecificCharacterSet": "ISO_IR 192", "RetrieveAETitle": "NOBODY", "InstanceAvailability": "OFFLINE",
        "QueryRetrieveView": "CLASSIC", "TimezoneOffsetFromUTC": "+0100", "StorageMediaFileSetID": "NOWHERE",
        "StorageMediaFileSetUID": "1.2.3",
    }  # fmt: skip
    for keyword, content in others.items():
        (pending, _) = asker.find("STUDY", StudyInstanceUID=OWN[0]["StudyInstanceUID"], **{keyword: content})
        assert pending.status == 0xFF00, keyword
        assert pending.dataset().StudyInstanceUID == OWN[0]["StudyInstanceUID"]


# --- answers -----------------------------------------------------------------------------------------------------


@asks("Every matching entity is returned once")
def test_answers_come_once_and_in_byte_order(asker):
    """At every level, however many instances an entity has."""
    for level in LEVELS:
        answers = asker.found(level, "Patient Root", **{UNIQUE[level]: ""})
        keys = [each[UNIQUE[level]].value for each in answers]
        assert keys == sorted(set(keys), key=str.encode)


@asks(
    "A match has the supported attributes that were requested",
    "It contains nothing else, except Specific Character Set",
)
@pytest.mark.parametrize("level", LEVELS)
def test_what_an_answer_has(asker, level):
    """What was asked for, what always is there, and nothing else."""
    root = "Patient Root"
    above = [UNIQUE[each] for each in LEVELS[: LEVELS.index(level) + 1]]
    known = {keyword: OWN[0][keyword] for keyword in above}
    (found,) = asker.found(level, root, **known, PatientBirthTime="", PatientMotherBirthName="")
    always = {"QueryRetrieveLevel": level, "RetrieveAETitle": "PACS", "InstanceAvailability": "ONLINE"} | known
    assert {each.keyword for each in found} == {*always, "PatientBirthTime", "PatientMotherBirthName"}
    assert {keyword: found[keyword].value for keyword in always} == always
    (second, *_) = asker.found(level, root, **{UNIQUE[level]: OWN[0][UNIQUE[level]]})
    assert {each.keyword for each in second} == set(always)


def test_an_attribute_without_a_value_has_zero_length(asker):
    """It is there all the same, with FF00."""
    (found,) = asker.found(
        "IMAGE", SOPInstanceUID=uid("beside 222"), InstanceNumber="", Rows=None, ContentTemplateSequence=[]
    )
    assert (found["InstanceNumber"].value, found["Rows"].value, len(found.ContentTemplateSequence)) == (None, None, 0)


@asks("At IMAGE level it has Timezone Offset From UTC if the instance does")
def test_the_time_zone_of_an_instance_is_told(archive):
    """Where it has one."""
    first, second = study(series=1, instances=2, patient_id="ZONE")
    first.TimezoneOffsetFromUTC = "+0200"
    take_in(archive, [first, second])
    with Asker(archive.port) as asker:
        found = {each.SOPInstanceUID: each for each in asker.found("IMAGE", PatientID="ZONE", SOPInstanceUID="")}
    assert found[first.SOPInstanceUID].TimezoneOffsetFromUTC == "+0200"
    assert "TimezoneOffsetFromUTC" not in found[second.SOPInstanceUID]
