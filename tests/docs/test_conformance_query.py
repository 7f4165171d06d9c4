"""What the conformance statement says of queries (section 3.3) and character sets (section 4), asked of servers."""

import struct
from pathlib import Path

import pytest
from pydicom import Dataset, Sequence
from sqlalchemy import text

from pacs.testing import serving, study, uid
from tests import raw
from tests.archives import identifier, take_in
from tests.docs.asking import COMMENT, CT, ELEMENT, FIND, MR, ROOTS, Asker, model, store
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


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A strict server with a study, a patient whose name is unknown, and a peer with whom it is tolerant."""
    peer = {"ae_title": "LENIENT", "host": "127.0.0.1", "port": 1, "manner": "tolerant"}
    with serving(tmp_path_factory.mktemp("strict"), {"query.manner": "strict", "peers": [peer]}) as running:
        take_in(running, study(series=1, instances=1))
        take_in(running, study("", series=1, instances=1, patient_id="P2", AccessionNumber=""))
        yield running


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
    "The key types that are not unique make no difference",
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


@asks("What is bulk data, what PS3.6 does not list, and above IMAGE level what is in none of these lists")
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


# --- manners -----------------------------------------------------------------------------------------------------


def first_status(port: int, data: bytes, operation: str = "FIND", **asker: object) -> int:
    """The status of the first response to a query or C-GET in Study Root."""
    with Asker(port, **asker) as made:
        kind = raw.C_FIND if operation == "FIND" else raw.C_GET
        return made.ask(kind, model("Study Root", operation), data)[0].status


def series_alone() -> bytes:
    """An Identifier at SERIES level without a key of STUDY."""
    return identifier("SERIES", SeriesInstanceUID="")


MANNERS = {
    "unique keys of the levels above": (series_alone, "FIND", 0xFF00, 0xA900),
    "keys below the level": (lambda: identifier("STUDY", StudyInstanceUID="", Modality=""), "FIND", 0xFF01, 0xA900),
    "a query with a key whose stored value is empty": (
        lambda: identifier("STUDY", StudyInstanceUID="", AccessionNumber="ELSE"),
        "FIND",
        0x0000,
        0xFF00,
    ),
    "several values of a key that is no UID, not negotiated": (
        lambda: identifier("STUDY", StudyInstanceUID="", AccessionNumber=["A1", "A2"]),
        "FIND",
        0xFF00,
        0xA900,
    ),
    "a query without the unique key of its level": (lambda: identifier("STUDY", StudyID=""), "FIND", 0xFF00, 0xA900),
    "a retrieve by other keys than unique ones": (
        lambda: identifier("STUDY", AccessionNumber="A9"),
        "GET",
        0x0000,
        0xA900,
    ),
    "Query/Retrieve View or Instance Availability, or an empty Specific Character Set or Timezone Offset From UTC": (
        lambda: identifier("STUDY", StudyInstanceUID="", InstanceAvailability=""),
        "FIND",
        0xFF00,
        0xA900,
    ),
}
"""What each row of the manners is asked with, and the first status in either."""


@pytest.fixture(scope="module")
def tolerant(tmp_path_factory):
    """A tolerant server with what the strict one has, and a peer with whom it is strict."""
    peer = {"ae_title": "PEDANT", "host": "127.0.0.1", "port": 1, "manner": "strict"}
    with serving(tmp_path_factory.mktemp("tolerant"), {"peers": [peer]}) as running:
        take_in(running, study(series=1, instances=1))
        take_in(running, study("", series=1, instances=1, patient_id="P2", AccessionNumber=""))
        yield running


@asks("A query is understood in one of two manners", "The manner of this server is `tolerant`")
@pytest.mark.parametrize("row", rows("3.3 Query", "in a request"), ids=lambda row: row[0])
def test_every_switch_of_the_manners(tolerant, strict, row):
    """Tolerant by default and strict where it is configured, also for a single peer."""
    make, operation, lenient, exact = MANNERS[row[0]]
    assert first_status(tolerant.port, make(), operation) == lenient
    assert first_status(strict.port, make(), operation) == exact
    assert first_status(tolerant.port, make(), operation, calling="PEDANT") == exact
    assert first_status(strict.port, make(), operation, calling="LENIENT") == lenient


def test_relational_queries_and_retrieves_can_be_negotiated(strict):
    """Then the unique keys above may be missing in the strict manner too."""
    assert first_status(strict.port, series_alone(), extended=b"\1") == 0xFF00
    lone = identifier("SERIES", SeriesInstanceUID="1.2.3")
    assert first_status(strict.port, lone, "GET") == 0xA900
    assert first_status(strict.port, lone, "GET", extended=b"\1") == 0x0000


def test_without_any_key_nothing_matches_in_the_strict_manner(strict):
    """Only the level: 0000 without an answer."""
    assert first_status(strict.port, identifier("STUDY")) == 0x0000


@pytest.mark.parametrize(
    ("keyword", "content"),
    [("QueryRetrieveView", "CLASSIC"), ("SpecificCharacterSet", ""), ("TimezoneOffsetFromUTC", "")],
)
def test_what_must_not_be_in_a_request(tolerant, strict, keyword, content):
    """Refused in the strict manner, ignored in the tolerant one."""
    data = identifier("STUDY", StudyInstanceUID="", **{keyword: content})
    assert (first_status(tolerant.port, data), first_status(strict.port, data)) == (0xFF00, 0xA900)


# --- matching ----------------------------------------------------------------------------------------------------

CODES = [("C1", "99A"), ("C2", "99B")]
PEOPLE = {
    "doe": {
        "PatientName": "Doe^John", "PatientID": "abc", "StudyDate": "20200101", "StudyTime": "103059.5",
        "AccessionNumber": "A%1", "StudyDescription": "A*B?", "StudyID": "", "PatientWeight": "70.50",
        "ReferringPhysicianName": ["House^Greg", "Wilson^James"], "StudyComments": " indented",
    },
    "ABC": {
        "PatientName": "Döe^Jane", "PatientID": "ABC", "StudyDate": "20200102", "StudyTime": "093000",
        "AccessionNumber": "AB1", "StudyDescription": "AxBy", "StudyID": '""', "PatientWeight": "80",
        "ReferringPhysicianName": "Cuddy^Lisa", "StudyComments": "indented",
    },
    "yamada": {
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう", "PatientID": "Y ", "StudyDate": "20200103",
        "StudyTime": "120000", "AccessionNumber": "ABB1", "StudyDescription": "none", "StudyID": "S1",
        "PatientWeight": "90", "ReferringPhysicianName": "", "StudyComments": "x" * 200,
    },
}  # fmt: skip
"""Studies by label. The first has a sequence of two items, and the same moment as the second, with an offset."""

ALL = set(PEOPLE)
RELATIONAL, COMBINED, FUZZY, EMPTY, MULTIPLE = b"\1", b"\1\1", b"\1\0\1", b"\1\0\0\0\0\1", b"\1\0\0\0\0\0\1"

MATCHING: dict[str, list[tuple]] = {
    "universal": [
        ({"PatientName": ""}, ALL),
        ({"PatientName": "**"}, ALL),
        ({"StudyDescription": "*"}, ALL),
        ({"StudyDate": ""}, ALL),
        ({"StudyID": "*"}, ALL),
        ({"StudyDate": "*"}, 0xA900),
    ],
    "single value": [
        ({"PatientID": "abc"}, {"doe"}),
        ({"PatientID": "ABC"}, {"ABC"}),
        ({"PatientID": "aBc"}, set()),
        ({"PatientName": "DOE^john"}, {"doe"}),
        ({"PatientName": "doe^jane"}, {"ABC"}),
        ({"PatientName": "Doe^John^"}, {"doe"}),
        ({"StudyTime": "0930"}, {"ABC"}),
        ({"StudyDate": "2020.01.01"}, {"doe"}),
        ({"PatientWeight": "70.5"}, {"doe"}),
        ({"PatientWeight": "+7050e-2"}, {"doe"}),
        ({"AccessionNumber": "A%1"}, {"doe"}),
    ],
    "list of UID": [
        ({"StudyInstanceUID": [uid("doe"), uid("ABC"), uid("doe"), "1.2.3"]}, {"doe", "ABC"}),
        ({"StudyInstanceUID": "1.2.3"}, set()),
    ],
    "wild card": [
        ({"AccessionNumber": "A?1"}, {"doe", "ABC"}),
        ({"AccessionNumber": "A*1"}, ALL),
        ({"AccessionNumber": "*B1"}, {"ABC", "yamada"}),
        ({"AccessionNumber": "A%*"}, {"doe"}),
        ({"AccessionNumber": "a*"}, set()),
        ({"PatientName": "do?^*"}, {"doe", "ABC"}),
        ({"PatientName": "山?*"}, {"yamada"}),
        ({"PatientAge": "0*"}, set()),
        ({"StudyInstanceUID": "1.*"}, 0xA900),
    ],
    "range": [
        ({"StudyDate": "20200101-20200102"}, {"doe", "ABC"}),
        ({"StudyDate": "20200102-"}, {"ABC", "yamada"}),
        ({"StudyDate": "-20200102"}, {"doe", "ABC"}),
        ({"StudyDate": "-"}, ALL),
        ({"StudyDate": "20200102-20200101"}, set()),
        ({"StudyTime": "-1030"}, {"doe", "ABC"}),
        ({"StudyTime": "103059-11"}, {"doe"}),
        ({"StudyTime": "1031-12"}, {"yamada"}),
    ],
    "date and time": [
        ({"StudyDate": "20200101-20200103", "StudyTime": "1000-1100"}, {"doe"}),
        ({"StudyDate": "20200101-20200103", "StudyTime": "1000-1100"}, {"doe", "ABC"}, COMBINED),
    ],
    "offset from UTC": [],  # has a test of its own, at IMAGE level
    "sequence": [
        ({"ProcedureCodeSequence": [{"CodeValue": "C1"}]}, {"doe"}),
        ({"ProcedureCodeSequence": [{"CodeValue": "C1", "CodingSchemeDesignator": "99A"}]}, {"doe"}),
        ({"ProcedureCodeSequence": [{"CodeValue": "C1", "CodingSchemeDesignator": "99B"}]}, set()),
        ({"ProcedureCodeSequence": [{"CodeValue": "C1"}, {"CodeValue": "C2"}]}, 0xA900),
        ({"ProcedureCodeSequence": []}, ALL),
        ({"ProcedureCodeSequence": [{}]}, ALL),
    ],
    "several stored values": [
        ({"ReferringPhysicianName": "House^Greg"}, {"doe"}),
        ({"ReferringPhysicianName": "Wilson*"}, {"doe"}),
    ],
    "empty value": [({"StudyID": '""'}, {"ABC"}), ({"StudyID": '""'}, {"doe"}, EMPTY)],
    "multiple values": [
        ({"AccessionNumber": ["A%1", "AB1"]}, {"doe", "ABC"}),
        ({"AccessionNumber": ["A%1", "AB1"]}, {"doe", "ABC"}, MULTIPLE),
        ({"StudyDate": ["20200101", "20200103"]}, {"doe", "yamada"}),
    ],
    "fuzzy names": [
        ({"PatientName": "Dow^Jon"}, set()),
        ({"PatientName": "Dow^Jon"}, {"doe", "ABC"}, FUZZY),
        ({"PatientName": "Dow^Peter"}, set(), FUZZY),
        ({"PatientName": "Dow*"}, set(), FUZZY),
    ],
    "component groups": [
        ({"PatientName": "yamada^tarou"}, {"yamada"}),
        ({"PatientName": "山田^太郎"}, {"yamada"}),
        ({"PatientName": "やまだ^たろう"}, {"yamada"}),
        ({"PatientName": "=山田^太郎"}, {"yamada"}),
        ({"PatientName": "山田^太郎=Yamada^Tarou"}, set()),
        ({"PatientName": "Yamada*=*=やまだ*"}, {"yamada"}),
    ],
    "padding": [
        ({"PatientID": "abc  "}, {"doe"}),
        ({"PatientID": "  abc"}, {"doe"}),
        ({"PatientID": "Y"}, {"yamada"}),
        ({"StudyComments": " indented"}, {"doe"}),
        ({"StudyComments": "indented "}, {"ABC"}),
    ],
}
"""Kind of matching -> keys, the studies they find or the status, and what is negotiated."""


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A tolerant and a strict server with the studies to be matched."""
    with (
        serving(tmp_path_factory.mktemp("people")) as tolerant,
        serving(tmp_path_factory.mktemp("exact"), {"query.manner": "strict"}) as exact,
    ):
        for label, values in PEOPLE.items():
            made = study(series=1, instances=1, patient_id=label, character_set="ISO_IR 192", **values)[0]
            made.StudyInstanceUID = uid(label)
            if label == "doe":
                made.ProcedureCodeSequence = [code(*each) for each in CODES]
            made.AcquisitionDateTime = {"doe": "20200101120000+0100", "ABC": "20200101110000", "yamada": ""}[label]
            for each in (tolerant, exact):
                take_in(each, [made])
        yield tolerant, exact


