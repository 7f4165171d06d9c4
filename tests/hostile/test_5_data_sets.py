"""Data sets that are invalid or too large: each is refused, or stored unchanged."""

import struct
import zlib

import pytest

from pacs.testing import study
from tests import raw
from tests.archives import FIND, identifier
from tests.docs.requests import store
from tests.hostile.daemons import Daemon, megabytes
from tests.raw import EXPLICIT, IMPLICIT, Raw

SETTINGS = {"limits.elements": 100_000, "limits.inflated_size": 48 << 20}

BIG, DEFLATED, JPEG = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50"
ITEM, ITEM_END, END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)
SEQUENCE = struct.pack("<HH", 0x0040, 0x0275)
UNDEFINED = b"\xff" * 4


def valid(number: int, syntax: str = IMPLICIT) -> tuple[str, str, bytes]:
    """Return SOP Class, SOP Instance UID and data set of an instance without pixels."""
    (made,) = study(series=1, instances=1, patient_id="DATASETS", number=number)
    del made.PixelData
    return made.SOPClassUID, made.SOPInstanceUID, raw.encoded(made, syntax)


def nested(depth: int, *, is_defined: bool = False) -> bytes:
    """Return nested sequences."""
    if not is_defined:
        return (SEQUENCE + UNDEFINED + ITEM + UNDEFINED) * depth + (ITEM_END + END) * depth
    data = b""
    for _ in range(depth):
        data = ITEM + struct.pack("<L", len(data)) + data
        data = SEQUENCE + struct.pack("<L", len(data)) + data
    return data


def implicit(group: int, number: int, value: bytes, length: int | None = None) -> bytes:
    """Return an element in implicit VR; `length` is announced instead of its own."""
    return struct.pack("<HHL", group, number, len(value) if length is None else length) + value


BEHIND = {
    "nothing": b"",
    "a length beyond the end": implicit(0x0040, 0x0001, b"x" * 10, 1000),
    "a length of 4 GiB": implicit(0x7FE0, 0x0010, b"x" * 10, 0xFFFFFFFE),
    "an undefined length that is no sequence's": implicit(0x0040, 0x0254, b"", 0xFFFFFFFF) + b"x" * 100,
    "64 sequences deep": nested(64),
    "65 sequences deep": nested(65),
    "1,000 sequences deep": nested(1000),
    "1,000 sequences deep, of defined length": nested(1000, is_defined=True),
    "100,000 sequences deep": nested(100_000),
    "sequences without an end": (SEQUENCE + UNDEFINED + ITEM + UNDEFINED) * 60,
    "more elements than may be": struct.pack("<HHL", 0x7777, 0x1001, 0) * 100_001,
    "more items than may be": SEQUENCE + UNDEFINED + (ITEM + bytes(4)) * 100_001 + END,
    "odd lengths": implicit(0x0040, 0x0254, b"abc") + implicit(0x0040, 0x0260, b"x"),
    "out of order": implicit(0x0010, 0x4000, b"late") + implicit(0x0008, 0x0070, b"later "),
    "twice": implicit(0x7FE0, 0x0010, bytes(4)) * 2,
    "a group length that lies": implicit(0x0040, 0x0000, b"\xff\xff\xff\xff"),
    "private elements without a creator": implicit(0x0041, 0x1001, b"x" * 10),
    "a private creator of noise": implicit(0x0041, 0x0010, b"\x00\x1b[2J\xff") + implicit(0x0041, 0x1001, b"x" * 10),
    "delimiters where elements are due": END * 1000,
    "an item where an element is due": ITEM + struct.pack("<L", 4) + b"abcd",
    "an item delimiter with a length": SEQUENCE + UNDEFINED + ITEM + UNDEFINED + ITEM_END[:4] + b"\xff\0\0\0" + END,
    "an item longer than its sequence": SEQUENCE + struct.pack("<L", 8) + ITEM + struct.pack("<L", 100) + bytes(100),
    "no item in a sequence": SEQUENCE + struct.pack("<L", 8) + implicit(0x0008, 0x0060, b"")[:8],
    "half an element": b"\x40\x00\x54",
    "zeros": bytes(1001),
    "noise": bytes((each * 131 + 17) % 256 for each in range(999)),
}
"""Bytes after a valid data set in Implicit VR."""

BEFORE = {
    "group 0000": implicit(0x0000, 0x0002, b"1.2.3\0"),
    "group 0002": implicit(0x0002, 0x0010, b"1.2.840.10008.1.2.1\0"),
    "a preamble": bytes(128) + b"DICM",
    "a UID again": implicit(0x0008, 0x0018, b"1.2.3.4\0"),
    "a delimiter": ITEM_END,
}
"""Bytes before it."""

INPUTS = {name: (b"", data) for name, data in BEHIND.items()} | {name: (data, b"") for name, data in BEFORE.items()}


@pytest.mark.parametrize("name", INPUTS)
def test_p10_a_data_set_is_stored_or_refused(daemon: Daemon, name: str) -> None:
    """A refusal has one log line, a stored instance is found; the association continues."""
    sop_class, uid, data = valid(1 + list(INPUTS).index(name))
    before, behind = INPUTS[name]
    held = megabytes(daemon.process.pid)
    status = store(daemon.port, before + data + behind, syntax=IMPLICIT, sop_class=sop_class, instance=uid).status
    assert status == 0x0000 or status >> 12 in (0xA, 0xC), f"{status:04X}"
    assert (f"{status:04X}" == "C000") == ("deep" in name and "64" not in name) or "deep" not in name
    assert megabytes(daemon.process.pid) < held + 40
    daemon.lines = int(status != 0)
    assert found(daemon, uid) == (status == 0)


