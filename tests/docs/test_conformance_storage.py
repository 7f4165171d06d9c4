"""Checks section 3.2 of the conformance statement (Storage) on running servers."""

import shutil
import struct
import zlib
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import Dataset
from sqlalchemy import text

from pacs.dicom.syntaxes import FRAGMENTS_IN_NATIVE
from pacs.testing import serving, study, uid
from tests import raw
from tests.archives import identifier
from tests.committing import PUSH_MODEL
from tests.dicom.test_elements import FRAGMENTS, SEQUENCE_END
from tests.dicom.test_field_data_sets import converted
from tests.dimse.test_field_data_sets import KINDS, made, retrieved
from tests.docs.requests import COMMENT, ELEMENT, MR, Requestor, model, negotiated, role, store
from tests.docs.statement import covers, rows
from tests.raw import EXPLICIT, IMPLICIT, Raw

DEFLATED, BIG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
PRIVATE = "1.2.3.4.5"
NEVER = {
    "CT Defined Procedure Protocol": "1.2.840.10008.5.1.4.1.1.200.1",
    "Protocol Approval": "1.2.840.10008.5.1.4.1.1.200.3",
    "XA Defined Procedure Protocol": "1.2.840.10008.5.1.4.1.1.200.7",
    "Inventory": "1.2.840.10008.5.1.4.1.1.201.1",
    "Hanging Protocol": "1.2.840.10008.5.1.4.38.1",
    "Color Palette": "1.2.840.10008.5.1.4.39.1",
    "Generic Implant Template": "1.2.840.10008.5.1.4.43.1",
    "Implant Assembly Template": "1.2.840.10008.5.1.4.44.1",
    "Implant Template Group": "1.2.840.10008.5.1.4.45.1",
    "Media Storage Directory": "1.2.840.10008.1.3.10",
    "Storage Commitment Push": "1.2.840.10008.1.20.1",
    "Storage Commitment Pull": "1.2.840.10008.1.20.2",
}
"""SOP Classes with Storage in their name that are never accepted (PS3.4 GG.3)."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A server with the defaults."""
    with serving(tmp_path_factory.mktemp("storage")) as running:
        yield running


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory):
    """A server that accepts unknown SOP Classes."""
    with serving(tmp_path_factory.mktemp("open"), {"storage.unknown_sop_classes": True}) as running:
        yield running


def instance(name: str, **values: object) -> Dataset:
    """Return an instance of a study of its own, named after a test."""
    made = study(series=1, instances=1, patient_id=name)[0]
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


# --- what is taken -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classes(archive):
    """The result of the context of each SOP Class of the table."""
    uids = [row[1] for row in rows("3.2 Storage", "SOP Class")]
    roles = b"".join(role(each, 1, 1) for each in uids[:128])
    found = negotiated(archive.port, [(each, [EXPLICIT]) for each in uids[:128]], extra=roles)
    return dict(zip(uids, found + negotiated(archive.port, [(each, [EXPLICIT]) for each in uids[128:]]), strict=True))


@covers("Conformant to PS3.4 Annex B as SCP, at level 2 (Full)")
@pytest.mark.parametrize("row", rows("3.2 Storage", "SOP Class"), ids=lambda row: row[1])
def test_every_storage_class_is_accepted_and_stored(archive, classes, row):
    """Its context is accepted, and an instance of it is stored."""
    assert classes[row[1]] == (0, EXPLICIT)
    assert store(archive.port, instance("CLASS " + row[1][-40:], SOPClassUID=row[1])).status == 0x0000


def in_syntax(dataset: Dataset, syntax: str) -> bytes:
    """Return a data set without pixels in a transfer syntax."""
    del dataset.PixelData
    if syntax == BIG:
        return big_endian(dataset)
    encoded = raw.encoded(dataset, IMPLICIT if syntax == IMPLICIT else EXPLICIT)
    return zlib.compress(encoded, wbits=-15) if syntax == DEFLATED else encoded