def code(meaning: str, scheme: str) -> Dataset:
    """An item of a code sequence."""
    made = Dataset()
    made.CodeValue, made.CodingSchemeDesignator = meaning, scheme
    return made


def key(content: object) -> object:
    """A value of the table as pydicom has it."""
    if not (isinstance(content, list) and all(isinstance(each, dict) for each in content)):
        return content
    made = [Dataset() for _ in content]
    for inner, values in zip(made, content, strict=True):
        for keyword, each in values.items():
            setattr(inner, keyword, each)
    return made


@asks("A key that cannot be what its VR demands")
@pytest.mark.parametrize("row", rows("Matching", "kind"), ids=lambda row: row[0])
def test_every_kind_of_matching(people, row):
    """Each example of a kind finds the studies it has to find, or is refused."""
    for keys, expected, *extended in MATCHING[row[0]]:
        asked = {"SpecificCharacterSet": "ISO_IR 192"} | {keyword: key(each) for keyword, each in keys.items()}
        with Asker(people[0].port, *extended) as asker:
            *pending, final = asker.find("STUDY", **({"StudyInstanceUID": ""} | asked))
        if isinstance(expected, int):
            assert final.status == expected, keys
            continue
        assert final.status == 0x0000, final.text(COMMENT)
        labels = {uid(label): label for label in PEOPLE}
        assert {labels[each.dataset().StudyInstanceUID] for each in pending} == expected, keys