def found(daemon: Daemon, uid: str) -> bool:
    """Return whether an instance is in the index."""
    with Raw(daemon.port) as client:
        client.associate((1, FIND, [IMPLICIT]), calling="CHECK")
        client.send(raw.request(raw.C_FIND, 1, FIND, 1, identifier("IMAGE", SOPInstanceUID=uid)))
        return len(client.until_final()) == 2


def bomb(size: int) -> bytes:
    """Return a deflated data set that inflates to a value of this many mebibytes."""
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    _, _, data = valid(900, EXPLICIT)
    head = struct.pack("<HH2sxxL", 0x7FE0, 0x0010, b"OB", size << 20)
    parts = [deflate.compress(data + head)]
    parts += [deflate.compress(bytes(1 << 20)) for _ in range(size)]
    return b"".join(parts) + deflate.flush()


EXPLICITLY = valid(901, EXPLICIT)[2]
OTHERS = {
    "explicit sent as implicit": (IMPLICIT, EXPLICITLY),
    "implicit sent as explicit": (EXPLICIT, valid(902, IMPLICIT)[2]),
    "little endian sent as big endian": (BIG, EXPLICITLY),
    "not deflated sent as deflated": (DEFLATED, EXPLICITLY),
    "deflated and cut": (DEFLATED, bomb(1)[:500]),
    "an unknown VR": (EXPLICIT, EXPLICITLY + struct.pack("<HH2sH", 0x0040, 0x0254, b"ZZ", 4) + b"abcd"),
    "a VR of small letters": (EXPLICIT, EXPLICITLY + struct.pack("<HH2sH", 0x0040, 0x0254, b"lo", 4) + b"abcd"),
    "OB of 4 GiB": (EXPLICIT, EXPLICITLY + struct.pack("<HH2sxxL", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFE) + b"x" * 99),
    "SQ in UN": (EXPLICIT, EXPLICITLY + struct.pack("<HH2sxxL", 0x0040, 0x0275, b"UN", 0xFFFFFFFF) + nested(100)),
    "LO of undefined length": (EXPLICIT, EXPLICITLY + struct.pack("<HH2sH", 0x0040, 0x0254, b"LO", 0xFFFF)),
    "fragments that are none": (
        JPEG, EXPLICITLY + struct.pack("<HH2sxxL", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFF) + b"\xff\xd8" * 50
    ),
    "a fragment of 4 GiB": (
        JPEG,
        EXPLICITLY + struct.pack("<HH2sxxL", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFF) + ITEM + b"\xfe\xff\xff\xff" + b"x",
    ),
    "fragments by the ten thousand": (
        JPEG,
        EXPLICITLY + struct.pack("<HH2sxxL", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFF) + (ITEM + bytes(4)) * 50_000 + END,
    ),
}  # fmt: skip
"""Data sets in another transfer syntax than announced, or broken in ways specific to one."""


@pytest.mark.parametrize("name", OTHERS)
def test_a_data_set_in_another_transfer_syntax_is_refused_or_stored(daemon: Daemon, name: str) -> None:
    """A refusal has one log line; the association continues."""
    syntax, data = OTHERS[name]
    sop_class, uid, _ = valid(901 if data.startswith(EXPLICITLY) else 902)
    status = store(daemon.port, data, syntax=syntax, sop_class=sop_class, instance=uid).status
    assert status in (0x0000, 0xC011) or status >> 12 in (0xA, 0xC)
    daemon.lines = int(status != 0)


def test_p9_a_deflated_data_set_may_be_large_and_costs_no_memory(daemon: Daemon) -> None:
    """One at the limit is stored unchanged, a larger one is refused; memory does not grow."""
    sop_class, uid, _ = valid(900)
    held = megabytes(daemon.process.pid)
    for size, expected in ((64, 0xC000), (40, 0x0000)):
        status = store(daemon.port, bomb(size), syntax=DEFLATED, sop_class=sop_class, instance=uid).status
        assert status == expected
    assert megabytes(daemon.process.pid) < held + 30


QUERIES = {
    "empty": b"",
    "one byte": b"\0",
    "noise": BEHIND["noise"],
    "nested": identifier("STUDY") + nested(65),
    "nested very deep": identifier("STUDY") + nested(50_000),
    "too many elements": identifier("STUDY") + struct.pack("<HHL", 0x7777, 0x1001, 0) * 20_001,
    "a length beyond the end": identifier("STUDY") + implicit(0x0010, 0x0010, b"x", 100),
    "a length of 4 GiB": identifier("STUDY") + implicit(0x0010, 0x0010, b"x", 0xFFFFFFFE),
    "delimiters": identifier("STUDY") + END * 100,
    "longer than may be": identifier("STUDY") + implicit(0x0010, 0x4000, b"x" * (1 << 20)),
    "group 0002": implicit(0x0002, 0x0010, b"1.2 ") + identifier("STUDY"),
}
"""Identifiers."""


@pytest.mark.parametrize("name", QUERIES)
def test_p9_an_invalid_identifier_is_refused(daemon: Daemon, name: str) -> None:
    """With a failure and one log line, or it is answered if it is only unusual; the association continues."""
    with Raw(daemon.port) as client:
        client.associate((1, FIND, [IMPLICIT]))
        client.send(raw.request(raw.C_FIND, 1, FIND, 1, QUERIES[name]))
        status = client.until_final()[-1].status
        client.release()
    assert status == 0x0000 or status >> 12 in (0xA, 0xC)
    daemon.lines = int(status != 0)
