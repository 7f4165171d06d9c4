"""Valid input of every kind that a peer may send, and random mutations of it, the same for the same seed."""

import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pacs.testing import study
from tests import raw
from tests.archives import FIND, GET, MOVE, identifier
from tests.docs.requests import CT, VERIFICATION, extended, identity, role
from tests.raw import C_ECHO, C_FIND, C_GET, C_MOVE, C_STORE, EXPLICIT, IMPLICIT, command_set, element, pdv, us

DEFLATED, BIG, JPEG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.50"

CONTEXTS: tuple[tuple[int, str, Sequence[str]], ...] = (
    (1, VERIFICATION, [IMPLICIT]),
    (3, FIND, [IMPLICIT]),
    (5, MOVE, [IMPLICIT]),
    (7, GET, [IMPLICIT]),
    (9, CT, [EXPLICIT]),
    (11, CT, [IMPLICIT]),
    (13, CT, [DEFLATED]),
    (15, CT, [BIG]),
    (17, CT, [JPEG]),
)
"""The presentation contexts for the messages."""

KINDS = ("association request", "PDU", "command set", "identifier", "data set")


@dataclass(frozen=True)
class Input:
    """An input: `messages` on an association with `CONTEXTS`, or instead of its request."""

    kind: str
    messages: bytes

    @property
    def is_request(self) -> bool:
        """Whether it replaces an association request."""
        return self.kind == "association request"


# --- what is valid -----------------------------------------------------------------------------------------------


def _requests() -> list[bytes]:
    many = [(2 * each + 1, CT if each % 2 else FIND, [EXPLICIT, IMPLICIT, DEFLATED]) for each in range(40)]
    extra = extended(FIND, b"\1\1\1") + role(CT, 1, 1) + identity(2, b"user", b"passcode")
    extra += raw.item(0x53, b"\0\1\0\1") + raw.item(0x55, b"VERSION")
    return [raw.associate_rq(CONTEXTS), raw.associate_rq(many), raw.associate_rq(CONTEXTS, extra=extra)]


def _identifiers() -> list[bytes]:
    names = {"PatientName": "A*^B?", "PatientID": "P1\\P2", "StudyDate": "20200101-20211231", "StudyTime": "1000-"}
    found = [
        identifier("STUDY", **names, StudyInstanceUID="", ModalitiesInStudy="CT", SpecificCharacterSet="ISO_IR 192"),
        identifier("PATIENT", PatientName="*", PatientID=""),
        identifier("SERIES", StudyInstanceUID="1.2.3", Modality="C*", SeriesNumber="1"),
        identifier(
            "IMAGE", StudyInstanceUID="", SeriesInstanceUID="", SOPInstanceUID="1.2\\1.3", Rows="", ContentDate=""
        ),
    ]
    item = struct.pack("<HHL", 0x0040, 0x0009, 4) + b"SPS*"
    items = struct.pack("<HHL", 0xFFFE, 0xE000, len(item)) + item
    return [*found, found[2] + struct.pack("<HHL", 0x0040, 0x0275, len(items)) + items]