def test_only_matching_items_of_a_sequence_are_returned(people):
    """With the attributes asked for; an empty item or sequence returns all of it."""
    with Asker(people[0].port) as asker:
        (found,) = asker.found("STUDY", ProcedureCodeSequence=key([{"CodeValue": "C2"}]))
        assert [[each.keyword for each in item] for item in found.ProcedureCodeSequence] == [["CodeValue"]]
        for whole in ([], key([{}])):
            (found,) = asker.found("STUDY", PatientID="abc", ProcedureCodeSequence=whole)
            assert [(each.CodeValue, each.CodingSchemeDesignator) for each in found.ProcedureCodeSequence] == CODES


def test_an_offset_from_utc_counts_in_dt(people):
    """Two equal moments match each other, another offset does not; the time zone of a request is no key."""
    with Asker(people[0].port) as asker:
        for asked, expected in (
            ("20200101120000+0100", 2), ("20200101110000", 2), ("20200101120000", 0),
            ("20200101105959-20200101110001", 2), ("20200101060000-0500", 2),
        ):  # fmt: skip
            assert len(asker.found("IMAGE", AcquisitionDateTime=asked)) == expected, asked
        assert len(asker.found("STUDY", StudyDate="20200101", TimezoneOffsetFromUTC="+1400")) == 1


