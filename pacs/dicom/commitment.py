"""What a request for storage commitment and its report say (PS3.3 C.14, PS3.4 J.3.2 and J.3.3): from and into bytes.

A request may name tens of thousands of instances: it is walked through element by element, and nothing of it is kept
but its UIDs.
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
"""The most that an item with a reference takes, and as much again for what else a requester puts into it."""

REQUEST_STORAGE_COMMITMENT = 1
"""The Action Type ID of a request (PS3.4 Table J.3-1)."""

RETRIEVE_AE_TITLE = 0x00080054
REFERENCED_SOP_CLASS, REFERENCED_SOP_INSTANCE = 0x00081150, 0x00081155
TRANSACTION_UID, FAILURE_REASON = 0x00081195, 0x00081197
FAILED_SEQUENCE, REFERENCED_SEQUENCE = 0x00081198, 0x00081199

_LONGEST_VALUE = 66
_TOKENS_PER_REFERENCE = 16


class Reference(NamedTuple):
    """An instance by its SOP Class and SOP Instance UID."""

    sop_class_uid: str
    sop_instance_uid: str


class FailureReason(IntEnum):
    """Why there is no commitment to an instance: Failure Reason (0008,1197), PS3.3 C.14.1.1."""

    PROCESSING_FAILURE = 0x0110
    NO_SUCH_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119
    CLASS_NOT_SUPPORTED = 0x0122
    RESOURCE_LIMITATION = 0x0213


class Failure(NamedTuple):
    """A reference to which there is no commitment, and why."""

    reference: Reference
    reason: int


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """The instances somebody asks us to commit to, under the Transaction UID they chose."""

    transaction_uid: str
    references: Sequence[Reference]


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """What became of a request: each of its references is in one of both lists."""

    transaction_uid: str
    committed: Sequence[Reference]
    failed: Sequence[Failure]


# --- the request -------------------------------------------------------------------------------------------------


def parse_request(data: bytes, transfer_syntax: str, most: int) -> CommitmentRequest:
    """What a data set asks for. Raises UndecodableDataSet for one that cannot be read in this transfer syntax.

    Raises CommitmentRequestError without a valid Transaction UID, without any reference, or for a reference without
    valid UIDs, and OutOfResources for more than `most` references.
    """
    reader = _RequestReader(data, encoding_of(transfer_syntax), most)
    reader.read()
    return reader.request()


class _ReferenceReader:
    """Takes the UIDs out of the tokens of a data set that names at most `most` instances."""

    def __init__(self, data: bytes, encoding: Encoding, most: int) -> None:
        self._source, self._encoding, self._most = Source(io.BytesIO(data), encoding), encoding, most
        self._transaction_uid = ""
        self._count = 0
        self._item: dict[int, str] = {}
        self._classes: dict[str, str] = {}
        """Every SOP Class UID once: most references have the same."""

    def read(self) -> None:
        """Look at all of it. Raises UndecodableDataSet, CommitmentRequestError, OutOfResources."""
        for count, token in enumerate(walk(self._source, self._encoding), start=1):
            if count > _TOKENS_PER_REFERENCE * (self._most + 1):
                raise OutOfResources("There are more elements than are taken")
            self._take(token)

    def _take(self, token: Token) -> None:
        """Look at the next token."""
        if token.kind is TokenKind.ELEMENT and token.depth == 0 and token.tag == TRANSACTION_UID:
            self._transaction_uid = self._uid(token)
        if token.depth != 1:
            return
        if token.kind is TokenKind.ELEMENT and token.tag in (REFERENCED_SOP_CLASS, REFERENCED_SOP_INSTANCE):
            self._item[token.tag] = self._uid(token)
        elif token.kind is TokenKind.ITEM:
            self._item = {}

    def _reference(self) -> Reference:
        """That of the item that ends."""
        sop_class, instance = (self._item.get(tag, "") for tag in (REFERENCED_SOP_CLASS, REFERENCED_SOP_INSTANCE))
        if not (is_uid(sop_class) and is_uid(instance)):
            raise CommitmentRequestError("A reference has no valid SOP Class and Instance UID")
        if self._count >= self._most:
            raise OutOfResources(f"More than {self._most} instances: ask in several requests")
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
        """What was found. Raises CommitmentRequestError."""
        if not is_uid(self._transaction_uid):
            raise CommitmentRequestError("There is no valid Transaction UID (0008,1195)")
        if not self._references:
            raise CommitmentRequestError("Referenced SOP Sequence (0008,1199) names no instance")
        return CommitmentRequest(self._transaction_uid, self._references)

    def _take(self, token: Token) -> None:
        super()._take(token)
        if token.depth == 1 and token.kind is TokenKind.ITEM_END and token.tag == REFERENCED_SEQUENCE:
            self._references.append(self._reference())


def encode_request(request: CommitmentRequest, transfer_syntax: str) -> bytes:
    """The data set of a request (PS3.4 Table J.3-1)."""
    encoding = encoding_of(transfer_syntax)
    items = (b"".join(_named(encoding, each)) for each in request.references)
    uid = _uid(encoding, TRANSACTION_UID, request.transaction_uid)
    return uid + _sequence(encoding, REFERENCED_SEQUENCE, items)


# --- the report --------------------------------------------------------------------------------------------------


def encode_report(report: CommitmentReport, retrieve_ae_title: str, transfer_syntax: str) -> bytes:
    """The data set of a report; `retrieve_ae_title` is where what is committed can be retrieved from.

    A sequence without items is left out, as PS3.4 Table J.3-2 has it.
    """
    encoding = encoding_of(transfer_syntax)
    parts = []
    if report.committed:
        parts.append(_element(encoding, RETRIEVE_AE_TITLE, "AE", _padded(retrieve_ae_title, b" ")))
    parts.append(_uid(encoding, TRANSACTION_UID, report.transaction_uid))
    if report.failed:
        parts.append(_sequence(encoding, FAILED_SEQUENCE, (_failed(encoding, each) for each in report.failed)))
    if report.committed:
        items = (b"".join(_named(encoding, each)) for each in report.committed)
        parts.append(_sequence(encoding, REFERENCED_SEQUENCE, items))
    return b"".join(parts)


def parse_report(data: bytes, transfer_syntax: str, request: CommitmentRequest) -> CommitmentReport:
    """What a data set reports of a request; a failure without a reason is a processing failure.

    Raises UndecodableDataSet, CommitmentRequestError for a report to another request, before its references are looked
    at, and for one without valid UIDs, and OutOfResources where it names more than twice what was asked for.
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
        self._failed: list[Failure] = []

    def report(self) -> CommitmentReport:
        """What was found. Raises CommitmentRequestError."""
        self._check()
        return CommitmentReport(self._transaction_uid, self._committed, self._failed)

    def _check(self) -> None:
        if self._transaction_uid != self._request.transaction_uid:
            raise CommitmentRequestError("The report is to another request")

    def _take(self, token: Token) -> None:
        super()._take(token)
        if token.depth == 0 and token.tag > TRANSACTION_UID:
            self._check()
        elif token.depth == 1 and token.kind is TokenKind.ITEM:
            self._reason = FailureReason.PROCESSING_FAILURE
        elif token.depth == 1 and token.kind is TokenKind.ELEMENT and token.tag == FAILURE_REASON:
            self._reason = self._number(token)
        elif token.depth == 1 and token.kind is TokenKind.ITEM_END and token.tag == REFERENCED_SEQUENCE:
            self._committed.append(self._reference())
        elif token.depth == 1 and token.kind is TokenKind.ITEM_END and token.tag == FAILED_SEQUENCE:
            self._failed.append(Failure(self._reference(), self._reason))

    def _number(self, token: Token) -> int:
        if token.length != 2:
            return FailureReason.PROCESSING_FAILURE
        return int.from_bytes(self._source.read(2), "little" if self._encoding.little else "big")


def _named(encoding: Encoding, reference: Reference) -> tuple[bytes, bytes]:
    return (
        _uid(encoding, REFERENCED_SOP_CLASS, reference.sop_class_uid),
        _uid(encoding, REFERENCED_SOP_INSTANCE, reference.sop_instance_uid),
    )


def _failed(encoding: Encoding, failure: Failure) -> bytes:
    reason = struct.pack("<H" if encoding.little else ">H", failure.reason)
    return b"".join((*_named(encoding, failure.reference), _element(encoding, FAILURE_REASON, "US", reason)))


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