def big_endian(dataset: Dataset) -> bytes:
    """Return a data set in Explicit VR Big Endian."""
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = False, False
    write_dataset(out, dataset)
    return out.getvalue()


@pytest.mark.parametrize("row", rows("3.2 Storage", "transfer syntax"), ids=lambda row: row[1])
def test_every_transfer_syntax_is_accepted_and_stored(archive, row):
    """A context with it alone is accepted, and an instance is stored and found with it."""
    made = instance("SYNTAX " + row[1])
    assert negotiated(archive.port, [(made.SOPClassUID, [row[1]])]) == [(0, row[1])]
    sent = in_syntax(made, row[1])
    response = store(archive.port, sent, syntax=row[1], sop_class=made.SOPClassUID, instance=made.SOPInstanceUID)
    assert response.status == 0x0000, response.text(COMMENT)
    with Requestor(archive.port) as requestor:
        (found,) = requestor.found("IMAGE", SOPInstanceUID=made.SOPInstanceUID, AvailableTransferSyntaxUID="")
    assert found.AvailableTransferSyntaxUID == row[1]


@covers("the Non-Patient Object Storage SOP Classes, Media Storage Directory and Storage Commitment are never accepted")
@pytest.mark.parametrize("sop_class", NEVER.values(), ids=NEVER)
def test_sop_classes_that_are_never_accepted(archive, open_to_all, sop_class):
    """They are rejected as an unknown abstract syntax, or refused, with and without the switch."""
    for each in (archive, open_to_all):
        if sop_class == PUSH_MODEL:
            assert store(each.port, instance("NEVER", SOPClassUID=sop_class)).status == 0x0211
            continue
        assert negotiated(each.port, [(sop_class, [EXPLICIT])]) == [(3, EXPLICIT)]


@pytest.mark.parametrize(
    "row",
    [row for row in rows("3.2 Storage", "option") if row[0] == "storage.unknown_sop_classes"],
    ids=lambda row: row[1],
)
def test_unknown_sop_classes(archive, open_to_all, row):
    """They are rejected by default; with the switch they are accepted in every transfer syntax."""
    syntaxes = [each[1] for each in rows("3.2 Storage", "transfer syntax")]
    if row[1] == "false":
        assert row[3] == "yes"
        assert negotiated(archive.port, [(PRIVATE, [EXPLICIT])]) == [(3, EXPLICIT)]
    else:
        proposals = [(PRIVATE, [each]) for each in syntaxes]
        assert negotiated(open_to_all.port, proposals) == [(0, each) for each in syntaxes]
        assert store(open_to_all.port, instance("UNKNOWN", SOPClassUID=PRIVATE)).status == 0x0000


# --- how it is kept ----------------------------------------------------------------------------------------------


def fetched(archive, dataset: Dataset) -> bytes:
    """Return the data set of an instance by C-GET."""
    get, sop_class = model("Study Root", "GET"), dataset.SOPClassUID
    with Raw(archive.port) as client:
        client.associate((1, get, [IMPLICIT]), (3, sop_class, [EXPLICIT]), extra=role(sop_class, 1, 1))
        selection = identifier("STUDY", StudyInstanceUID=dataset.StudyInstanceUID)
        client.send(raw.request(raw.C_GET, 1, get, 1, selection))
        sent = client.message()
        client.send(raw.success(3, sent.elements))
        assert client.until_final()[-1].status == 0x0000
    assert sent.data is not None
    return sent.data


@covers("The data set is stored byte by byte as it was received", "No attribute is coerced")
def test_the_data_set_is_returned_byte_by_byte(archive):
    """With private elements and invalid values, and without groups 0000 and 0002."""
    made = instance("BYTES", StudyDate="20269999", PatientSex="X", SpecificCharacterSet="ISO_IR 100")
    made.private_block(0x0009, "NOBODY KNOWS", create=True).add_new(0x01, "UN", b"\1\2\3\4")
    sent = raw.encoded(made, EXPLICIT)
    intruder = struct.pack("<HH2sH", 0x0002, 0x0010, b"UI", 4) + b"1.2\0"
    answer = store(archive.port, intruder + sent, instance=made.SOPInstanceUID)
    assert answer.status == 0x0000, answer.text(COMMENT)
    assert fetched(archive, made) == sent


