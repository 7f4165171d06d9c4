"""Queries and retrieves on an association are explained once they are answered, if configured."""

import json
import logging
import re
from threading import Thread

import pytest
from pynetdicom.sop_class import CTImageStorage

from pacs.config import from_settings
from pacs.dimse.scp import explain_hook
from pacs.observability.events import Event
from pacs.services.explaining import Explainer
from pacs.testing import Fault, serving, study
from tests import raw
from tests.archives import FIND, GET, MOVE, identifier, take_in
from tests.dimse.test_negotiation import extended
from tests.dimse.test_store_suboperations import Destination, move
from tests.pixels.converting import converted
from tests.raw import IMPLICIT, Raw, request
from tests.waiting import eventually

NAME = "DOE^JOHN"
J2K, JPEG_LS = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80"
WS = {"ae_title": "WS", "host": "127.0.0.1", "port": 104}


@pytest.fixture
def archive(database_url, tmp_path):
    """A running archive with one study of two series that explains all requests, on each database."""
    with serving(tmp_path, {"database.url": database_url, "query.explain": True, "peers": [WS]}) as running:
        take_in(running, study(NAME, series=2, instances=1, patient_id="P1"))
        yield running


def ask(archive, level="STUDY", model=FIND, field=raw.C_FIND, calling="WS", extra=b"", command=(), **keys):
    """Return all responses to a query or retrieve."""
    with Raw(archive.port) as client:
        client.associate((1, model, [IMPLICIT]), calling=calling, extra=extra)
        client.send(request(field, 1, model, 1, identifier(level, **keys), list(command)))
        responses = client.until_final()
        client.release()
    return responses


@pytest.fixture(autouse=True)
def explanations(monkeypatch):
    """Logged explanations, newest first."""
    logged, log = [], explain_hook.log_explanation

    def record(operation, explanation):
        log(operation, explanation)
        described = json.loads(json.dumps(explanation.described()))
        logged.insert(0, {"calling_ae_title": operation.association.calling_ae_title, **described})

    monkeypatch.setattr(explain_hook, "log_explanation", record)
    return logged


@pytest.fixture
def explained(explanations):
    """Function that waits for a number of explanations and returns the last one."""

    def wait(count=1):
        assert eventually(lambda: len(explanations) >= count)
        return explanations[0]

    return wait


def test_a_query_is_explained_with_its_outcome(archive, explained):
    """The explanation has the requestor, the keys, the SQL, the status and the number of matches."""
    *matches, final = ask(archive, PatientName="doe*", StudyInstanceUID="", SeriesInstanceUID="")
    found = explained()
    assert (found["calling_ae_title"], found["operation"]) == ("WS", "C-FIND")
    assert found["outcome"] == {
        "status": "0000",
        "comment": "",
        "counts": {"matches": 1},
        "without": {},
        "differs": {},
        "stored_as": [],
    }
    assert (len(matches), matches[0].status, final.status) == (1, 0xFF01, 0x0000)
    assert found["answer"]["statuses"] == ["FF01", "0000"]
    uses = {each["key"]: each["use"] for each in found["keys"]}
    assert uses == {
        "QueryRetrieveLevel": "not a key",
        "PatientName": "matched",
        "StudyInstanceUID": "returned only",
        "SeriesInstanceUID": "ignored",
    }
    assert found["statements"][-1]["sql"].startswith("SELECT patient.id AS patient_key")
    assert found["other"]["statuses"] == ["A900"]


def test_a_query_that_is_refused_is_explained(archive, explained):
    """The explanation has the Error Comment of the response."""
    (refused,) = ask(archive, StudyDate="yesterday")
    found = explained()
    assert refused.status == 0xA900
    assert found["outcome"]["status"] == "A900"
    assert found["outcome"]["comment"] == "Not a date or range of dates: StudyDate"
    assert [each["key"] for each in found["keys"] if each["use"] == "refused"] == ["StudyDate"]


def test_the_negotiation_of_the_association_is_explained(archive, explained):
    """Fuzzy matching of names is negotiated (the third byte of PS3.4 C.5.1)."""
    ask(archive, extra=extended(FIND, b"\0\0\1"), PatientName="DO", StudyInstanceUID="")
    found = explained()
    assert found["negotiated"] == ["fuzzy_names"]
    assert [each["matching"] for each in found["keys"] if each["key"] == "PatientName"] == ["fuzzy semantic"]
    assert found["without_negotiation"]["statuses"] == ["FF00", "0000"]


def test_a_retrieve_is_explained_with_its_counts(archive, explained):
    """A C-GET without a storage context counts failures; a C-MOVE without unique keys is refused."""
    (patient,) = study(NAME, series=1, instances=1, patient_id="P1")
    ask(archive, model=GET, field=raw.C_GET, StudyInstanceUID=patient.StudyInstanceUID)
    found = explained()
    assert (found["operation"], found["outcome"]["counts"]["failed"]) == ("C-GET", 2)
    assert found["statements"][-1]["purpose"] == "the instances"
    (stored,) = found["outcome"]["stored_as"]
    assert (stored["transfer_syntax"], stored["instances"], stored["sent"]) == ("Explicit VR Little Endian", 2, {})
    assert stored["others"][:2] == ["Implicit VR Little Endian", "Explicit VR Big Endian"]
    ask(archive, model=MOVE, field=raw.C_MOVE, command=[raw.element(0x0600, b"WS")], PatientName="D*")
    found = explained(2)
    assert (found["operation"], found["outcome"]["status"]) == ("C-MOVE", "A900")


