"""The matching rules of PS3.4 C.2.2.2 and C.4.1 by example, over the wire of a running server.

Each case runs on SQLite and PostgreSQL and in both matching modes. Stored data sets and queries are encoded here, so
that no code is shared with the server. `found` are the labels of the matching studies, or the status of a refusal;
(tolerant, strict) gives both if the modes differ.
"""

import struct
from dataclasses import dataclass

import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword

from pacs.conformance.checks.wire import extended_negotiation
from pacs.testing import serving
from tests import raw
from tests.databases import KINDS, fresh_database
from tests.raw import IMPLICIT, Raw

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
ROOT = "1.2.9"
US_VRS = {"US": "<H", "UL": "<L", "FD": "<d"}


def encode(values: dict, codec: str = "latin-1") -> bytes:
    """Encode a data set in Implicit VR Little Endian; a value is text, bytes, a number, or a list of items."""
    elements = {_tag(key): _value(key, value, codec) for key, value in values.items()}
    return b"".join(
        struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value for tag, value in sorted(elements.items())
    )


def _tag(key) -> int:
    tag = key if isinstance(key, int) else tag_for_keyword(key)
    assert tag is not None, key
    return tag


def _value(key, value, codec: str) -> bytes:
    if isinstance(value, list):
        items = [encode(each, codec) for each in value]
        return b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(each)) + each for each in items)
    if isinstance(value, int | float):
        return struct.pack(US_VRS[dictionary_VR(_tag(key))], value)
    data = value if isinstance(value, bytes) else value.encode(codec)
    pad = b"\0" if isinstance(key, str) and dictionary_VR(_tag(key)) == "UI" else b" "
    return data + pad * (len(data) % 2)


YAMADA = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B"
GREEK = "Διονυσιος"

STUDIES = {
    "doe": {
        "PatientID": "P1", "PatientName": "Doe^John", "AccessionNumber": "ABC", "StudyID": "S1",
        "StudyDate": "20200101", "StudyTime": "223000", "StudyDescription": "100% sure_x [a] '\"",
        "ReferringPhysicianName": "House^Greg", "PatientBirthDate": "19700101", "PatientSex": "M",
        "PatientAge": "050Y", "OtherPatientNames": "Roe^Jane\\Poe^Ed", "PatientWeight": "70.50",
        "PatientBirthTime": "120000", "SeriesNumber": "7", "InstanceNumber": "+007",
        "AcquisitionDateTime": "20200101120000.000000+0100",
        "ImageType": "ORIGINAL\\PRIMARY\\AXIAL", "Rows": 512,
    },
    "lower": {
        "PatientID": "p1", "PatientName": "DOE^JANE", "AccessionNumber": "abc", "StudyID": "s1",
        "StudyDate": "20200102", "StudyTime": "10", "StudyDescription": "100 sureXx a", "SeriesNumber": "70",
        "ReferringPhysicianName": "Wilson^James\\House^Gregory", "PatientAge": "030Y",
    },
    "padded": {
        "PatientID": " P2 ", "PatientName": "Doe^Johnny ^ ", "AccessionNumber": " A1", "StudyID": "S2 ",
        "StudyDate": "20200131", "StudyTime": "101010.123", "StudyDescription": "A?C*",
    },
    "old": {
        "PatientID": "P3", "PatientName": "Müller^Jürgen", "SpecificCharacterSet": "ISO_IR 100",
        "AccessionNumber": "A2", "StudyID": "", "StudyDate": "2020.02.29", "StudyTime": "10:11:12",
    },
    "unknown": {
        "PatientID": "P4", "PatientName": "", "AccessionNumber": "", "StudyID": "", "StudyDate": "", "StudyTime": "",
    },
    "yamada": {
        "PatientID": "P5", "PatientName": YAMADA, "SpecificCharacterSet": "\\ISO 2022 IR 87", "StudyDate": "20210101",
        "StudyTime": "235960", "AccessionNumber": "A3",
    },
    "greek": {
        "PatientID": "P6", "PatientName": GREEK.encode("iso8859-7"), "SpecificCharacterSet": "ISO_IR 126",
        "StudyDate": "20211231", "StudyTime": "000000", "AccessionNumber": "A4",
    },
    "nodate": {"PatientID": "P7", "PatientName": "No^Date", "StudyDate": "20209999", "AccessionNumber": "A5"},
    "items": {
        "PatientID": "P8", "PatientName": "Items^Two", "StudyDate": "20190101", "StudyTime": "120000",
        "AccessionNumber": "A6",
        "RequestAttributesSequence": [
            {"ScheduledProcedureStepID": "SPS1", "RequestedProcedureID": "RP1"},
            {"ScheduledProcedureStepID": "SPS2", "RequestedProcedureID": "RP2"},
        ],
        "ProcedureCodeSequence": [{"CodeValue": "C1", "CodingSchemeDesignator": "99X", "CodeMeaning": "One"}],
    },
}  # fmt: skip
"""Label -> the attributes of its only instance, besides the UIDs. The Study Instance UID is ROOT.<place>."""

