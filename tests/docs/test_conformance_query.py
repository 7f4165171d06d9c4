"""Checks the matching modes and statuses in section 3.3 of the conformance statement on running servers."""

import pytest
from sqlalchemy import text

from pacs.conformance.statement.wording import SWITCHES
from pacs.dicom.identifier import encode
from pacs.index import maintenance
from pacs.testing import serving, study
from tests import raw
from tests.archives import identifier, take_in
from tests.committing import references, requester
from tests.dicom.build import dataset
from tests.docs.requests import COMMENT, ELEMENT, FIND, Requestor, model
from tests.docs.statement import covers, rows
from tests.raw import IMPLICIT, Raw
from tests.waiting import eventually


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A strict server with a study, an empty Accession Number, and a peer with the tolerant mode."""
    peer = {"ae_title": "LENIENT", "host": "127.0.0.1", "port": 1, "manner": "tolerant"}
    with serving(tmp_path_factory.mktemp("strict"), {"query.manner": "strict", "peers": [peer]}) as running:
        take_in(running, study(series=1, instances=1, StudyDescription="Scha\u0308del"))
        take_in(running, study("", series=1, instances=1, patient_id="P2", AccessionNumber=""))
        yield running


# --- matching modes ------------------------------------------------------------------------------------------------


def first_status(port: int, data: bytes, operation: str = "FIND", **requestor: object) -> int:
    """Return the status of the first response to a C-FIND or C-GET in Study Root."""
    with Requestor(port, **requestor) as made:
        kind = raw.C_FIND if operation == "FIND" else raw.C_GET
        return made.ask(kind, model("Study Root", operation), data)[0].status


def series_alone() -> bytes:
    """Return an Identifier at SERIES level without a key of STUDY."""
    return identifier("SERIES", SeriesInstanceUID="")


MODES = {
    "unique keys of the levels above": (series_alone, "FIND", 0xFF00, 0xA900),
    "keys below the level": (lambda: identifier("STUDY", StudyInstanceUID="", Modality=""), "FIND", 0xFF01, 0xA900),
    "an entity whose stored value for a key is empty": (
        lambda: identifier("STUDY", StudyInstanceUID="", AccessionNumber="ELSE"),
        "FIND",
        0x0000,
        0xFF00,
    ),
    "several values of a key other than a UID, not negotiated": (
        lambda: identifier("STUDY", StudyInstanceUID="", AccessionNumber=["A1", "A2"]),
        "FIND",
        0xFF00,
        0xA900,
    ),
    "a query without the unique key of its level": (lambda: identifier("STUDY", StudyID=""), "FIND", 0xFF00, 0xA900),
    "a retrieve by keys other than unique keys": (
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
    "asterisks alone in a key of AS DA DS DT IS TM UI": (
        lambda: encode(dataset(QueryRetrieveLevel="STUDY", StudyInstanceUID="*", StudyDate="*"), IMPLICIT),
        "FIND",
        0xFF00,
        0xA900,
    ),
    SWITCHES["typed_dates"][0]: (
        lambda: encode(dataset(QueryRetrieveLevel="STUDY", StudyInstanceUID="", StudyDate="2020-2099"), IMPLICIT),
        "FIND",
        0xFF00,
        0xA900,
    ),
    "the Query/Retrieve Levels INSTANCE, INSTANCES, IMAGES, STUDIES and PATIENTS": (
        lambda: identifier("STUDIES", StudyInstanceUID=""),
        "FIND",
        0xFF00,
        0xA900,
    ),
    "a retrieve with an empty unique key of its level and another key of that level with a value": (
        lambda: identifier("STUDY", StudyInstanceUID="", AccessionNumber="A9"),
        "GET",
        0x0000,
        0xA900,
    ),
    "the same text, other than a name, with composed or decomposed accents (Unicode NFC, NFD)": (
        lambda: identifier("STUDY", SpecificCharacterSet="ISO_IR 192", StudyInstanceUID="", StudyDescription="Schädel"),
        "FIND",
        0xFF00,
        0x0000,
    ),
}
"""The request for each row of the matching modes, and the first status in each mode."""


@pytest.fixture(scope="module")
def tolerant(tmp_path_factory):
    """A tolerant server with the same data, and a peer with the strict mode."""
    peer = {"ae_title": "PEDANT", "host": "127.0.0.1", "port": 1, "manner": "strict"}
    with serving(tmp_path_factory.mktemp("tolerant"), {"peers": [peer]}) as running:
        take_in(running, study(series=1, instances=1, StudyDescription="Scha\u0308del"))
        take_in(running, study("", series=1, instances=1, patient_id="P2", AccessionNumber=""))
        yield running


@covers("There are two matching modes", "The matching mode of this server is `tolerant`")
@pytest.mark.parametrize("row", rows("3.3 Query", "in a request"), ids=lambda row: row[0])
def test_every_switch_of_the_matching_modes(tolerant, strict, row):
    """In the tolerant and the strict mode, also for a single peer."""
    make, operation, lenient, exact = MODES[row[0]]
    for cell, status in zip(row[1:], (lenient, exact), strict=True):
        assert ("A900" in cell) == (status == 0xA900)
        assert ("does not match" in cell) == (operation == "FIND" and status == 0x0000)
    assert first_status(tolerant.port, make(), operation) == lenient
    assert first_status(strict.port, make(), operation) == exact
    assert first_status(tolerant.port, make(), operation, calling="PEDANT") == exact
    assert first_status(strict.port, make(), operation, calling="LENIENT") == lenient


def test_relational_queries_and_retrieves_can_be_negotiated(strict):
    """Then the unique keys above may be missing in the strict mode too."""
    assert first_status(strict.port, series_alone(), extended=b"\1") == 0xFF00
    lone = identifier("SERIES", SeriesInstanceUID="1.2.3")
    assert first_status(strict.port, lone, "GET") == 0xA900
    assert first_status(strict.port, lone, "GET", extended=b"\1") == 0x0000


def test_without_a_key_nothing_matches_in_the_strict_mode(strict):
    """With only the level, the status is 0000 without a match."""
    assert first_status(strict.port, identifier("STUDY")) == 0x0000


@pytest.mark.parametrize(
    ("keyword", "content"),
    [("QueryRetrieveView", "CLASSIC"), ("SpecificCharacterSet", ""), ("TimezoneOffsetFromUTC", "")],
)
def test_attributes_not_allowed_in_a_request(tolerant, strict, keyword, content):
    """They are refused in the strict mode, and ignored in the tolerant one."""
    data = identifier("STUDY", StudyInstanceUID="", **{keyword: content})
    assert (first_status(tolerant.port, data), first_status(strict.port, data)) == (0xFF00, 0xA900)


# --- statuses ----------------------------------------------------------------------------------------------------


def cancelled(archive, _tmp_path):
    """Send a C-CANCEL in the packet of the request."""
    with Raw(archive.port) as client:
        client.associate((1, FIND, [IMPLICIT]))
        request = raw.request(raw.C_FIND, 1, FIND, 1, identifier("STUDY", StudyInstanceUID=""))
        client.send(request, raw.cancel(1, 1))
        return client.until_final()[-1]


def scanned(_archive, tmp_path):
    """Match more rows than a query may match row by row."""
    with serving(tmp_path, {"limits.query_scan": 1}) as archive:
        for number in (1, 2):
            take_in(archive, study(series=1, instances=1, number=number))
        with Requestor(archive.port) as requestor:
            return requestor.find("STUDY", StudyComments="x")[-1]


def numerous(_archive, tmp_path):
    """Find more matches than a query may have."""
    with serving(tmp_path, {"limits.query_answers": 1}) as archive:
        take_in(archive, study(series=1, instances=2))
        with Requestor(archive.port) as requestor:
            return requestor.find("IMAGE", SOPInstanceUID="")[-1]


def unauthorized(_archive, tmp_path):
    """Query without the right to."""
    with serving(tmp_path, {"access.services": ["store"]}) as archive, Requestor(archive.port) as requestor:
        return requestor.find("STUDY", StudyInstanceUID="")[-1]


def without_index(_archive, tmp_path):
    """Query an index without a table."""
    with serving(tmp_path) as archive:
        with archive.index.write() as connection:
            connection.execute(text("ALTER TABLE patient RENAME TO gone"))
        with Requestor(archive.port) as requestor:
            return requestor.find("STUDY", StudyInstanceUID="")[-1]


def without_file(_archive, tmp_path):
    """Query an attribute of a missing file."""
    with serving(tmp_path) as archive:
        take_in(archive, study(series=1, instances=1))
        (path,) = (tmp_path / "files").rglob("*.dcm")
        path.unlink()
        with Requestor(archive.port) as requestor:
            return requestor.find("IMAGE", SOPInstanceUID="", WindowCenter="")[-1]


def asking(place: int, level: str = "STUDY", **keys: object):
    """Return a function that sends a query and returns the response at `place`."""

    def ask(archive, _tmp_path):
        with Requestor(archive.port) as requestor:
            return requestor.find(level, **keys)[place]

    return ask


def undecodable(archive, _tmp_path):
    """Send bytes that are not a data set."""
    with Requestor(archive.port) as requestor:
        return requestor.ask(raw.C_FIND, FIND, b"\xff" * 20)[-1]


PROVOKED = {
    "0000": [asking(-1, StudyInstanceUID="")],
    "FF00": [asking(0, StudyInstanceUID="", PatientComments="")],
    "FF01": [asking(0, StudyInstanceUID="", WindowCenter="")],
    "FE00": [cancelled],
    "0124": [unauthorized],
    "A700": [numerous, scanned, without_index],
    "A900": [asking(-1, level="NONE")],
    "C000": [undecodable],
    "C003": [without_file],
}
"""The causes of each status, one for each row of the table."""


@pytest.mark.parametrize("code", sorted({row[0] for row in rows("Statuses of C-FIND", "status")} - {"C001"}))
def test_every_status(tolerant, tmp_path, code):
    """Each follows from its cause, with exactly the related fields of the table."""
    told = [row[2] for row in rows("Statuses of C-FIND", "status") if row[0] == code]
    assert len(told) == len(PROVOKED[code])
    for related, provoke in zip(told, PROVOKED[code], strict=True):
        response = provoke(tolerant, tmp_path)
        assert f"{response.status:04X}" == code, response.text(COMMENT)
        assert (COMMENT in response.elements) == ("0902" in related)
        assert ELEMENT not in response.elements or "0901" in related
        assert (response.data is not None) == (related == "Identifier")


# --- an incomplete index -----------------------------------------------------------------------------------------


@covers(
    "An index that was lost, or restored from an older backup, is completed from the stored instances",
    "Until it is complete, instances are stored, but C-FIND is refused with A700, C-MOVE and C-GET with A701",
    "An instance that is stored meanwhile is not recognised as stored before",
)
def test_queries_are_refused_until_the_index_is_complete(tmp_path):
    """Completing it is held up by the lock of another process; afterwards all instances are found."""
    dataset = study(series=1, instances=1)[0]
    with serving(tmp_path) as archive:
        take_in(archive, [dataset])
        maintenance.forget(archive.index, archive.files.newest(1))
        note = archive.files.incomplete_note()
        note.create()
    key = {"StudyInstanceUID": dataset.StudyInstanceUID}
    peer = requester()
    with note.lock(), serving(tmp_path, {"peers": [peer.row]}) as archive, Requestor(archive.port) as requestor:
        assert requestor.find("STUDY", **key)[-1].status == 0xA700
        assert requestor.get("STUDY", **key)[-1].status == 0xA701
        assert requestor.move(peer.ae_title, "STUDY", **key)[-1].status == 0xA701
        assert peer.ask(archive.port, references([dataset])) == 0x0213
        take_in(archive, [dataset])
        assert len(archive.files.newest(9)) == 2
    with note.lock(), serving(tmp_path, {"database.heal": "answer"}) as archive, Requestor(archive.port) as requestor:
        assert [each.status for each in requestor.find("STUDY", **key)] == [0xFF00, 0x0000]
    with serving(tmp_path) as archive, Requestor(archive.port) as requestor:
        eventually(lambda: archive.healing.progress() is None)
        assert [each.status for each in requestor.find("STUDY", **key)] == [0xFF00, 0x0000]
