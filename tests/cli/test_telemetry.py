"""The event stream and the log."""

import io
import json
import logging
import warnings

import pytest

from pacs.dicom.status import is_failure
from pacs.observability import logging as pacs_logging
from pacs.observability.events import EventStream, InstanceStored, Notice, OperationFinished
from pacs.observability.logging import log_event, printable, setup_logging

UIDS = {"sop_instance_uid", "series_instance_uid", "study_instance_uid"}


def logged(level="INFO", format="json"):
    """Set up the log and return the buffer it writes to."""
    out = io.StringIO()
    setup_logging(level, format, out)
    return out


def operation(**changes):
    """Return the event of a finished C-FIND."""
    facts = {"association": "a1", "calling_ae_title": "WS", "called_ae_title": "PACS", "kind": "C-FIND"}
    facts |= {"message_id": 3, "status": 0, "duration": 0.25, "counts": {"matches": 7}}
    return OperationFinished(**(facts | changes))


def test_every_subscriber_gets_every_event_in_order():
    """Until it unsubscribes."""
    stream, heard = EventStream(), []
    stop = stream.subscribe(lambda event: heard.append(("first", event.sentence)))
    stream.subscribe(lambda event: heard.append(("second", event.sentence)))
    stream.publish(Notice(sentence="a"))
    stop()
    stream.publish(Notice(sentence="b"))
    assert heard == [("first", "a"), ("second", "a"), ("second", "b")]


def test_a_callable_subscribed_twice_is_unsubscribed_once_at_a_time():
    """Each subscription is separate."""
    stream, heard = EventStream(), []
    stop = stream.subscribe(heard.append)
    stream.subscribe(heard.append)
    stop()
    stop()
    stream.publish(Notice(sentence="a"))
    assert len(heard) == 1


def test_an_exception_of_a_subscriber_is_logged():
    """It reaches neither the publisher nor other subscribers; the log does not quote its message."""
    out, stream, heard = logged(), EventStream(), []
    patients = {}
    stream.subscribe(lambda event: patients[event.sentence])
    stream.subscribe(heard.append)
    stream.publish(Notice(sentence="DOE^JOHN"))
    assert len(heard) == 1
    assert "a subscriber failed for Notice" in out.getvalue()
    assert "KeyError" in out.getvalue()
    assert "JOHN" not in out.getvalue()


def test_an_operation_is_one_line_with_its_counts_and_duration():
    """Status in hexadecimal, counts as separate fields, no empty fields."""
    out = logged()
    log_event(operation())
    line = json.loads(out.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "association": "a1", "calling_ae_title": "WS", "called_ae_title": "PACS", "kind": "C-FIND", "message_id": 3,
        "status": "0x0000", "duration": 0.25, "matches": 7, "event": "operation", "level": "info",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("level", "warnings", "expected"),
    [("INFO", (), None), ("INFO", ("conflict",), set()), ("DEBUG", (), UIDS), ("DEBUG", ("conflict",), UIDS)],
)
def test_the_uids_of_a_stored_instance_are_logged_at_debug_only(level, warnings, expected):
    """Its line is a warning when its patient or study is in conflict, and has UIDs only if the log is at DEBUG."""
    out = logged(level)
    log_event(
        InstanceStored(
            sop_instance_uid="1.2.3", series_instance_uid="1.2.4", study_instance_uid="1.2.5", sop_class_uid="1.2.6",
            transfer_syntax="1.2.840.10008.1.2", size=1, source_ae="CT", warnings=warnings,
        )
    )  # fmt: skip
    written = json.loads(out.getvalue()) if out.getvalue() else None
    assert (written and written.keys() & UIDS) == expected


@pytest.mark.parametrize(
    ("status", "fine"),
    [
        *((fine, True) for fine in (0x0000, 0xFF00, 0xFF01, 0xFE00, 0xB000, 0x0107)),
        *((failure, False) for failure in (0xA700, 0xA900, 0xC001, 0x0122, 0x0111)),
    ],
)
def test_a_failure_is_a_warning(status, fine):
    """By the classes of PS3.7 Annex C."""
    assert is_failure(status) is not fine
    assert operation(status=status).level == (logging.INFO if fine else logging.WARNING)


@pytest.mark.parametrize("format", ["console", "json"])
def test_values_of_peers_cannot_forge_lines_or_control_a_terminal(format):
    """Newlines, escapes and bidi marks in an AE title are escaped."""
    out = logged(format=format)
    log_event(operation(calling_ae_title="A\n2026 [error] B\x1b[31m\u202eC\ud800"))
    text = out.getvalue()
    assert text.count("\n") == 1
    assert not set("\x1b\u202e\ud800") & set(text)
    assert "x1b[31m" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ÄÖ 山田", "plain ÄÖ 山田"),
        ("a\r\nb\tc\0", r"a\r\nb\tc\x00"),
        ("\u202e\u2066\u200b\ufeff\u2028", r"\u202e\u2066\u200b\ufeff\u2028"),
        ("\udcff\U000e0001", r"\udcff\U000e0001"),
        ("\x7f\x9b", r"\x7f\x9b"),
    ],
)
def test_printable_escapes_unprintable_characters(text, shown):
    """The result is one line."""
    assert printable(text) == shown
    assert printable(text).isprintable()


def test_printable_is_bounded():
    """A long text is truncated and marked."""
    assert printable("x" * 50, limit=10) == "x" * 10 + "…"
    assert len(printable("\n" * 10**7)) <= 2 * pacs_logging.TEXT_LIMIT + 1


def test_warnings_of_libraries_are_logged_unless_they_quote_peers():
    """pynetdicom is silent; a warning of the database is logged."""
    out = logged()
    logging.getLogger("pynetdicom.acse").error("Accepting Association of %s", "DOE")
    logging.getLogger("sqlalchemy.pool").warning("odd\n%s", "thing")
    logging.getLogger("pydicom").warning("Invalid value 'DOE'")
    (line,) = map(json.loads, out.getvalue().splitlines())
    assert (line["event"], line["level"]) == ("odd\\nthing", "warning")


def test_a_library_that_is_imported_later_cannot_become_loud():
    """pydicom sets the level of its logger at its import, which may come after the log is set up."""
    out = logged()
    logging.getLogger("pydicom").setLevel(logging.WARNING)
    logging.getLogger("pydicom").warning("Invalid value 'DOE'")
    assert out.getvalue() == ""


def test_warnings_of_pydicom_are_not_logged():
    """They quote invalid values."""
    out = logged()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("Invalid value for VR LO: 'DOE'", UserWarning, stacklevel=1)
    assert out.getvalue() == ""


def test_a_traceback_has_messages_only_at_debug():
    """The message of an error may have patient data."""
    for level, told in (("INFO", False), ("DEBUG", True)):
        out = logged(level)
        try:
            try:
                int("DOE^JOHN")
            except ValueError as error:
                raise RuntimeError("outer") from error
        except RuntimeError:
            logging.getLogger("pacs").exception("it failed")
        line = json.loads(out.getvalue())
        assert "RuntimeError" in line["exception"]
        assert "caused by" in line["exception"]
        assert "test_telemetry.py" in line["exception"]
        assert ("invalid literal" in line["exception"]) is told
