"""Requests to a running archive in bytes, for the tests of the conformance statement."""

import struct
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydicom import Dataset
from pynetdicom import AE, evt

from pacs.conformance.checks.wire import COMPLETED, FAILED, REMAINING, VERIFICATION, WARNING
from pacs.conformance.checks.wire import ERROR_COMMENT as COMMENT
from pacs.conformance.checks.wire import OFFENDING_ELEMENT as ELEMENT  # noqa: F401  # for the tests
from pacs.conformance.checks.wire import extended_negotiation as extended
from pacs.conformance.checks.wire import role_selection as role  # noqa: F401  # for the tests
from tests import raw
from tests.archives import identifier
from tests.raw import EXPLICIT, IMPLICIT, Raw, Response

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
ROOTS = {"Patient Root": "1", "Study Root": "2", "Patient/Study Only": "3"}
OPERATIONS = {"FIND": "1", "MOVE": "2", "GET": "3"}


def model(root: str, operation: str) -> str:
    """Return the SOP Class of an operation on an information model."""
    return f"1.2.840.10008.5.1.4.1.2.{ROOTS[root]}.{OPERATIONS[operation]}"


FIND, MOVE, GET = (model("Study Root", each) for each in OPERATIONS)
SERVICES = [VERIFICATION, *(model(root, operation) for root in ROOTS for operation in OPERATIONS)]


@dataclass
class Requestor:
    """An association with a context for every service, established on demand, and again after a loss.

    `extended` is what is offered in SOP Class Extended Negotiation for every service of Query/Retrieve.
    """

    port: int
    extended: bytes = b""
    calling: str = "ASKER"
    client: Raw | None = field(default=None, init=False)

    def __enter__(self) -> "Requestor":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self.client is not None:
            self.client.socket.close()
        self.client = None

    def ask(self, kind: int, sop_class: str, data: bytes | None, extra: Iterable[bytes] = ()) -> list[Response]:
        """Return all responses to a request; an exception closes the connection."""
        try:
            client = self._associated()
            client.send(raw.request(kind, self.context(sop_class), sop_class, 1, data, extra))
            return client.until_final()
        except BaseException:
            self.close()
            raise

    def context(self, sop_class: str) -> int:
        """Return the context ID of a service."""
        return 2 * SERVICES.index(sop_class) + 1

    def _associated(self) -> Raw:
        if self.client is None:
            self.client = Raw(self.port)
            contexts = [(self.context(each), each, [IMPLICIT]) for each in SERVICES]
            offers = b"".join(extended(each, self.extended) for each in SERVICES[1:]) if self.extended else b""
            self.client.associate(*contexts, calling=self.calling, extra=offers)
        return self.client

    def find(self, level: str, root: str = "Study Root", **keys: object) -> list[Response]:
        """Return all responses to a C-FIND."""
        return self.ask(raw.C_FIND, model(root, "FIND"), identifier(level, **keys))

    def found(self, level: str, root: str = "Study Root", **keys: object) -> list[Dataset]:
        """Return the Identifiers of the matches of a C-FIND, which must succeed."""
        *pending, final = self.find(level, root, **keys)
        assert final.status == 0x0000, f"{final.status:04X} {final.text(COMMENT)}"
        return [each.dataset() for each in pending]

    def status(self, level: str, root: str = "Study Root", **keys: object) -> int:
        """Return the status of the first response to a C-FIND."""
        return self.find(level, root, **keys)[0].status

    def move(self, destination: str, level: str, root: str = "Study Root", **keys: object) -> list[Response]:
        """Return all responses to a C-MOVE."""
        extra = [raw.element(0x0600, destination.encode())]
        return self.ask(raw.C_MOVE, model(root, "MOVE"), identifier(level, **keys), extra)

    def get(self, level: str, root: str = "Study Root", **keys: object) -> list[Response]:
        """Return all responses to a C-GET without contexts for Storage."""
        return self.ask(raw.C_GET, model(root, "GET"), identifier(level, **keys))