def test_multiple_values_need_negotiation_in_the_strict_manner(people):
    """A900 without, an answer for each value with it."""
    asked = {"StudyInstanceUID": "", "AccessionNumber": ["A%1", "AB1"]}
    with Asker(people[1].port) as asker, Asker(people[1].port, MULTIPLE) as agreed:
        assert asker.status("STUDY", **asked) == 0xA900
        assert len(agreed.found("STUDY", **asked)) == 2


@asks("A text key may be longer than its VR allows")
def test_a_key_may_be_longer_than_its_vr(people):
    """1,024 characters of a pattern are taken, 1,025 are not; without a wild card there is no such limit."""
    with Asker(people[0].port) as asker:
        assert asker.found("STUDY", AccessionNumber="A" * 1023 + "*") == []
        assert asker.status("STUDY", AccessionNumber="A" * 1024 + "*") == 0xA900
        assert asker.found("STUDY", PatientName="A" * 1024) == []
        assert asker.status("STUDY", PatientName="A" * 1025) == 0xA900
        assert asker.found("STUDY", AccessionNumber="A" * 5000) == []


# --- answers -----------------------------------------------------------------------------------------------------


@asks("Every entity that matches is answered once")
def test_answers_come_once_and_in_byte_order(asker):
    """At every level, however many instances an entity has."""
    for level in LEVELS:
        answers = asker.found(level, "Patient Root", **{UNIQUE[level]: ""})
        keys = [each[UNIQUE[level]].value for each in answers]
        assert keys == sorted(set(keys), key=str.encode)


