"""PDVs and their headers: fragments that cannot be assembled end the association."""

import struct

import pytest

from tests.archives import FIND, identifier
from tests.docs.requests import CT, VERIFICATION, store_command
from tests.hostile.daemons import Daemon, ended
from tests.raw import EXPLICIT, IMPLICIT, Raw, command_set, element, pdu, pdv, us

ECHO = [element(0x0002, VERIFICATION.encode()), us(0x0100, 0x30), us(0x0110, 1), us(0x0800, 0x0101)]
QUERY = [element(0x0002, FIND.encode()), us(0x0100, 0x20), us(0x0110, 1), us(0x0700, 0), us(0x0800, 1)]


def bare(length: int, rest: bytes) -> bytes:
    """Return a P-DATA-TF with one PDV that announces this length."""
    return pdu(0x04, struct.pack(">L", length) + rest)


COMMAND = command_set(ECHO)

BROKEN = {
    "no PDV": pdu(0x04, b""),
    "a head cut short": pdu(0x04, b"\0\0\0"),
    "length 0": bare(0, b""),
    "length 1": bare(1, b"\1"),
    "longer than the PDU": bare(1000, b"\1\3" + COMMAND),
    "4 GiB": bare(0xFFFFFFFF, b"\1\3" + COMMAND),
    "shorter than what is there": bare(10, b"\1\3" + COMMAND),
    "an even context": pdv(2, COMMAND, command=True),
    "context 0": pdv(0, COMMAND, command=True),
    "an unknown context": pdv(99, COMMAND, command=True),
    "a context that was refused": pdv(9, COMMAND, command=True),
    "data without a command": pdv(1, b"x" * 100, command=False),
    "data behind a command that has none": pdv(1, COMMAND, command=True) + pdv(1, b"x", command=False),
    "another command in a command": pdv(1, COMMAND[:20], command=True, last=False)
    + pdv(3, command_set(QUERY), command=True),
    "a command in a data set": pdv(3, command_set(QUERY), command=True) + pdv(3, COMMAND, command=True),
    "a data set in two contexts": pdv(3, command_set(QUERY), command=True)
    + pdv(3, identifier("STUDY")[:8], command=False, last=False)
    + pdv(1, identifier("STUDY")[8:], command=False),
    "a data set in another context": pdv(3, command_set(QUERY), command=True)
    + pdv(1, identifier("STUDY"), command=False),
    "a command of nothing": pdv(1, b"", command=True),
    "a command of 1 MiB": b"".join(pdv(1, b"\0" * 16000, command=True, last=False) for _ in range(66)),
    "reserved bits": pdu(0x04, struct.pack(">LBB", len(COMMAND) + 2, 1, 0xFF) + COMMAND[:-2]),
}
"""Invalid P-DATA-TF PDUs."""


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
def test_invalid_fragments_end_the_association(daemon: Daemon, sent: bytes) -> None:
    """With A-P-ABORT and one log line."""
    with Raw(daemon.port) as client:
        client.associate((1, VERIFICATION, [IMPLICIT]), (3, FIND, [IMPLICIT]), (5, CT, [EXPLICIT]), (9, "1.2", ["1.2"]))
        client.send(sent)
        assert ended(client) is not None


WHOLE = {
    "a byte at a time": [pdv(1, COMMAND[at : at + 1], command=True, last=False) for at in range(len(COMMAND) - 1)]
    + [pdv(1, COMMAND[-1:], command=True)],
    "fragments of nothing": [pdv(1, b"", command=True, last=False)] * 1000 + [pdv(1, COMMAND, command=True)],
    "many in one": [pdu(0x04, b"".join(pdv(1, COMMAND[at : at + 2], command=True, last=at == len(COMMAND) - 2)[6:]
                                       for at in range(0, len(COMMAND), 2)))],
}  # fmt: skip


@pytest.mark.parametrize("sent", WHOLE.values(), ids=WHOLE)
def test_unusual_fragments_are_assembled(daemon: Daemon, sent: list[bytes]) -> None:
    """However the command set is fragmented."""
    with Raw(daemon.port) as client:
        client.associate((1, VERIFICATION, [IMPLICIT]))
        client.send(*sent)
        assert client.message().status == 0x0000
        client.release()
    daemon.lines = 0


@pytest.mark.parametrize("last", [b"", pdu(0x05, bytes(4)), pdu(0x07, bytes(4))], ids=["closed", "released", "aborted"])
def test_a_data_set_without_its_last_fragment_is_not_stored(daemon: Daemon, last: bytes) -> None:
    """Nothing is stored if the peer closes, releases or aborts instead."""
    with Raw(daemon.port) as client:
        client.associate((1, CT, [EXPLICIT]))
        client.send(store_command(CT), pdv(1, bytes(10000), command=False, last=False), last)
        if last:
            assert ended(client) is not None
    daemon.lines = 1
