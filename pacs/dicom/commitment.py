"""Encodes and parses the data sets of storage commitment requests and reports (PS3.3 C.14, PS3.4 J.3.2 and J.3.3).

A request may reference tens of thousands of instances, so it is parsed element by element, and only UIDs are kept.
"""

import io
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from pacs.dicom.dataset import element_head
from pacs.dicom.elements import Encoding, Source, Token, TokenKind, walk
from pacs.dicom.identifier import encoding_of
from pacs.dicom.values import is_uid
from pacs.errors import CommitmentRequestError, OutOfResources

BYTES_PER_REFERENCE = 256
"""The size of an item with a reference, in bytes, with as much again for other elements of the requestor."""

REQUEST_STORAGE_COMMITMENT = 1
"""The Action Type ID of a request (PS3.4 Table J.3-1)."""

RETRIEVE_AE_TITLE = 0x00080054
REFERENCED_SOP_CLASS, REFERENCED_SOP_INSTANCE = 0x00081150, 0x00081155
TRANSACTION_UID, FAILURE_REASON = 0x00081195, 0x00081197
FAILED_SEQUENCE, REFERENCED_SEQUENCE = 0x00081198, 0x00081199

_LONGEST_VALUE = 66
_TOKENS_PER_REFERENCE = 16


class Reference(NamedTuple):
    """A reference to an instance: its SOP Class and SOP Instance UID."""

    sop_class_uid: str
    sop_instance_uid: str


class FailureReason(IntEnum):
    """Failure Reason (0008,1197) of an instance without commitment (PS3.3 C.14.1.1)."""

    PROCESSING_FAILURE = 0x0110
    NO_SUCH_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119
    CLASS_NOT_SUPPORTED = 0x0122
    RESOURCE_LIMITATION = 0x0213


class Failure(NamedTuple):
    """A reference without commitment, and the Failure Reason."""

    reference: Reference
    reason: int


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """A request for commitment: its Transaction UID and the instances."""

    transaction_uid: str
    references: Sequence[Reference]


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """The result of a request: each of its references is in one of the two lists."""

    transaction_uid: str
    committed: Sequence[Reference]
    failed: Sequence[Failure]


# --- the request -------------------------------------------------------------------------------------------------


def parse_request(data: bytes, transfer_syntax: str, most: int) -> CommitmentRequest:
    """Parse the data set of a request.

    Raises UndecodableDataSet when it is not valid in this transfer syntax, CommitmentRequestError without a valid
    Transaction UID, without any reference, or for a reference without valid UIDs, and OutOfResources for more than
    `most` references.
    """
    reader = _RequestReader(data, encoding_of(transfer_syntax), most)
    reader.read()
    return reader.request()


class _ReferenceReader:
    """Reads the UIDs of a data set with at most `most` references from its tokens."""

    def __init__(self, data: bytes, encoding: Encoding, most: int) -> None:
        self._source, self._encoding, self._most = Source(io.BytesIO(data), encoding), encoding, most
        self._transaction_uid = ""
        self._count = 0
        self._item: dict[int, str] = {}
        self._classes: dict[str, str] = {}
        """Each SOP Class UID as one object: most references have the same."""

    def read(self) -> None:
        """Read the whole data set. Raises UndecodableDataSet, CommitmentRequestError, OutOfResources."""
        for count, token in enumerate(walk(self._source, self._encoding), start=1):
            if count > _TOKENS_PER_REFERENCE * (self._most + 1):
                raise OutOfResources("The data set has too many elements")
            self._process(token)

    def _process(self, token: Token) -> None:
        """Process the next token."""
        if token.kind is TokenKind.ELEMENT and token.depth == 0 and token.tag == TRANSACTION_UID:
            self._transaction_uid = self._uid(token)
        if token.depth != 1:
            return
        if token.kind is TokenKind.ELEMENT and token.tag in (REFERENCED_SOP_CLASS, REFERENCED_SOP_INSTANCE):
            self._item[token.tag] = self._uid(token)
        elif token.kind is TokenKind.ITEM:
            self._item = {}

    def _reference(self) -> Reference:
        """Return the reference of the item that ends."""
        sop_class, instance = (self._item.get(tag, "") for tag in (REFERENCED_SOP_CLASS, REFERENCED_SOP_INSTANCE))
        if not (is_uid(sop_class) and is_uid(instance)):
            raise CommitmentRequestError("A reference has no valid SOP Class and Instance UID")
        if self._count >= self._most:
            raise OutOfResources(f"More than {self._most} instances: send several requests")
        self._count += 1
        return Reference(self._classes.setdefault(sop_class, sop_class), instance)

    def _uid(self, token: Token) -> str:
        if token.length > _LONGEST_VALUE:
            return ""
        return self._source.read(token.length).decode("latin-1").strip(" \0")


class _RequestReader(_ReferenceReader):
    def __init__(self, data: bytes, encoding: Encoding, most: int) -> None:
        super().__init__(data, encoding, most)
        self._references: list[Reference] = []

    def request(self) -> CommitmentRequest:
        """Return the request. Raises CommitmentRequestError."""
        if not is_uid(self._transaction_uid):
            raise CommitmentRequestError("There is no valid Transaction UID (0008,1195)")
        if not self._references:
            raise CommitmentRequestError("Referenced SOP Sequence (0008,1199) names no instance")
        return CommitmentRequest(self._transaction_uid, self._references)

    def _process(self, token: Token) -> None:
        super()._process(token)
        if token.depth == 1 and token.kind is TokenKind.ITEM_END and token.tag == REFERENCED_SEQUENCE:
            self._references.append(self._reference())