@asks("An answer has the supported attributes that were asked for", "Nothing else is in it but Specific Character Set")
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


@asks("At IMAGE level it has Timezone Offset From UTC where the instance does")
def test_the_time_zone_of_an_instance_is_told(archive):
    """Where it has one."""
    first, second = study(series=1, instances=2, patient_id="ZONE")
    first.TimezoneOffsetFromUTC = "+0200"
    take_in(archive, [first, second])
    with Asker(archive.port) as asker:
        found = {each.SOPInstanceUID: each for each in asker.found("IMAGE", PatientID="ZONE", SOPInstanceUID="")}
    assert found[first.SOPInstanceUID].TimezoneOffsetFromUTC == "+0200"
    assert "TimezoneOffsetFromUTC" not in found[second.SOPInstanceUID]


@asks("An attribute with several values is returned with all of them")
def test_all_values_are_returned(people):
    """Whichever of them was asked for."""
    with Asker(people[0].port) as asker:
        (found,) = asker.found("STUDY", ReferringPhysicianName="Wilson*")
    assert found.ReferringPhysicianName == ["House^Greg", "Wilson^James"]


# --- statuses ----------------------------------------------------------------------------------------------------


def cancelled(archive, _tmp_path):
    """A C-CANCEL in the packet of the request."""
    with Raw(archive.port) as client:
        client.associate((1, FIND, [IMPLICIT]))
        request = raw.request(raw.C_FIND, 1, FIND, 1, identifier("STUDY", StudyInstanceUID=""))
        client.send(request, raw.cancel(1, 1))
        return client.until_final()[-1]


def scanned(_archive, tmp_path):
    """More rows than one query may have judged one by one."""
    with serving(tmp_path, {"limits.query_scan": 1}) as archive:
        for number in (1, 2):
            take_in(archive, study(series=1, instances=1, number=number))
        with Asker(archive.port) as asker:
            return asker.find("STUDY", StudyComments="x")[-1]


def without_index(_archive, tmp_path):
    """The index has lost a table."""
    with serving(tmp_path) as archive:
        with archive.index.write() as connection:
            connection.execute(text("ALTER TABLE patient RENAME TO gone"))
        with Asker(archive.port) as asker:
            return asker.find("STUDY", StudyInstanceUID="")[-1]


def without_file(_archive, tmp_path):
    """An attribute that is in the file only, and the file is gone."""
    with serving(tmp_path) as archive:
        take_in(archive, study(series=1, instances=1))
        (path,) = (each for each in Path(archive.config.files.url).rglob("*") if each.is_file())
        path.unlink()
        with Asker(archive.port) as asker:
            return asker.find("IMAGE", SOPInstanceUID="", WindowCenter="")[-1]


def asking(place: int, level: str = "STUDY", **keys: object):
    """The response at a place of those to a query."""

    def ask(archive, _tmp_path):
        with Asker(archive.port) as asker:
            return asker.find(level, **keys)[place]

    return ask