@covers("Common errors of writers that lose no value are accepted", "When such an instance is sent in another")
@pytest.mark.parametrize("kind", KINDS[::3])
def test_common_errors_of_writers(archive, kind):
    """They are stored, and sent in another transfer syntax without these errors."""
    uid = f"1.2.3.{KINDS.index(kind)}"
    syntax, data = made(uid)[kind]
    assert store(archive.port, data, syntax=syntax, instance=uid).status == 0x0000
    other = EXPLICIT if syntax == IMPLICIT else IMPLICIT
    sent = retrieved(archive, uid, other)
    assert converted(converted(sent, other, BIG), BIG, other) == sent


@covers("Pixel data in fragments under a native transfer syntax is refused")
def test_fragments_in_a_native_transfer_syntax(archive):
    """The response says so, and which element it is."""
    made = instance("FRAGMENTS")
    del made.PixelData
    answer = store(archive.port, raw.encoded(made, EXPLICIT) + FRAGMENTS + SEQUENCE_END, instance=made.SOPInstanceUID)
    assert answer.status == 0xC000
    assert answer.text(COMMENT) == FRAGMENTS_IN_NATIVE


@covers("The boundaries and the order of associations have no meaning")
def test_association_boundaries_have_no_meaning(archive):
    """Instances of two studies in any order on two interleaved associations are all stored."""
    one, two = (study(series=2, instances=2, patient_id="ORDER", number=number) for number in (1, 2))
    for dataset in (one[3], two[0], one[0], two[3], one[2], two[1], one[1], two[2]):
        assert store(archive.port, dataset).status == 0x0000
    with Requestor(archive.port) as requestor:
        found = requestor.found(
            "STUDY", PatientID="ORDER", NumberOfStudyRelatedSeries="", NumberOfStudyRelatedInstances=""
        )
    assert [(each.NumberOfStudyRelatedSeries, each.NumberOfStudyRelatedInstances) for each in found] == [(2, 4)] * 2


@covers(
    "Status B000 means that an instance names another patient", "It is stored unchanged, and found under the patient"
)
def test_conflicting_parents(archive):
    """A study of a second patient and a series of a second study are stored, and found under the first parents."""
    first, second, third = study(series=1, instances=3, patient_id="FIRST")
    second.PatientID = "SECOND"
    third.StudyInstanceUID = uid("another study")
    assert store(archive.port, first).status == 0x0000
    for each in (second, third):
        assert store(archive.port, each).status == 0xB000
    with Requestor(archive.port) as requestor:
        found = requestor.found("IMAGE", "Patient Root", PatientID="FIRST", SOPInstanceUID="")
        assert {each.SOPInstanceUID for each in found} == {each.SOPInstanceUID for each in (first, second, third)}
        assert {each.StudyInstanceUID for each in found} == {first.StudyInstanceUID}
        assert requestor.found("STUDY", PatientID="SECOND") == []
    lone = study(series=1, instances=2, patient_id="LONE")
    lone[1].PatientID = "OTHER"
    assert [store(archive.port, each).status for each in (lone[0], lone[1])] == [0x0000, 0xB000]


@covers("A patient is identified by Patient ID and Issuer of Patient ID")
def test_patient_identity(archive):
    """The same ID of two issuers are two patients; without an ID every study has its own patient."""
    for number, issuer in ((1, "A"), (2, "B"), (3, "A")):
        made = study(series=1, instances=1, patient_id="SAME", number=number, IssuerOfPatientID=issuer)
        assert store(archive.port, made[0]).status == 0x0000
    with Requestor(archive.port) as requestor:
        found = requestor.found("PATIENT", "Patient Root", PatientID="SAME", IssuerOfPatientID="")
        assert sorted(each.IssuerOfPatientID for each in found) == ["A", "B"]
        for number in (1, 2):
            made = study("NO^ID", series=1, instances=1, patient_id="", number=number)
            assert store(archive.port, made[0]).status == 0x0000
        assert len(requestor.found("PATIENT", "Patient Root", PatientName="NO^ID")) == 2