def encode_request(request: CommitmentRequest, transfer_syntax: str) -> bytes:
    """Encode the data set of a request (PS3.4 Table J.3-1)."""
    encoding = encoding_of(transfer_syntax)
    items = (b"".join(_reference_elements(encoding, each)) for each in request.references)
    uid = _uid(encoding, TRANSACTION_UID, request.transaction_uid)
    return uid + _sequence(encoding, REFERENCED_SEQUENCE, items)


# --- the report --------------------------------------------------------------------------------------------------


def encode_report(report: CommitmentReport, retrieve_ae_title: str, transfer_syntax: str) -> bytes:
    """Encode the data set of a report. Committed instances can be retrieved from `retrieve_ae_title`.

    Omits a sequence without items (PS3.4 Table J.3-2).
    """
    encoding = encoding_of(transfer_syntax)
    parts = []
    if report.committed:
        parts.append(_element(encoding, RETRIEVE_AE_TITLE, "AE", _padded(retrieve_ae_title, b" ")))
    parts.append(_uid(encoding, TRANSACTION_UID, report.transaction_uid))
    if report.failed:
        parts.append(_sequence(encoding, FAILED_SEQUENCE, (_failed_item(encoding, each) for each in report.failed)))
    if report.committed:
        items = (b"".join(_reference_elements(encoding, each)) for each in report.committed)
        parts.append(_sequence(encoding, REFERENCED_SEQUENCE, items))
    return b"".join(parts)


def parse_report(data: bytes, transfer_syntax: str, request: CommitmentRequest) -> CommitmentReport:
    """Parse the data set of a report to a request; a failure without a reason is a processing failure.

    Raises UndecodableDataSet; CommitmentRequestError for a report to another request, before its references are read,
    and for one without valid UIDs; OutOfResources for more than twice as many references as the request has.
    """
    reader = _ReportReader(data, encoding_of(transfer_syntax), request)
    reader.read()
    return reader.report()


class _ReportReader(_ReferenceReader):
    def __init__(self, data: bytes, encoding: Encoding, request: CommitmentRequest) -> None:
        super().__init__(data, encoding, 2 * len(request.references))
        self._request = request
        self._reason: int = FailureReason.PROCESSING_FAILURE
        self._committed: list[Reference] = []
        self._failed_item: list[Failure] = []

    def report(self) -> CommitmentReport:
        """Return the report. Raises CommitmentRequestError."""
        self._check()
        return CommitmentReport(self._transaction_uid, self._committed, self._failed_item)

    def _check(self) -> None:
        if self._transaction_uid != self._request.transaction_uid:
            raise CommitmentRequestError("The report is for another request")

    def _process(self, token: Token) -> None:
        super()._process(token)
        if token.depth == 0 and token.tag > TRANSACTION_UID:
            self._check()
        elif token.depth == 1 and token.kind is TokenKind.ITEM:
            self._reason = FailureReason.PROCESSING_FAILURE
        elif token.depth == 1 and token.kind is TokenKind.ELEMENT and token.tag == FAILURE_REASON:
            self._reason = self._number(token)
        elif token.depth == 1 and token.kind is TokenKind.ITEM_END and token.tag == REFERENCED_SEQUENCE:
            self._committed.append(self._reference())
        elif token.depth == 1 and token.kind is TokenKind.ITEM_END and token.tag == FAILED_SEQUENCE:
            self._failed_item.append(Failure(self._reference(), self._reason))

    def _number(self, token: Token) -> int:
        if token.length != 2:
            return FailureReason.PROCESSING_FAILURE
        return int.from_bytes(self._source.read(2), "little" if self._encoding.little else "big")


def _reference_elements(encoding: Encoding, reference: Reference) -> tuple[bytes, bytes]:
    return (
        _uid(encoding, REFERENCED_SOP_CLASS, reference.sop_class_uid),
        _uid(encoding, REFERENCED_SOP_INSTANCE, reference.sop_instance_uid),
    )


def _failed_item(encoding: Encoding, failure: Failure) -> bytes:
    reason = struct.pack("<H" if encoding.little else ">H", failure.reason)
    return b"".join(
        (*_reference_elements(encoding, failure.reference), _element(encoding, FAILURE_REASON, "US", reason))
    )


def _sequence(encoding: Encoding, tag: int, items: Iterable[bytes]) -> bytes:
    head = struct.Struct("<HHL" if encoding.little else ">HHL")
    content = b"".join(head.pack(0xFFFE, 0xE000, len(each)) + each for each in items)
    return _element(encoding, tag, "SQ", content)


def _uid(encoding: Encoding, tag: int, uid: str) -> bytes:
    return _element(encoding, tag, "UI", _padded(uid, b"\0"))


def _element(encoding: Encoding, tag: int, vr: str, value: bytes) -> bytes:
    return element_head(encoding, tag, vr, len(value)) + value


def _padded(text: str, padding: bytes) -> bytes:
    raw = text.encode("ascii")
    return raw + padding if len(raw) % 2 else raw