def undecodable(archive, _tmp_path):
    """No data set at all."""
    with Asker(archive.port) as asker:
        return asker.ask(raw.C_FIND, FIND, b"\xff" * 20)[-1]


PROVOKED = {
    "0000": [asking(-1, StudyInstanceUID="")],
    "FF00": [asking(0, StudyInstanceUID="", PatientComments="")],
    "FF01": [asking(0, StudyInstanceUID="", WindowCenter="")],
    "FE00": [cancelled],
    "A700": [scanned, without_index],
    "A900": [asking(-1, level="NONE")],
    "C000": [undecodable],
    "C003": [without_file],
}
"""How each status is provoked, as often as it stands in the table."""


@pytest.mark.parametrize("code", sorted({row[0] for row in rows("Statuses of C-FIND", "status")} - {"C001"}))
def test_every_status(keyed, tmp_path, code):
    """Each status comes from its cause, with the related fields that the table tells and no others."""
    told = [row[2] for row in rows("Statuses of C-FIND", "status") if row[0] == code]
    assert len(told) == len(PROVOKED[code])
    for related, provoke in zip(told, PROVOKED[code], strict=True):
        response = provoke(keyed, tmp_path)
        assert f"{response.status:04X}" == code, response.text(COMMENT)
        assert (COMMENT in response.elements) == ("0902" in related)
        assert ELEMENT not in response.elements or "0901" in related
        assert (response.data is not None) == (related == "Identifier")


# --- character sets ----------------------------------------------------------------------------------------------

CODECS = {
    "6": ("ascii", "Smith"), "100": ("latin-1", "Müller"), "101": ("iso8859-2", "Wałęsa"), "109": ("iso8859-3", "Ħal"),
    "110": ("iso8859-4", "Ķēniņš"), "126": ("iso8859-7", "Διονύσιος"), "127": ("iso8859-6", "قباني"),
    "138": ("iso8859-8", "שרון"), "144": ("iso8859-5", "Люкceмбypг"), "148": ("iso8859-9", "Çavuşoğlu"),
    "203": ("iso8859-15", "Šimunek€"), "166": ("tis-620", "สมชาย"), "13": ("shift-jis", "ﾔﾏﾀﾞ"),
    "192": ("utf-8", "山田"), "GBK": ("gbk", "王小东"), "GB18030": ("gb18030", "王小东"),
    "87": ("iso2022_jp", "山田"), "159": ("iso2022_jp_2", "丂"), "149": ("euc-kr", "홍길동"),
    "58": ("gb2312", "王小东"),
}  # fmt: skip
"""What can be written in a character set, by its number: how Python calls it, and a name."""

ESCAPES = {
    "100": b"\x1b-A", "101": b"\x1b-B", "109": b"\x1b-C", "110": b"\x1b-D", "144": b"\x1b-L", "127": b"\x1b-G",
    "126": b"\x1b-F", "138": b"\x1b-H", "148": b"\x1b-M", "203": b"\x1b-b", "166": b"\x1b-T", "13": b"\x1b)I",
    "149": b"\x1b$)C", "58": b"\x1b$)A",
}  # fmt: skip
"""The escape sequences of PS3.3 C.12.1.1.2; Python writes those of 87 and 159 itself."""


def written(term: str) -> tuple[str, bytes, str]:
    """(0008,0005) for a Defined Term, a name in it, and the name as text."""
    number = term.rsplit(maxsplit=1)[-1]
    codec, name = CODECS[number]
    if not term.startswith("ISO 2022"):
        return term, name.encode(codec), name
    return "\\" + term, ESCAPES.get(number, b"") + name.encode(codec), name


def element(tag: int, content: bytes) -> bytes:
    """An element in Implicit VR Little Endian."""
    content += b" " * (len(content) % 2)
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(content)) + content


