"""A client of the crash tests: stores, queries and retrieves on one association."""

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256

from pacs.conformance.checks.wire import role_selection
from tests import raw
from tests.raw import Raw, Response

CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
PATIENT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
GET = "1.2.840.10008.5.1.4.1.2.2.3"

STORING, ASKING, RETRIEVING, VERIFYING, ASKING_PATIENTS = 1, 3, 5, 7, 9
"""The presentation context IDs. In the first, the archive is the SCP, and the SCU of a C-GET's sub-operations."""

PDU = 1 << 17
"""The longest PDU this client accepts, in bytes."""

PATIENCE = 60
"""Seconds to wait for a response."""

LEVEL = (0x0008, 0x0052)
SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID = (0x0008, 0x0018), (0x0020, 0x000D), (0x0020, 0x000E)
INSTANCES_OF_STUDY, INSTANCES_OF_SERIES = (0x0020, 0x1208), (0x0020, 0x1209)
"""Number of Study and of Series Related Instances (PS3.4 C.3.4)."""

Elements = dict[tuple[int, int], str]
Keys = Mapping[tuple[int, int], str]


class Client(Raw):
    """An open association. Its end raises ConnectionError or another OSError."""

    def __init__(self, port: int, called: str = "PACS", *, retrieves: bool = False) -> None:
        super().__init__(port, PATIENCE)
        contexts = [(STORING, CT, [raw.EXPLICIT]), (VERIFYING, VERIFICATION, [raw.IMPLICIT])]
        extra = b""
        if retrieves:
            contexts += [(ASKING, FIND, [raw.IMPLICIT]), (RETRIEVING, GET, [raw.IMPLICIT])]
            contexts += [(ASKING_PATIENTS, PATIENT_FIND, [raw.IMPLICIT])]
            extra = role_selection(CT, 0, 1)
        try:
            self.send(raw.associate_rq(contexts, called=called, max_pdu=PDU, extra=extra, calling="CRASH"))
            kind, _ = self.pdu()
            if kind != 0x02:
                raise ConnectionError(f"expected A-ASSOCIATE-AC, received a PDU of type {kind}")
        except BaseException:
            self.socket.close()
            raise
        self._sent = 0

    def pdu(self) -> tuple[int, bytes]:
        """Read the next PDU. Raises ConnectionError for an A-ABORT and for the end of the connection."""
        kind, body = super().pdu()
        if kind == 0x07:
            raise ConnectionError("aborted by the server")
        return kind, body

    def echo(self) -> int:
        """Send a C-ECHO and return its status."""
        self.send(raw.request(raw.C_ECHO, VERIFYING, VERIFICATION, self._message_id(), None))
        return self.message().status

    def store(self, uid: str, data: bytes) -> Response:
        """Store a CT image in explicit VR little endian and return the response."""
        named = [raw.element(0x1000, uid.encode())]
        self.send(raw.request(raw.C_STORE, STORING, CT, self._message_id(), data, named))
        return self.message()

    def find(self, level: str, keys: Keys) -> list[Elements]:
        """Return the matches of a C-FIND in the Study Root model, at patient level in the Patient Root model."""
        context, model = (ASKING_PATIENTS, PATIENT_FIND) if level == "PATIENT" else (ASKING, FIND)
        self.send(raw.request(raw.C_FIND, context, model, self._message_id(), _identifier(level, keys)))
        *answers, final = self.until_final()
        if final.status:
            raise ConnectionError(f"C-FIND ended with status {final.status:04X}")
        return [_texts(each.data or b"") for each in answers]

    def get(self, study: str) -> dict[str, str]:
        """Retrieve a study by C-GET and return the SHA-256 of each data set, by SOP Instance UID."""
        identifier = _identifier("STUDY", {STUDY_INSTANCE_UID: study})
        self.send(raw.request(raw.C_GET, RETRIEVING, GET, self._message_id(), identifier))
        received: dict[str, str] = {}
        while True:
            message = self.message()
            if message.number(0x0100) == raw.C_GET | 0x8000:
                if message.status == 0xFF00:
                    continue
                return received
            received[message.text(0x1000)] = sha256(message.data or b"").hexdigest()
            self.send(raw.success(message.context, message.elements))

    def _message_id(self) -> int:
        self._sent = self._sent % 65535 + 1
        return self._sent


@contextmanager
def associated(port: int, called: str = "PACS", *, retrieves: bool = False) -> Iterator[Client]:
    """Open an association, and release it at the end."""
    with Client(port, called, retrieves=retrieves) as client:
        yield client
        client.release()


def _identifier(level: str, keys: Keys) -> bytes:
    """Encode an Identifier in implicit VR little endian."""
    values = {LEVEL: level, **keys}
    return b"".join(_element(tag, values[tag]) for tag in sorted(values))


def _element(tag: tuple[int, int], text: str) -> bytes:
    padded = text.encode() + (b" " if tag == LEVEL else b"\0") * (len(text) % 2)
    return struct.pack("<HHL", *tag, len(padded)) + padded


def _texts(data: bytes) -> Elements:
    """Decode an Identifier in implicit VR little endian without sequences: texts by tag."""
    found, at = {}, 0
    while at < len(data):
        group, element, length = struct.unpack_from("<HHL", data, at)
        found[group, element] = data[at + 8 : at + 8 + length].decode("latin-1").strip(" \0")
        at += 8 + length
    return found