LABELS = list(STUDIES)


def uid(label: str) -> str:
    """Return the Study Instance UID of a study."""
    return f"{ROOT}.{LABELS.index(label) + 1}"


def instance(label: str) -> bytes:
    """Return the data set of a study's only instance."""
    own = uid(label)
    uids = {"SOPClassUID": CT, "SOPInstanceUID": own + ".1.1", "StudyInstanceUID": own, "SeriesInstanceUID": own + ".1"}
    return encode(uids | {"Modality": "MR" if label == "lower" else "CT"} | STUDIES[label])


@dataclass(frozen=True)
class Case:
    """A query: its id in docs/checklist.md, its keys, and the expected matches or status in each mode."""

    id: str
    keys: dict
    found: object
    level: str = "STUDY"
    codec: str = "latin-1"
    extended: bytes = b""

    def expected(self, manner: str) -> object:
        """Return the expected labels or status in a mode."""
        return self.found[manner == "strict"] if isinstance(self.found, tuple) else self.found


def case(id, found, *, level="STUDY", codec="latin-1", extended=b"", **keys):
    """Return a case, with its keys by keyword."""
    return Case(id, keys, found, level, codec, extended)


def known(*labels, unknown=("unknown",)):
    """Return (tolerant, strict); strict also finds studies with an unknown value (K2)."""
    return set(labels), set(labels) | set(unknown)


ALL = set(LABELS)
NO_SID = {"old", "unknown", "yamada", "greek", "nodate", "items"}
NO_TIME = {"unknown", "nodate"}
NO_DESCRIPTION = {"old", "unknown", "yamada", "greek", "nodate", "items"}
NO_REFERRER = ALL - {"doe", "lower"}

