"""The log has each refused instance: a line with status, reason and SOP Instance UID for each C-STORE."""

import io
import json
import logging
from contextlib import contextmanager

import pytest

from pacs.observability.events import SubOperationFinished
from pacs.observability.logging import log_event, setup_logging
from pacs.testing import serving, study
from tests import raw
from tests.dimse.test_converted_retrieves import Taker, archive_for, images, keep, move, published
from tests.dimse.test_store import CT, MR, REFUSED, dataset
from tests.raw import Raw, encoded
from tests.waiting import eventually

UID = str(dataset().SOPInstanceUID)


@contextmanager
def logging_archive(folder, settings=None):
    """A running archive with its log, as text in JSON."""
    root = logging.getLogger()
    handlers, level, out = root.handlers[:], root.level, io.StringIO()
    setup_logging("INFO", "json", out)
    try:
        with serving(folder, settings or {}) as archive:
            archive.events.subscribe(log_event)
            yield archive, out
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def store(archive, data, *, sop_class=CT, context=CT, uid=UID):
    """Send a C-STORE and return the status of its response."""
    with Raw(archive.port) as client:
        client.associate((1, context, [raw.EXPLICIT]))
        client.send(raw.request(raw.C_STORE, 1, sop_class, 1, data, [raw.element(0x1000, uid.encode())]))
        status = client.message().status
        client.release()
    return status


def refused(out):
    """Return the log lines of refused C-STOREs, once there are any."""

    def found():
        lines = map(json.loads, out.getvalue().splitlines())
        return [each for each in lines if each.get("kind") == "C-STORE" and each["level"] == "warning"]

    assert eventually(found, 60)
    return found()


def assert_logged(out, status, uid=UID):
    """The log has one line at level WARNING, with status, reason and UID."""
    (line,) = refused(out)
    assert (line["event"], line["status"], line["sop_instance_uid"]) == ("operation", f"0x{status:04X}", uid)
    assert line["comment"]


SHOWN = {"../ESCAPED": "not a UID, 10 characters"}


@pytest.mark.parametrize(
    ("values", "how", "status"), [each[1:4] for each in REFUSED], ids=[each[0] for each in REFUSED]
)
def test_an_invalid_instance_is_logged_with_its_uid(tmp_path, values, how, status):
    """What is no UID may be a value of another attribute, and is not quoted."""
    uid = how.get("instance", UID)
    with logging_archive(tmp_path) as (archive, out):
        assert store(archive, encoded(dataset(**values), raw.EXPLICIT), uid=uid) == status
        assert_logged(out, status, SHOWN.get(uid, uid))


QUERIES_ONLY = {"ae_title": "RAW", "host": "127.0.0.1", "port": 1, "services": ["find"]}

CASES = {
    "no data set": ({}, {"data": b""}, 0xA901),
    "no right to store": ({"peers": [QUERIES_ONLY]}, {}, 0x0124),
    "another SOP class than that of the context": ({}, {"context": MR}, 0x0122),
    "no space": ({"limits.free_space": 1 << 50}, {}, 0xA700),
    "a UID with too many characters": ({}, {"uid": "1." + "2" * 63}, 0xA901),
}


@pytest.mark.parametrize(("settings", "how", "status"), CASES.values(), ids=CASES)
def test_every_status_is_logged_with_the_uid(tmp_path, settings, how, status):
    """Also where the data set was not read."""
    how = {"data": encoded(dataset(), raw.EXPLICIT)} | how
    with logging_archive(tmp_path, settings) as (archive, out):
        assert store(archive, **how) == status
        assert_logged(out, status, how.get("uid", UID))


def test_a_failure_of_the_server_is_logged_with_the_uid(tmp_path, monkeypatch):
    """C001, with a traceback in a line of its own."""
    monkeypatch.setattr("pacs.services.storage.Reception.finish", lambda self: {}["nothing"])
    with logging_archive(tmp_path) as (archive, out):
        assert store(archive, encoded(dataset(), raw.EXPLICIT)) == 0xC001
        assert_logged(out, 0xC001)


@pytest.mark.parametrize(
    ("duplicates", "status", "reason"),
    [
        ("keep", 0xC011, "with other content; StudyDescription differs, the stored one is kept (storage.duplicates)"),
        ("reject", 0x0111, 'storage.duplicates is "reject"'),
    ],
)
def test_a_refused_duplicate_is_logged_with_the_reason(tmp_path, duplicates, status, reason):
    """Which is too long for the Error Comment."""
    first, second = (study(series=1, instances=1, StudyDescription=each)[0] for each in ("SECRET A", "SECRET B"))
    with logging_archive(tmp_path, {"storage.duplicates": duplicates}) as (archive, out):
        assert store(archive, encoded(first, raw.EXPLICIT)) == 0x0000
        assert store(archive, encoded(second, raw.EXPLICIT)) == status
        (line,) = refused(out)
    assert reason in line["comment"]
    assert line["sop_instance_uid"] == UID
    assert "SECRET" not in out.getvalue()


def test_a_stored_instance_is_logged_without_its_uid(tmp_path):
    """It would be a line for each image; level DEBUG has it."""
    with logging_archive(tmp_path) as (archive, out):
        assert store(archive, encoded(dataset(), raw.EXPLICIT)) == 0x0000
        assert eventually(lambda: "association ended" in out.getvalue(), 60)
    assert UID not in out.getvalue()


@pytest.mark.parametrize("associations", [1, 2])
def test_each_instance_that_a_destination_refuses_is_logged(tmp_path, associations):
    """With its UID, whatever was refused before it."""
    sent = images(3)
    with (
        Taker(raw.EXPLICIT, answer=lambda _event: 0xA700) as taker,
        archive_for(tmp_path, taker, sent, associations=associations) as archive,
        published(archive, SubOperationFinished) as finished,
    ):
        assert move(archive)[-1].status == 0xA702
    assert {each.sop_instance_uid for each in finished if each.level == logging.WARNING} == set(sent)


def test_a_destination_that_is_off_costs_one_line(tmp_path):
    """And not one for each instance, which it has not refused."""
    with Taker(raw.EXPLICIT) as gone:
        peer = gone.peer()
    with serving(tmp_path, {"peers": [peer]}) as archive, published(archive, SubOperationFinished) as finished:
        keep(archive, images(3), raw.EXPLICIT)
        assert move(archive)[-1].status == 0xA702
    assert [each.level for each in finished] == [logging.WARNING, logging.DEBUG, logging.DEBUG]