def store(
    port: int,
    data: Dataset | bytes,
    *,
    syntax: str = EXPLICIT,
    sop_class: str = CT,
    instance: str = "",
    context: str = "",
    calling: str = "RAW",
) -> Response:
    """Return the response to a C-STORE; `context` is the abstract syntax of its context, by default the SOP Class."""
    encoded = data if isinstance(data, bytes) else raw.encoded(data, syntax)
    if isinstance(data, Dataset):
        sop_class, instance = data.SOPClassUID, instance or data.SOPInstanceUID
    with Raw(port) as client:
        client.associate((1, context or sop_class, [syntax]), calling=calling)
        client.send(raw.request(raw.C_STORE, 1, sop_class, 1, encoded, [raw.element(0x1000, instance.encode())]))
        response = client.message()
        client.release()
    return response


def store_command(sop_class: str, instance: str = "1.2.3") -> bytes:
    """Return the PDU with the command set of a C-STORE in context 1; its data set must follow."""
    elements = [raw.element(0x0002, sop_class.encode()), raw.us(0x0100, raw.C_STORE), raw.us(0x0110, 1)]
    elements += [raw.us(0x0700, 0), raw.us(0x0800, 1), raw.element(0x1000, instance.encode())]
    return raw.pdv(1, raw.command_set(elements), command=True)


def counts(response: Response) -> tuple[int | None, ...]:
    """Return remaining, completed, failed and warning; None if absent."""
    return tuple(response.number(tag) for tag in (REMAINING, COMPLETED, FAILED, WARNING))


def user_items(accept: bytes) -> list[tuple[int, bytes]]:
    """Return the user information sub-items in the body of an A-ASSOCIATE-AC."""
    return [each for kind, body in raw.items(accept[68:]) if kind == 0x50 for each in raw.items(body)]


def answered(port: int, *items: bytes, sop_classes: Iterable[str] = (*SERVICES, CT)) -> list[tuple[int, bytes]]:
    """Return the user information of the answer to an association request with these sub-items."""
    with Raw(port) as client:
        contexts = [(2 * place + 1, each, [IMPLICIT]) for place, each in enumerate(sop_classes)]
        return user_items(client.associate(*contexts, extra=b"".join(items)))


def negotiated(port: int, proposals: Iterable[tuple[str, list[str]]], **options: object) -> list[tuple[int, str]]:
    """Return result and transfer syntax of each proposed context, on as many associations as needed."""
    proposed, found = list(proposals), []
    for start in range(0, len(proposed), 128):
        part = [(2 * place + 1, *each) for place, each in enumerate(proposed[start : start + 128])]
        with Raw(port) as client:
            contexts = raw.contexts(client.associate(*part, **options))
        found += [contexts[number] for number, *_ in part]
    return found


def triplet(port: int, **options: object) -> str:
    """Return result, source and reason of the A-ASSOCIATE-RJ to a request."""
    with Raw(port) as client:
        client.send(raw.associate_rq([(1, VERIFICATION, [IMPLICIT])], **options))
        kind, body = client.pdu()
    assert kind == 0x03, "no A-ASSOCIATE-RJ came"
    return "/".join(map(str, body[1:4]))


def identity(kind: int, primary: bytes, secondary: bytes = b"", *, is_answer_wanted: bool = True) -> bytes:
    """Return a User Identity sub-item."""
    fields = b"".join(struct.pack(">H", len(each)) + each for each in (primary, secondary))
    return raw.item(0x58, bytes([kind, is_answer_wanted]) + fields)


def ended(client: Raw) -> bytes:
    """Return the body of the A-ABORT that ends an association, b'' without one; skip data before it."""
    try:
        while True:
            kind, body = client.pdu()
            if kind == 0x07:
                return body
    except ConnectionError:
        return b""


@contextmanager
def destination(ae_title, answer=lambda _event: 0x0000, syntaxes=(EXPLICIT, IMPLICIT), classes=(CT,)):
    """Run a storage SCP of pynetdicom; `answer(event)` returns the status. Yield its row for the table of peers."""
    ae = AE(ae_title)
    for each in (*classes, VERIFICATION):
        ae.add_supported_context(each, list(syntaxes))
    listener = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, answer)])
    try:
        yield {"ae_title": ae_title, "host": "127.0.0.1", "port": listener.server_address[1]}
    finally:
        listener.shutdown()
