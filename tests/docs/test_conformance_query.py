"""What the conformance statement says of the manners and statuses of queries (section 3.3), asked of servers."""

import pytest
from sqlalchemy import text

from pacs.testing import serving, study
from tests import raw
from tests.archives import identifier, take_in
from tests.docs.asking import COMMENT, ELEMENT, FIND, Asker, model
from tests.docs.statement import asks, rows
from tests.raw import IMPLICIT, Raw


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A strict server with a study, a patient whose name is unknown, and a peer with whom it is tolerant."""
    peer = {"ae_title": "LENIENT", "host": "127.0.0.1", "port": 1, "manner": "tolerant"}
    with serving(tmp_path_factory.mktemp("strict"), {"query.manner": "strict", "peers": [peer]}) as running:
        take_in(running, study(series=1, instances=1))
        take_in(running, study("", series=1, instances=1, patient_id="P2", AccessionNumber=""))
        yield running


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


@asks("There are two matching modes", "The matching mode of this server is `tolerant`")
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


def numerous(_archive, tmp_path):
    """More matches than one query may have."""
    with serving(tmp_path, {"limits.query_answers": 1}) as archive:
        take_in(archive, study(series=1, instances=2))
        with Asker(archive.port) as asker:
            return asker.find("IMAGE", SOPInstanceUID="")[-1]


def unauthorized(_archive, tmp_path):
    """Nobody may ask."""
    with serving(tmp_path, {"access.services": ["store"]}) as archive, Asker(archive.port) as asker:
        return asker.find("STUDY", StudyInstanceUID="")[-1]


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
        (path,) = (tmp_path / "files").rglob("*.dcm")
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
    "0124": [unauthorized],
    "A700": [numerous, scanned, without_index],
    "A900": [asking(-1, level="NONE")],
    "C000": [undecodable],
    "C003": [without_file],
}
"""How each status is provoked, as often as it stands in the table."""


@pytest.mark.parametrize("code", sorted({row[0] for row in rows("Statuses of C-FIND", "status")} - {"C001"}))
def test_every_status(tolerant, tmp_path, code):
    """Each status comes from its cause, with the related fields that the table tells and no others."""
    told = [row[2] for row in rows("Statuses of C-FIND", "status") if row[0] == code]
    assert len(told) == len(PROVOKED[code])
    for related, provoke in zip(told, PROVOKED[code], strict=True):
        response = provoke(tolerant, tmp_path)
        assert f"{response.status:04X}" == code, response.text(COMMENT)
        assert (COMMENT in response.elements) == ("0902" in related)
        assert ELEMENT not in response.elements or "0901" in related
        assert (response.data is not None) == (related == "Identifier")
