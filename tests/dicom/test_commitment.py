"""Requests for storage commitment and their reports: PS3.4 Tables J.3-1 and J.3-2, PS3.3 C.14."""

import io

import pytest
from pydicom import DataElement
from pydicom.filereader import read_dataset

from pacs.dicom.commitment import (
    CommitmentReport,
    CommitmentRequest,
    Failure,
    FailureReason,
    Reference,
    encode_report,
    parse_report,
    parse_request,
)
from pacs.errors import CommitmentRequestError, OutOfResources, UndecodableDataSet
from tests import raw
from tests.committing import CT, action, referenced, some_uid

BIG = "1.2.840.10008.1.2.2"
SYNTAXES = {raw.IMPLICIT: (True, True), raw.EXPLICIT: (False, True), BIG: (False, False)}
"""Whether a transfer syntax is implicit, and little endian."""

PAIRS = [Reference(CT, f"1.2.{number}") for number in range(3)]


def encoded(dataset, syntax=raw.EXPLICIT):
    """A data set as pydicom writes it."""
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = SYNTAXES[syntax]
    write_dataset(out, dataset)
    return out.getvalue()


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [False, True])
def test_a_request_is_parsed(syntax, undefined):
    """Transaction UID and references in order, in every transfer syntax and with both kinds of length."""
    asked = action(PAIRS)
    asked.StorageMediaFileSetID = "DISK"
    asked["ReferencedSOPSequence"].is_undefined_length = undefined
    for item in asked.ReferencedSOPSequence:
        item.is_undefined_length_sequence_item = undefined
        item.RetrieveAETitle = "OTHER"
    found = parse_request(encoded(asked, syntax), syntax, 3)
    assert (found.transaction_uid, list(found.references)) == ("1.2.3.4", PAIRS)


def test_uids_nested_elsewhere_are_not_references():
    """Only the items of the Referenced SOP Sequence itself count."""
    asked = action(PAIRS[:1])
    asked.ReferencedSOPSequence[0].ReferencedSOPSequence = [referenced(*PAIRS[1])]
    asked.FailedSOPSequence = [referenced(*PAIRS[2])]
    assert list(parse_request(encoded(asked), raw.EXPLICIT, 9).references) == PAIRS[:1]


def without(asked, keyword):
    """The same request without an attribute."""
    del asked[keyword]
    return asked


@pytest.mark.parametrize(
    "asked",
    [
        without(action(PAIRS), "TransactionUID"),
        without(action(PAIRS), "ReferencedSOPSequence"),
        action([]),
        action(PAIRS, ""),
        action([(CT, "")]),
        action([("", "1.2.3")]),
    ],
)
def test_an_incomplete_request_is_refused(asked):
    """Transaction UID, a reference, and both UIDs of each."""
    with pytest.raises(CommitmentRequestError):
        parse_request(encoded(asked), raw.EXPLICIT, 9)


@pytest.mark.parametrize("bad", [b"1.2.x\0", b"1" * 66, b"../../.."])
def test_an_invalid_uid_is_refused(bad):
    """Letters, length and paths."""
    data = encoded(action([(CT, "1.2.3.9")])).replace(b"UI\x08\x001.2.3.9\0", b"UI" + bytes([len(bad), 0]) + bad)
    with pytest.raises((CommitmentRequestError, UndecodableDataSet)):
        parse_request(data, raw.EXPLICIT, 9)


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, encoded(action(PAIRS))[:-5]])
def test_bytes_that_are_not_a_data_set_are_refused(data):
    """Empty, random and truncated data."""
    with pytest.raises((UndecodableDataSet, CommitmentRequestError)):
        parse_request(data, raw.EXPLICIT, 9)


