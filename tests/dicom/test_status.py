"""The table of status codes."""

import pytest

from pacs.dicom.status import (
    MEANINGS,
    STORE_WARNINGS,
    UNKNOWN,
    Service,
    is_completed,
    is_failure,
    meaning,
    status_class,
)
from pacs.dimse.messages.status import STATUS_OF, unexpected

CLASSES = {
    0x0000: "success",
    0x0001: "warning",
    0x0107: "warning",
    0x0116: "warning",
    0xB000: "warning",
    0xB006: "warning",
    0xBFFF: "warning",
    0xFE00: "cancel",
    0xFF00: "pending",
    0xFF01: "pending",
    0xFE01: "failure",
    0xFF02: "failure",
    0x0110: "failure",
    0x0122: "failure",
    0x0131: "failure",
    0x0211: "failure",
    0xA700: "failure",
    0xA801: "failure",
    0xA900: "failure",
    0xC001: "failure",
    0x1234: "failure",
}


@pytest.mark.parametrize(("status", "expected"), CLASSES.items())
def test_each_status_has_the_class_of_ps3_7_annex_c(status, expected):
    """A status of no other class is a failure."""
    assert status_class(status) == expected
    assert is_failure(status) == (expected == "failure")
    assert is_completed(status) == (expected in ("success", "warning"))


@pytest.mark.parametrize(
    ("service", "status", "expected"),
    [
        (Service.ECHO, 0x0000, "Success"),
        (Service.STORE, 0xB006, "Warning: elements discarded"),
        (Service.STORE, 0xB123, "Warning"),
        (Service.STORE, 0xA7FF, "Refused: out of resources"),
        (Service.STORE, 0xA900, "Error: data set does not match SOP Class"),
        (Service.FIND, 0xA900, "Error: Identifier does not match SOP Class"),
        (Service.FIND, 0xA901, UNKNOWN),
        (Service.FIND, 0xC001, "Failed: unable to process"),
        (Service.MOVE, 0xA702, "Refused: out of resources, unable to perform sub-operations"),
        (Service.MOVE, 0xA7FF, "Refused: out of resources"),
        (Service.GET, 0xB000, "Warning: sub-operations complete, one or more failures or warnings"),
        (Service.COMMIT, 0x0131, "Failed: duplicate Transaction UID"),
        (Service.STORE, 0x0131, UNKNOWN),
        (Service.COMMIT, 0x0122, "Refused: SOP Class not supported"),
        (Service.MOVE, 0xFE00, "Cancelled"),
        (Service.ECHO, 0x1234, UNKNOWN),
    ],
)
def test_a_status_means_what_its_service_says(service, status, expected):
    """A code comes before a range, and the service before the general codes."""
    assert meaning(service, status) == expected


def test_v5_the_warnings_of_a_store_sub_operation():
    """All of them are warnings by their class."""
    assert {0xB000, 0xB006, 0xB007, 0x0107, 0x0116} == STORE_WARNINGS


@pytest.mark.parametrize("service", Service)
def test_every_status_that_is_sent_has_a_meaning(service):
    """Errors are failures, but for the cancel."""
    for status in {*STATUS_OF[service].values(), unexpected(service).status}:
        assert status_class(status) in ("failure", "cancel")
        assert status >= 0xC000 or meaning(service, status) != UNKNOWN or service is Service.ECHO, f"{status:04X}"


def test_the_meanings_say_warning_for_warnings_only():
    """The texts agree with the classes."""
    for table in MEANINGS.values():
        for codes, text in table.items():
            code = codes if isinstance(codes, int) else codes[0]
            assert text.startswith("Warning") <= (status_class(code) == "warning")