def test_the_explanation_of_a_move_says_what_was_converted_into_what(tmp_path, caplog):
    """For each stored transfer syntax: the order for this destination, and what was sent in each."""
    caplog.set_level("INFO", "pacs")
    native = [(each.SOPInstanceUID, raw.encoded(each, raw.EXPLICIT)) for each in study(series=1, instances=3, size=16)]
    with Destination(syntaxes=(raw.EXPLICIT, JPEG_LS)) as taker:
        chosen = {"peers": [taker.peer(send_as=["jpegls"])], "query.explain": True}
        with serving(tmp_path, chosen) as archive:
            for uid, data in native:
                syntax = raw.EXPLICIT if uid == native[0][0] else J2K
                with archive.storage.receive(CTImageStorage, uid, syntax, "TEST") as reception:
                    reception.write(converted(data, raw.EXPLICIT, syntax) if syntax == J2K else data)
                    reception.finish()
            assert move(archive)[-1].status == 0x0000
            assert eventually(lambda: "sent as JPEG-LS" in caplog.text)
    lossless = "JPEG 2000 Image Compression (Lossless Only)"
    order = "JPEG-LS Lossless Image Compression, Explicit VR Little Endian, Implicit VR Little Endian"
    assert f"instances in {lossless}: 2, sent as stored where it is accepted, else the first accepted of {order}" in (
        caplog.text
    )
    assert "; 2 sent as JPEG-LS Lossless Image Compression" in caplog.text
    assert "instances in Explicit VR Little Endian: 1, sent as stored where it is accepted" in caplog.text
    assert "; 1 sent as stored" in caplog.text


def test_only_the_configured_peers_are_explained(tmp_path, explanations, explained):
    """`explain = true` of one peer does not concern the others."""
    with serving(tmp_path, {"peers": [WS | {"explain": True}, WS | {"ae_title": "OTHER"}]}) as archive:
        for calling in ("OTHER", "STRANGER", "WS"):
            ask(archive, calling=calling, StudyInstanceUID="")
        explained()
        assert [each["calling_ae_title"] for each in explanations] == ["WS"]


def test_a_request_that_is_answered_after_the_switch_is_not_explained(tmp_path, caplog, explanations):
    """It is not logged either, although it was received before."""
    caplog.set_level(logging.INFO)
    with serving(tmp_path, {"query.explain": True}, watched=True) as archive:
        take_in(archive, study(NAME, series=1, instances=1))
        archive.faults.add(Fault("C-FIND", delay=0.5))
        asking = Thread(target=ask, args=(archive,), kwargs={"PatientName": NAME})
        asking.start()
        archive.received.wait_for(lambda received: received.c_find)
        archive.reload(from_settings(here(archive)))
        asking.join()
        archive.drain()
        assert explanations == []
    assert NAME not in caplog.text


def here(archive):
    """Return the settings of an archive that explains nothing."""
    config = archive.config
    plain = {"database.url": config.database.url, "files.url": config.files.url, "web.enabled": False}
    return plain | {"server.port": 0}


def test_nothing_is_explained_by_default(tmp_path, explanations):
    """By default the handlers have no explain hook."""
    with serving(tmp_path) as archive:
        ask(archive, StudyInstanceUID="")
        archive.drain()
        assert explanations == []


def test_no_event_has_the_keys_of_a_request(archive, explained):
    """The event stream has no patient data."""
    events: list[Event] = []
    archive.events.subscribe(events.append)
    ask(archive, PatientName="SECRET*", StudyInstanceUID="")
    explained()
    assert events
    assert "secret" not in str(events).lower()


def test_the_log_has_the_lines_of_an_explanation(archive, caplog, explained):
    """Each line begins with the association and the Message ID."""
    with caplog.at_level(logging.INFO, "pacs"):
        ask(archive, PatientName="doe*", StudyInstanceUID="")
        explained()
        assert eventually(lambda: "answered" in caplog.text)
    lines = [each.getMessage() for each in caplog.records if "explanation" in each.getMessage()]
    assert len({line.partition(": ")[0] for line in lines}) == 1
    assert re.fullmatch(r"explanation [0-9a-f]+-\d+/1", lines[0].partition(": ")[0])
    said = "\n".join(lines)
    assert "request of WS" in said
    assert "PatientName 'doe*': matched, wild card doe*, in column patient.patient_name" in said
    assert "strict: Pending FF00, then 0000" in said
    assert "answered: 0000, matches: 1" in said


def test_an_error_while_explaining_is_logged_only(archive, caplog, explanations):
    """The request has been answered, the association goes on, and the error is logged."""
    archive.explainer = Explainer(archive.index, lambda *_: 1 / 0)
    archive.reload(archive.config)
    with Raw(archive.port) as client:
        client.associate((1, FIND, [IMPLICIT]))
        for message_id in (1, 3):
            client.send(request(raw.C_FIND, 1, FIND, message_id, identifier("STUDY", StudyInstanceUID="")))
            assert client.until_final()[-1].status == 0x0000
        client.release()
    assert eventually(lambda: caplog.text.count("a request could not be explained") == 2)
    assert explanations == []