def named(term: str, name: bytes, number: int) -> tuple[bytes, str]:
    """An instance whose patient has this name, in this character set, and its SOP Instance UID."""
    own = uid(f"charset {number}")
    values = {
        0x00080005: term.encode(), 0x00080016: CT.encode(), 0x00080018: own.encode(), 0x00100010: name,
        0x00100020: f"CS{number}".encode(), 0x0020000D: f"1.2.77.{number}".encode(),
        0x0020000E: f"1.2.78.{number}".encode(),
    }  # fmt: skip
    encoded = {tag: each + b"\0" * (len(each) % 2) if tag != 0x00100010 else each for tag, each in values.items()}
    encoded[0x00080005] = term.encode()
    return b"".join(element(tag, each) for tag, each in encoded.items()), own


@asks("Requests and stored values are decoded by their own Specific Character Set")
@pytest.mark.parametrize("term", [row[0] for row in rows("4. Character sets", "Specific Character Set")])
def test_every_character_set_in_requests_and_instances(archive, term):
    """A name stored in it is found by the name in UTF-8; a name stored in UTF-8 is found by the name in it."""
    number = rows("4. Character sets", "Specific Character Set").index([term])
    stated, name, as_text = written(term)
    for place, (charset, content) in enumerate([(stated, name), ("ISO_IR 192", as_text.encode())]):
        data, own = named(charset, content, 2 * number + place)
        answer = store(archive.port, data, syntax=IMPLICIT, sop_class=CT, instance=own)
        assert answer.status == 0x0000, answer.text(COMMENT)
    for asked, key in (("ISO_IR 192", as_text.encode()), (stated, name), (stated.replace(" ", "-"), name)):
        query = element(0x00080005, asked.encode()) + identifier("STUDY") + element(0x00100010, key)
        with Asker(archive.port) as asker:
            *pending, final = asker.ask(raw.C_FIND, FIND, query + element(0x00100020, b"CS*"))
        found = {each.dataset().PatientID for each in pending}
        assert final.status == 0x0000
        assert {f"CS{2 * number}", f"CS{2 * number + 1}"} <= found, asked


@asks("Bytes that are not in the stated character set")
@pytest.mark.parametrize(
    ("stated", "stored", "name"),
    [
        ("", "Jörg^Unsaid".encode(), "Jörg^Unsaid"),
        ("", "Jürg^Unsaid".encode("latin-1"), "Jürg^Unsaid"),
        ("ISO_IR 6", "Jöns^Ascii".encode(), "Jöns^Ascii"),
        ("ISO_IR 192", "Jäns^NotUTF".encode("latin-1"), "Jäns^NotUTF"),
    ],
)
def test_bytes_in_no_stated_character_set(archive, stated, stored, name):
    """UTF-8 if they can be, else Latin-1."""
    number = 500 + [*"UUAN"].index(name.split("^")[1][0]) + ("ü" in name)
    data, own = named(stated, stored, number)
    assert store(archive.port, data, syntax=IMPLICIT, sop_class=CT, instance=own).status == 0x0000
    with Asker(archive.port) as asker:
        (found,) = asker.found("STUDY", SpecificCharacterSet="ISO_IR 192", PatientName=name, PatientID=f"CS{number}")
    assert found.PatientName == name


@asks("A response is written without a character set where it is ASCII")
@pytest.mark.parametrize(
    ("name", "asked", "answered"),
    [
        ("Plain^Ascii", "ISO_IR 144", None),
        ("Люк^Cyrillic", "ISO_IR 144", "ISO_IR 144"),
        ("Mül^Latin", "ISO_IR 144", "ISO_IR 100"),
        ("Mül^Latin", "ISO_IR 192", "ISO_IR 192"),
        ("山田^Han", "ISO_IR 100", "ISO_IR 192"),
    ],
)
def test_the_character_set_of_an_answer(archive, name, asked, answered):
    """None, the requester's, Latin-1 or UTF-8: the first that can hold the answer."""
    number = 600 + len(name)
    data, own = named("ISO_IR 192", name.encode(), number)
    store(archive.port, data, syntax=IMPLICIT, sop_class=CT, instance=own)
    with Asker(archive.port) as asker:
        (found,) = asker.found("STUDY", SpecificCharacterSet=asked, PatientID=f"CS{number}", PatientName="")
    assert found.get("SpecificCharacterSet") == answered
    assert found.PatientName == name