def test_too_many_references_or_elements_are_refused():
    """Before the rest is read."""
    with pytest.raises(OutOfResources):
        parse_request(encoded(action(PAIRS)), raw.EXPLICIT, 2)
    asked = action(PAIRS[:1])
    for number in range(200):
        asked.add_new(0x00091000 + number, "LO", "")
    with pytest.raises(OutOfResources):
        parse_request(encoded(asked), raw.EXPLICIT, 1)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_report_has_the_result_of_each_reference(syntax):
    """pydicom reads it in every transfer syntax, and the order is that of tags."""
    report = CommitmentReport(
        "1.2.3.4", PAIRS[:2], [Failure(Reference(CT, some_uid(1)), FailureReason.NO_SUCH_INSTANCE)]
    )
    told = read_dataset(io.BytesIO(encode_report(report, "PACS", syntax)), *SYNTAXES[syntax])
    assert [each.keyword for each in told] == [
        "RetrieveAETitle", "TransactionUID", "FailedSOPSequence", "ReferencedSOPSequence"
    ]  # fmt: skip
    assert (told.RetrieveAETitle, told.TransactionUID) == ("PACS", "1.2.3.4")
    assert told.ReferencedSOPSequence == action(PAIRS[:2]).ReferencedSOPSequence
    (failed,) = told.FailedSOPSequence
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == (some_uid(1), 0x0112)


def test_a_sequence_without_items_is_omitted():
    """Without any commitment there is no Retrieve AE Title."""
    failed = [Failure(each, FailureReason.NO_SUCH_INSTANCE) for each in PAIRS]
    told = read_dataset(
        io.BytesIO(encode_report(CommitmentReport("1.2", [], failed), "PACS", raw.EXPLICIT)), False, True
    )
    assert "ReferencedSOPSequence" not in told
    assert "RetrieveAETitle" not in told
    told = read_dataset(
        io.BytesIO(encode_report(CommitmentReport("1.2", PAIRS, []), "PACS", raw.EXPLICIT)), False, True
    )
    assert "FailedSOPSequence" not in told


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_report_is_the_same_after_encoding_and_parsing(syntax):
    """In every transfer syntax, failures with their reasons."""
    written = CommitmentReport("1.2.3.4", PAIRS[:2], [Failure(PAIRS[2], FailureReason.NO_SUCH_INSTANCE)])
    assert parse_report(encode_report(written, "PACS", syntax), syntax, CommitmentRequest("1.2.3.4", PAIRS)) == written


def test_a_failure_without_a_reason_is_a_processing_failure():
    """Regardless of the item before it."""
    told = action([])
    told.FailedSOPSequence = [referenced(*PAIRS[0]), referenced(*PAIRS[1])]
    told.FailedSOPSequence[0].FailureReason = 0x0112
    report = parse_report(encoded(told), raw.EXPLICIT, CommitmentRequest("1.2.3.4", PAIRS))
    assert [each.reason for each in report.failed] == [0x0112, 0x0110]


@pytest.mark.parametrize(
    ("report", "error"),
    [
        (CommitmentReport("9.9", PAIRS, []), CommitmentRequestError),
        (CommitmentReport("9.9", [Reference("no", "uid")] * 9, []), CommitmentRequestError),
        (CommitmentReport("1.2.3.4", [Reference(CT, "no uid")], []), CommitmentRequestError),
        (CommitmentReport("1.2.3.4", PAIRS * 3, []), OutOfResources),
    ],
    ids=["another", "another, before its references", "no UID", "too many"],
)
def test_a_report_for_another_request_is_refused(report, error):
    """At most twice the requested references are accepted."""
    with pytest.raises(error, match="another request" if report.transaction_uid == "9.9" else None):
        parse_report(encode_report(report, "PACS", raw.EXPLICIT), raw.EXPLICIT, CommitmentRequest("1.2.3.4", PAIRS))


def test_a_report_of_too_many_elements_is_refused():
    """Even when they contain little."""
    told = action(PAIRS)
    for item in told.ReferencedSOPSequence:
        item.update({0x00110000 + number: DataElement(0x00110000 + number, "LO", "") for number in range(0x10, 0x90)})
    with pytest.raises(OutOfResources):
        parse_report(encoded(told), raw.EXPLICIT, CommitmentRequest("1.2.3.4", PAIRS))