CASES = [
    # M1: single value, case-sensitive except for names; dates and times by meaning
    case("M1", {"doe"}, PatientID="P1"),
    case("M1", {"lower"}, PatientID="p1"),
    case("M1", known("doe"), AccessionNumber="ABC"),
    case("M1", known("lower"), AccessionNumber="abc"),
    case("M1", known(), AccessionNumber="AbC"),
    case("M1", known("doe", unknown=NO_SID), StudyID="S1"),
    case("M1", known("lower", unknown=NO_SID), StudyID="s1"),
    case("M1", known("doe"), PatientName="doe^john"),
    case("M1", known("doe"), PatientName="DOE^JOHN"),
    case("M1", known("old"), PatientName="muller^jurgen"),
    case("M1", known("doe"), StudyDate="20200101"),
    case("M1", known("doe", unknown=NO_TIME), StudyTime="2230"),
    case("M1", known("doe", unknown=NO_TIME), StudyTime="223000.000000"),
    case("M1", known("lower", unknown=NO_TIME), StudyTime="10"),
    case("M1", known("lower", unknown=NO_TIME), StudyTime="100000"),
    case("M1", known("old", unknown=NO_TIME), StudyTime="101112"),
    # M2: padding never matters
    case("M2", {"doe"}, PatientID="P1 "),
    case("M2", {"doe"}, PatientID=" P1"),
    case("M2", {"padded"}, PatientID="P2"),
    case("M2", known("padded"), AccessionNumber="A1"),
    case("M2", known("padded", unknown=NO_SID), StudyID="S2"),
    case("M2", {"doe"}, StudyInstanceUID=uid("doe").encode() + b"\0"),
    case("M2", {"doe"}, StudyInstanceUID=uid("doe").encode() + b" "),
    # M3: lists of UIDs
    case("M3", {"doe", "old"}, StudyInstanceUID=f"{uid('doe')}\\{uid('old')}"),
    case("M3", {"doe"}, StudyInstanceUID=f"{uid('doe')}\\{uid('doe')}\\1.2.3"),
    case("M3", set(), StudyInstanceUID="1.2.3\\4.5.6"),
    case("M3", {"doe"}, StudyInstanceUID="\\".join([uid("doe"), *(f"1.3.{n}" for n in range(20_000))])),
    case("M3", ({"doe"}, 0xA900), level="SERIES", StudyInstanceUID=f"{uid('doe')}\\1.2", SeriesInstanceUID=""),
    # M4: universal
    case("M4", ALL, PatientName=""),
    case("M4", ALL, PatientName="*"),
    case("M4", ALL, AccessionNumber="*"),
    case("M4", ALL, StudyDate=""),
    case("M4", ALL, ProcedureCodeSequence=[]),
    case("M4", ALL, ProcedureCodeSequence=[{}]),
    # M4b: any of several values
    case("M4b", known("doe", unknown=ALL - {"doe"}), OtherPatientNames="Roe^Jane"),
    case("M4b", known("doe", unknown=ALL - {"doe"}), OtherPatientNames="Poe^*"),
    case("M4b", known("lower", unknown=NO_REFERRER), ReferringPhysicianName="House^Gregory"),
    case("M4b", known("doe", "lower", unknown=NO_REFERRER), ReferringPhysicianName="House*"),
    case("M4b", {"lower"}, ModalitiesInStudy="MR"),
    # M5: wild cards
    case("M5", {"doe", "padded", "old", "unknown", "yamada", "greek", "nodate", "items"}, PatientID="P*"),
    case("M5", {"doe", "lower"}, PatientID="*1"),
    case("M5", known("doe"), PatientID="P?", StudyDate="20200101-20200101", PatientSex="M"),
    case("M5", ALL, PatientID="**"),
    case("M5", ALL, PatientID="??"),
    case("M5", set(), PatientID="?"),
    case("M5", set(), PatientID="???"),
    case("M5", known("padded", unknown=NO_DESCRIPTION), StudyDescription="A*C*"),
    case("M5", known("padded", unknown=NO_DESCRIPTION), StudyDescription="A?C?"),
    case("M5", known("doe", unknown=NO_DESCRIPTION), StudyDescription="100%*"),
    case("M5", known("doe", unknown=NO_DESCRIPTION), StudyDescription="*sure_x*"),
    case("M5", known("doe", unknown=NO_DESCRIPTION), StudyDescription="*[a]*"),
    case("M5", known("doe", unknown=NO_DESCRIPTION), StudyDescription="*'*"),
    case("M5", known("doe", unknown=NO_DESCRIPTION), StudyDescription='*"'),
    case("M5", known(unknown=NO_DESCRIPTION), StudyDescription="100*SURE*"),
    case("M5", known("doe", "lower", "padded"), PatientName="dOe^*"),
    case("M5", known("doe", "padded"), PatientName="*john*"),
    case("M5", known("old"), PatientName="M?ller*"),
    case("M5", known(), PatientName="M??ller*"),
    case("M5", set(), PatientID="*" * 50 + "x" + "*" * 50),
    case("M5", 0xA900, StudyDate="2020*"),
    case("M5", 0xA900, level="SERIES", StudyInstanceUID="1.2*", SeriesInstanceUID=""),
    # M6: ranges
    case("M6", known("doe", "lower", "padded", "old", "yamada", "greek"), StudyDate="20200101-"),
    case("M6", known("doe", "items"), StudyDate="-20200101"),
    case("M6", known("doe"), StudyDate="20200101-20200101"),
    case("M6", known("doe", "lower", "padded"), StudyDate="20200101-20200131"),
    case("M6", known("old"), StudyDate="20200229"),
    case("M6", known("old"), StudyDate="2020.02.29"),
    case("M6", known("old"), StudyDate="2020.02.01-2020.03.01"),
    case("M6", set(), StudyDate="20200131-20200101"),
    case("M6", ALL, StudyDate="-"),
    case("M6", known("lower", "padded", "old", unknown=NO_TIME), StudyTime="10-1030"),
    case("M6", known("lower", "padded", "old", unknown=NO_TIME), StudyTime="1000-10"),
    case("M6", known("padded", unknown=NO_TIME), StudyTime="101010-101010"),
    case("M6", known("padded", "old", unknown=NO_TIME), StudyTime="10:10:10 - 10:11:12"),
    case("M6", set(), StudyTime="220000-020000"),
    case("M6", 0xA900, StudyTime="1000+0100-1100"),
    case("M6", known("yamada", unknown=NO_TIME), StudyTime="235960"),
    case("M6", known("yamada", unknown=NO_TIME), StudyTime="235959.5-"),
    case("M6", (known("doe")[0], 0xA900), StudyDate="2020-01-01"),
    # M7: date and time, independent and combined
    case("M7", known("lower", "padded", "old"), StudyDate="20200101-20200301", StudyTime="1000-1800"),
    case("M7", known("doe", "lower", "padded", "old", unknown=NO_TIME), extended=b"\1\1",
         StudyDate="20200101-20200301", StudyTime="1000-1800"),
    case("M7", known("lower", "padded", unknown=NO_TIME), extended=b"\1\1",
         StudyDate="20200102-20200131", StudyTime="0900-1800"),
    # M8: sequences
    case("M8", known("items", unknown=ALL - {"items"}), ProcedureCodeSequence=[{"CodeValue": "C1"}]),
    case("M8", known("items", unknown=ALL - {"items"}),
         ProcedureCodeSequence=[{"CodeValue": "C1", "CodingSchemeDesignator": "99X"}]),
    case("M8", known(unknown=ALL - {"items"}),
         ProcedureCodeSequence=[{"CodeValue": "C1", "CodingSchemeDesignator": "99Y"}]),
    case("M8", 0xA900, ProcedureCodeSequence=[{"CodeValue": "C1"}, {"CodeValue": "C2"}]),
    # M9: empty values
    case("M9", known(), AccessionNumber='""'),
    case("M9", {"unknown"}, extended=b"\1\0\0\0\0\1", AccessionNumber='""'),
    # M10: several values
    case("M10", ({"doe", "lower"}, 0xA900), AccessionNumber="ABC\\abc"),
    case("M10", known("doe", "lower"), extended=b"\1\0\0\0\0\0\1", AccessionNumber="ABC\\abc"),
    case("M10", ({"doe", "lower"} | ALL, 0xA900), ModalitiesInStudy="CT\\MR"),
    # M11: fuzzy names
    case("M11", known(), PatientName="Muehler^Juergen"),
    case("M11", known("old"), extended=b"\1\0\1", PatientName="Miller^Jurgen"),
    # M12: the time zone of a query is not a key
    case("M12", {"doe"}, PatientID="P1", TimezoneOffsetFromUTC="+0500"),
    # M13: numbers
    case("M13", {"doe"}, level="SERIES", StudyInstanceUID=uid("doe"), SeriesInstanceUID="", SeriesNumber="007"),
    case("M13", {"doe"}, level="SERIES", StudyInstanceUID=uid("doe"), SeriesInstanceUID="", SeriesNumber="+7"),
    case("M13", set(), level="SERIES", StudyInstanceUID=uid("lower"), SeriesInstanceUID="", SeriesNumber="7"),
    case("M13", known("doe", unknown=ALL - {"doe"}), PatientWeight="70.5"),
    # M14: character sets
    case("M14", known("old"), PatientName="Müller*", SpecificCharacterSet="ISO_IR 100"),
    case("M14", known("old"), codec="utf-8", PatientName="Müller*", SpecificCharacterSet="ISO_IR 192"),
    case("M14", known("old"), codec="utf-8", PatientName="Müller*", SpecificCharacterSet="ISO-IR 192"),
    case("M14", known("old"), codec="latin-1", PatientName="Müller*"),
    case("M14", known("old"), codec="gb18030", PatientName="Müller*", SpecificCharacterSet="GB18030"),
    case("M14", known("greek"), codec="iso8859-7", PatientName=GREEK, SpecificCharacterSet="ISO_IR 126"),
    case("M14", known("greek"), codec="utf-8", PatientName=GREEK.upper(), SpecificCharacterSet="ISO_IR 192"),
    # M15: component groups
    case("M15", known("yamada"), PatientName="yamada^tarou"),
    case("M15", known("yamada"), codec="utf-8", PatientName="山田^太郎", SpecificCharacterSet="ISO_IR 192"),
    case("M15", known("yamada"), codec="utf-8", PatientName="やまだ*", SpecificCharacterSet="ISO_IR 192"),
    case("M15", known("yamada"), codec="utf-8", PatientName="Yamada*=山田*", SpecificCharacterSet="ISO_IR 192"),
    case("M15", known("yamada"), codec="utf-8", PatientName="=山田*", SpecificCharacterSet="ISO_IR 192"),
    case("M15", known(), codec="utf-8", PatientName="=Yamada*", SpecificCharacterSet="ISO_IR 192"),
    case("M15", known("doe"), PatientName="Doe^John^^^"),
    # M16: longer than the VR
    case("M16", known("doe", unknown=NO_DESCRIPTION), StudyDescription="100%" + "*" * 70 + "sure*"),
    # M18: attributes that are not keys
    case("M18", {"doe"}, PatientID="P1", **{"QueryRetrieveLevel": "study "}),
    # K5: computed attributes match and are never stored ones
    case("K5", ALL, NumberOfStudyRelatedInstances="1"),
    case("K5", set(), NumberOfStudyRelatedInstances="2"),
    case("K5", ALL, SOPClassesInStudy=CT),
    # F1, F2: levels
    case("F1", 0xA900, **{"QueryRetrieveLevel": ""}),
    case("F2", 0xA900, level="PATIENT", PatientID="P1"),
    case("F2", 0xA900, level="FRAME", PatientID="P1"),
    # F4: unique keys above
    case("F4", ({"doe"}, 0xA900), level="SERIES", SeriesInstanceUID=uid("doe") + ".1"),
    case("F4", {"doe"}, level="SERIES", StudyInstanceUID=uid("doe"), SeriesInstanceUID=""),
    case("F4", {"doe"}, extended=b"\1", level="SERIES", SeriesInstanceUID=uid("doe") + ".1"),
    case("F4", ({"doe"}, 0xA900), level="IMAGE", StudyInstanceUID=uid("doe"), SOPInstanceUID=""),
    # F5: keys below
    case("F5", ({"doe"}, 0xA900), PatientID="P1", SeriesInstanceUID=""),
    case("F5", ({"doe"}, 0xA900), PatientID="P1", SOPInstanceUID="1.2.3"),
    # IMAGE: from the index and from the file
    case("M13", {"doe"}, level="IMAGE", StudyInstanceUID=uid("doe"), SeriesInstanceUID=uid("doe") + ".1",
         SOPInstanceUID="", InstanceNumber="7"),
    case("M4b", {"doe"}, level="IMAGE", StudyInstanceUID=uid("doe"), SeriesInstanceUID=uid("doe") + ".1",
         SOPInstanceUID="", ImageType="AXIAL"),
    case("M1", {"doe"}, level="IMAGE", StudyInstanceUID=uid("doe"), SeriesInstanceUID=uid("doe") + ".1",
         SOPInstanceUID="", Rows=512),
    case("M1", set(), level="IMAGE", StudyInstanceUID=uid("doe"), SeriesInstanceUID=uid("doe") + ".1",
         SOPInstanceUID="", Rows=511),
    case("M1", {"doe"}, level="IMAGE", StudyInstanceUID=uid("doe"), SeriesInstanceUID=uid("doe") + ".1",
         SOPInstanceUID="", AcquisitionDateTime="20200101110000+0000"),
    case("M6", {"doe"}, level="IMAGE", StudyInstanceUID=uid("doe"), SeriesInstanceUID=uid("doe") + ".1",
         SOPInstanceUID="", AcquisitionDateTime="20200101060000-0500-20200102"),
    case("M8", {"items"}, level="SERIES", StudyInstanceUID=uid("items"), SeriesInstanceUID="",
         RequestAttributesSequence=[{"ScheduledProcedureStepID": "SPS1", "RequestedProcedureID": "RP1"}]),
    case("M8", set(), level="SERIES", StudyInstanceUID=uid("items"), SeriesInstanceUID="",
         RequestAttributesSequence=[{"ScheduledProcedureStepID": "SPS1", "RequestedProcedureID": "RP2"}]),
]  # fmt: skip