@covers("For an attribute of a patient, study or series, queries use the first value that was received")
def test_queries_use_the_first_value(archive):
    """Later instances fill empty values, and change nothing else."""
    first, second = study(series=1, instances=2, patient_id="VALUES")
    first.StudyDescription, first.StudyID = "first", ""
    second.StudyDescription, second.StudyID = "second", "filled"
    for each in (first, second):
        store(archive.port, each)
    with Requestor(archive.port) as requestor:
        (found,) = requestor.found("STUDY", PatientID="VALUES", StudyDescription="", StudyID="")
    assert (found.StudyDescription, found.StudyID) == ("first", "filled")


# --- duplicates --------------------------------------------------------------------------------------------------


def stored_comments(archive, dataset: Dataset) -> str:
    """Return the stored Image Comments of an instance."""
    with Requestor(archive.port) as requestor:
        (found,) = requestor.found("IMAGE", SOPInstanceUID=dataset.SOPInstanceUID, ImageComments="")
    return str(found.ImageComments)


DUPLICATES = {
    "keep": (0x0000, 0x0000, 0xC011, "first"),
    "replace": (0x0000, 0x0000, 0x0000, "other"),
    "reject": (0x0111, 0x0111, 0x0111, "first"),
}
"""The statuses for the same bytes, the same values in another encoding, and other values, and the kept value."""


@covers("Status 0000 means that the bytes are on disk and the index is committed")
@pytest.mark.parametrize(
    "row", [row for row in rows("3.2 Storage", "option") if row[0] == "storage.duplicates"], ids=lambda row: row[1]
)
def test_duplicates(tmp_path, row):
    """As configured; acknowledged instances are there after a restart."""
    settings = {"storage.duplicates": row[1]}
    with serving(tmp_path, settings) as archive:
        made = instance("DUPLICATE", ImageComments="first")
        assert store(archive.port, made).status == 0x0000
        statuses = [store(archive.port, made).status, store(archive.port, made, syntax=IMPLICIT).status]
        other = instance("DUPLICATE", ImageComments="other")
        statuses.append(store(archive.port, other).status)
    with serving(tmp_path, settings) as archive:
        assert (*statuses, stored_comments(archive, made)) == DUPLICATES[row[1]]


@covers("An instance of at most 256 kB may be on disk in a journal only, from which the next start restores its file")
@pytest.mark.parametrize("side", [8, 350])
def test_acknowledged_instances_are_restored_from_the_journal(tmp_path, side):
    """The files of an image of 245 kB and a small one were lost; a larger one is not in the journal."""
    house, cut = tmp_path / "house", tmp_path / "cut"
    made, larger = (
        instance("JOURNAL", Rows=side, PixelData=bytes(2 * side * side)),
        instance("L", PixelData=bytes(1 << 18)),
    )
    with serving(house) as archive:
        assert [store(archive.port, each).status for each in (made, larger)] == [0x0000, 0x0000]
        shutil.copytree(house, cut)
    sizes = {path: path.stat().st_size for path in cut.rglob("*.dcm")}
    for path, size in sizes.items():
        if size < 1 << 18:
            path.write_bytes(b"")
    with serving(cut) as archive:
        assert stored_comments(archive, made) == stored_comments(archive, larger)
        assert {path: path.stat().st_size for path in cut.rglob("*.dcm")} == sizes


# --- statuses ----------------------------------------------------------------------------------------------------


def warned(archive, _tmp_path):
    """Store a study under a second patient."""
    first, second = study(series=1, instances=2, patient_id="WARNED")
    second.PatientID = "WARNED 2"
    store(archive.port, first)
    return store(archive.port, second)


def rejected(_archive, tmp_path):
    """Store a known instance with `storage.duplicates = "reject"`."""
    with serving(tmp_path, {"storage.duplicates": "reject"}) as archive:
        store(archive.port, instance("REJECTED"))
        return store(archive.port, instance("REJECTED"))