def _data_sets() -> list[tuple[int, bytes]]:
    """Return encoded data sets by the context with their transfer syntax."""
    (made,) = study("FUZZ^^^Dr=山田^太郎", patient_id="FUZZ", series=1, instances=1, size=4)
    found = [(9, raw.encoded(made, EXPLICIT)), (11, raw.encoded(made, IMPLICIT))]
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    found.append((13, deflate.compress(found[0][1]) + deflate.flush()))
    nest = struct.pack("<HH2sxxL", 0x0040, 0x0275, b"SQ", 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    private = (
        struct.pack("<HH2sH", 0x0041, 0x0010, b"LO", 4) + b"FUZZ" + struct.pack("<HH2sxxL", 0x41, 0x1001, b"UN", 4)
    )
    found.append((9, found[0][1] + private + b"abcd"))
    (pixels,) = study("FUZZ", patient_id="FUZZ", number=2, series=1, instances=1, size=4, transfer_syntax=JPEG)
    del pixels.PixelData
    head = raw.encoded(pixels, EXPLICIT)
    fragments = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\4\0\0\0\xff\xd8\xff\xd9\xfe\xff\xdd\xe0\0\0\0\0"
    ends = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    inner = struct.pack("<HH2sH", 0x0040, 0x0009, b"SH", 4) + b"SPS1"
    found.append((9, head + nest + inner + ends))
    found.append((17, head + struct.pack("<HH2sxxL", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFF) + fragments))
    return found


REQUESTS, IDENTIFIERS, DATA_SETS = _requests(), _identifiers(), _data_sets()
OPERATIONS = ((3, FIND, C_FIND), (5, MOVE, C_MOVE), (7, GET, C_GET))


def _command(kind: int, sop_class: str, *, has_data: bool) -> list[bytes]:
    """Return the command elements of a request."""
    elements = [element(0x0002, sop_class.encode()), us(0x0100, kind), us(0x0110, 1)]
    elements += [us(0x0700, 0)] if kind != C_ECHO else []
    elements += [element(0x0600, b"NOBODY")] if kind == C_MOVE else []
    elements.append(us(0x0800, 1 if has_data else 0x0101))
    return elements + ([element(0x1000, b"1.2.3")] if kind == C_STORE else [])


# --- mutations ------------------------------------------------------------------------------------------

INTERESTING = (
    0,
    1,
    2,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0xFE,
    0x7FFF,
    0x8000,
    0xFFFE,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFE,
    0xFFFFFFFF,
)
TEXTS = (
    b"..",
    b"/etc/x",
    b"\x1b[2J",
    b"\n",
    b"\0",
    b"*",
    b"\\",
    b"^",
    b"=",
    b"%",
    b"'",
    b'""',
    b"-",
    b"ISO 2022 IR 87",
)


def _flip(chance: random.Random, data: bytearray) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _set(chance: random.Random, data: bytearray) -> None:
    data[chance.randrange(len(data))] = chance.choice((0, 0xFF, chance.randrange(256)))


def _number(chance: random.Random, data: bytearray) -> None:
    width = chance.choice((1, 2, 4))
    at = chance.randrange(len(data))
    value = chance.choice(INTERESTING) & ((1 << 8 * width) - 1)
    data[at : at + width] = value.to_bytes(width, chance.choice(("big", "little")))


def _remove(chance: random.Random, data: bytearray) -> None:
    at = chance.randrange(len(data))
    del data[at : at + chance.choice((1, 2, 4, 8, 30))]


def _repeat(chance: random.Random, data: bytearray) -> None:
    at = chance.randrange(len(data))
    data[at:at] = data[at : at + chance.choice((1, 8, 40))] * chance.choice((1, 2, 50))


def _insert(chance: random.Random, data: bytearray) -> None:
    at = chance.randrange(len(data))
    data[at:at] = chance.choice((*TEXTS, chance.randbytes(chance.choice((1, 4, 64)))))


def _overwrite(chance: random.Random, data: bytearray) -> None:
    at, text = chance.randrange(len(data)), chance.choice(TEXTS)
    data[at : at + len(text)] = text


def _cut(chance: random.Random, data: bytearray) -> None:
    del data[chance.randrange(len(data)) :]


def _mix(chance: random.Random, data: bytearray) -> None:
    """Return a sample that continues as another one from a random position."""
    other = chance.choice((*IDENTIFIERS, *(each for _, each in DATA_SETS)))
    data[chance.randrange(len(data)) :] = other[chance.randrange(len(other)) :]


WAYS: tuple[Callable[[random.Random, bytearray], None], ...] = (
    _flip, _flip, _set, _number, _number, _number, _remove, _repeat, _insert, _overwrite, _overwrite, _cut, _mix,
)  # fmt: skip


def mutated(chance: random.Random, valid: bytes) -> bytes:
    """Return bytes after one to eight random changes."""
    data = bytearray(valid)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        if data:
            chance.choice(WAYS)(chance, data)
    return bytes(data)


def _elements_mutated(chance: random.Random, elements: list[bytes]) -> bytes:
    """Return a command set with other elements, another order, or other bytes."""
    elements = list(elements)
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(elements))
        match chance.randrange(5):
            case 0 if len(elements) > 1:
                del elements[at]
            case 1:
                elements.append(elements[at])
            case 2:
                chance.shuffle(elements)
            case 3:
                elements[at] = us(
                    struct.unpack_from("<H", elements[at].ljust(4, b"\0"), 2)[0], chance.choice(INTERESTING) & 0xFFFF
                )
            case _:
                elements[at] = mutated(chance, elements[at])
    return command_set(elements) if chance.random() < 0.8 else mutated(chance, command_set(elements))