@pytest.fixture(
    scope="module", params=[(kind, manner) for kind in KINDS for manner in ("tolerant", "strict")], ids="-".join
)
def asked(request, tmp_path_factory):
    """A running server with one kind of database in one mode, with all studies stored over the wire."""
    kind, manner = request.param
    folder = tmp_path_factory.mktemp(manner)
    with (
        fresh_database(kind, request, folder) as url,
        serving(folder, {"database.url": url, "query.manner": manner}) as archive,
    ):
        with Raw(archive.port) as client:
            client.associate((1, CT, [IMPLICIT]))
            for number, label in enumerate(LABELS, 1):
                sop = [raw.element(0x1000, (uid(label) + ".1.1").encode())]
                client.send(raw.request(raw.C_STORE, 1, CT, number, instance(label), sop))
                assert client.message().status == 0
            client.release()
        yield archive, manner


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.id}-{CASES.index(case)}")
def test_the_rules_of_matching(asked, case):
    """A query finds what the standard requires, or is refused with A900, an Error Comment and the Offending Element."""
    archive, manner = asked
    responses = ask(archive, case)
    expected = case.expected(manner)
    if isinstance(expected, int):
        assert [each.status for each in responses] == [expected]
        assert responses[0].text(0x0902)
        assert 0x0901 in responses[0].elements
        return
    assert responses[-1].status == 0x0000
    found = [each.dataset().StudyInstanceUID for each in responses[:-1]]
    assert sorted(found) == sorted(uid(label) for label in expected)


def ask(archive, case: Case) -> list[raw.Response]:
    """Return all responses to the C-FIND of a case."""
    level = {"QueryRetrieveLevel": case.level} | ({} if case.level != "STUDY" else {"StudyInstanceUID": ""})
    extra = b""
    if case.extended:
        extra = extended_negotiation(FIND, case.extended)
    with Raw(archive.port) as client:
        client.associate((1, FIND, [IMPLICIT]), extra=extra)
        client.send(*c_find(encode(level | case.keys, case.codec)))
        responses = client.until_final()
        client.release()
    return responses


def c_find(identifier: bytes) -> list[bytes]:
    """Return a C-FIND-RQ, whose Identifier may need several PDUs."""
    command = raw.request(raw.C_FIND, 1, FIND, 1, b"")
    command = command[: -len(raw.pdv(1, b"", command=False))]
    cut = [identifier[start : start + 16000] for start in range(0, len(identifier), 16000)]
    return [command, *(raw.pdv(1, each, command=False, last=place == len(cut)) for place, each in enumerate(cut, 1))]