def without_files(_archive, tmp_path):
    """Put a file in the place of the folder of this year."""
    with serving(tmp_path) as archive:
        from datetime import UTC, datetime

        (Path(archive.config.files.url) / f"{datetime.now(UTC):%Y}").write_text("in the way")
        return store(archive.port, instance("NO FILES"))


@contextmanager
def broken_index(archive):
    """Rename a table of the index."""
    with archive.index.write() as connection:
        connection.execute(text("ALTER TABLE image RENAME TO gone"))
    yield
    with archive.index.write() as connection:
        connection.execute(text("ALTER TABLE gone RENAME TO image"))


def without_index(archive, _tmp_path):
    """Store without the index."""
    with broken_index(archive):
        return store(archive.port, instance("NO INDEX"))


def damaged(_archive, tmp_path):
    """Store other content for an instance with a missing file."""
    with serving(tmp_path) as archive:
        store(archive.port, instance("GONE"))
        (path,) = (tmp_path / "files").rglob("*.dcm")
        path.unlink()
        return store(archive.port, instance("GONE", ImageComments="other"))


def conflicting(archive, _tmp_path):
    """Store other content under a known UID."""
    store(archive.port, instance("CONFLICT"))
    return store(archive.port, instance("CONFLICT", ImageComments="other"))


def unauthorized(_archive, tmp_path):
    """Store without the right to."""
    with serving(tmp_path, {"access.services": ["find"]}) as archive:
        return store(archive.port, instance("UNAUTHORIZED"))


PROVOKED = {
    "0124": [unauthorized],
    "0000": [lambda archive, _: store(archive.port, instance("FINE"))],
    "B000": [warned],
    "0111": [rejected],
    "A700": [without_files, without_index],
    "A900": [lambda archive, _: store(archive.port, raw.encoded(instance("MISMATCH"), EXPLICIT), instance="1.2.3")],
    "A901": [lambda archive, _: store(archive.port, instance("NO UID", StudyInstanceUID=""))],
    "C000": [lambda archive, _: store(archive.port, b"\xff" * 64, instance="1.2.3")],
    "C003": [damaged],
    "C011": [conflicting],
}
"""The causes of each status, one for each row of the table."""


@pytest.mark.parametrize("code", sorted({row[0] for row in rows("3.2 Storage", "status")} - {"C001"}))
def test_every_status(archive, tmp_path, code):
    """Each follows from its cause, with exactly the related fields of the table."""
    told = [row[2] for row in rows("3.2 Storage", "status") if row[0] == code]
    assert len(told) == len(PROVOKED[code])
    for related, provoke in zip(told, PROVOKED[code], strict=True):
        response = provoke(archive, tmp_path)
        assert f"{response.status:04X}" == code, response.text(COMMENT)
        assert (COMMENT in response.elements) == ("0902" in related)
        assert ELEMENT not in response.elements or "0901" in related


@covers("An instance without a valid Study, Series and SOP Instance UID is refused")
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
@pytest.mark.parametrize("value", ["", "../x", "1.2.x"])
def test_a_missing_uid_is_refused(archive, keyword, value):
    """With A901 and the Offending Element."""
    made = instance("UIDS")
    own = value or made.SOPInstanceUID if keyword == "SOPInstanceUID" else made.SOPInstanceUID
    setattr(made, keyword, value)
    response = store(archive.port, raw.encoded(made, EXPLICIT), instance=own)
    assert response.status == 0xA901
    assert response.elements[ELEMENT] == struct.pack("<HH", *divmod(made.data_element(keyword).tag, 1 << 16))


def test_the_sop_class_of_the_data_set_must_match(archive):
    """Another SOP Class than in the command set is A900, with SOP Class UID as Offending Element."""
    made = instance("CLASS OF ITS OWN", SOPClassUID=MR)
    response = store(archive.port, raw.encoded(made, EXPLICIT), instance=made.SOPInstanceUID)
    assert (response.status, response.elements[ELEMENT]) == (0xA900, b"\x08\x00\x16\x00")