def _pieces(chance: random.Random, context: int, data: bytes, *, command: bool) -> bytes:
    """Return P-DATA-TF PDUs of a command set or data set, in one or more fragments."""
    if chance.random() < 0.7 or len(data) < 2:
        return pdv(context, data, command=command)
    at = chance.randrange(1, len(data))
    return pdv(context, data[:at], command=command, last=False) + pdv(context, data[at:], command=command)


def _message(chance: random.Random) -> tuple[int, list[bytes], bytes | None]:
    """Return a valid message: its context, command elements and data set."""
    pick = chance.random()
    if pick < 0.15:
        return 1, _command(C_ECHO, VERIFICATION, has_data=False), None
    if pick < 0.6:
        context, sop_class, kind = chance.choice(OPERATIONS)
        return context, _command(kind, sop_class, has_data=True), chance.choice(IDENTIFIERS)
    context, data = chance.choice(DATA_SETS)
    return context, _command(C_STORE, CT, has_data=True), data


def made(seed: object, number: int) -> Input:
    """Return the input of this number, the same for the same seed."""
    chance = random.Random(f"{seed}/{number}")
    kind = KINDS[number % len(KINDS)]
    if kind == "association request":
        return Input(kind, mutated(chance, chance.choice(REQUESTS)))
    context, elements, data = _message(chance)
    if kind == "identifier":
        context, sop_class, operation = chance.choice(OPERATIONS)
        elements, data = _command(operation, sop_class, has_data=True), mutated(chance, chance.choice(IDENTIFIERS))
    elif kind == "data set":
        context, valid = chance.choice(DATA_SETS)
        uid, data = _data_set(chance, context, valid)
        elements = [*_command(C_STORE, CT, has_data=True)[:-1], element(0x1000, uid)]
    command = _elements_mutated(chance, elements) if kind == "command set" else command_set(elements)
    sent = _pieces(chance, context, command, command=True)
    if data is not None:
        sent += _pieces(chance, context, data, command=False)
    if kind == "PDU":
        sent = mutated(chance, sent)
    return Input(kind, sent)


def _data_set(chance: random.Random, context: int, valid: bytes) -> tuple[bytes, bytes]:
    """Return the SOP Instance UID of a new instance and its mutated data set, possibly deflated."""
    if context != 13:
        uid, renamed = _renamed(chance, valid)
        return uid, mutated(chance, renamed)
    uid, renamed = _renamed(chance, zlib.decompress(valid, -zlib.MAX_WBITS))
    is_inside = chance.random() < 0.5
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflate.compress(mutated(chance, renamed) if is_inside else renamed) + deflate.flush()
    return uid, deflated if is_inside else mutated(chance, deflated)


def _renamed(chance: random.Random, data: bytes) -> tuple[bytes, bytes]:
    """Return a new SOP Instance UID of the same length, and the data set with it."""
    found = _UID.search(data)
    assert found is not None
    uid = b"2.25.1" + b"%0*d" % (len(found[0]) - 6, chance.getrandbits(100))
    return uid, data[: found.start()] + uid + data[found.end() :]


_UID = re.compile(rb"2\.25\.[0-9]+")
