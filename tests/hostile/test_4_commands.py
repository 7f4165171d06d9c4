"""Command sets with wrong, missing or meaningless elements."""

import struct

import pytest

from tests import raw
from tests.archives import FIND, GET, MOVE, identifier
from tests.docs.requests import CT, VERIFICATION
from tests.hostile.daemons import STORED, Daemon, ended
from tests.raw import EXPLICIT, IMPLICIT, Raw, command_set, element, pdv, us

ECHO = {
    0x0002: element(0x0002, VERIFICATION.encode()),
    0x0100: us(0x0100, 0x0030),
    0x0110: us(0x0110, 1),
    0x0800: us(0x0800, 0x0101),
}
"""The elements of a C-ECHO-RQ."""

EXPLICIT_ECHO = b"".join(
    struct.pack("<HH2sH", 0, each, b"US", 2) + struct.pack("<H", value)
    for each, value in ((0x0100, 0x30), (0x0110, 1), (0x0800, 0x0101))
)

SETS = {
    "no Affected SOP Class": command_set(value for key, value in ECHO.items() if key != 0x0002),
    "no Command Field": command_set(value for key, value in ECHO.items() if key != 0x0100),
    "no Message ID": command_set(value for key, value in ECHO.items() if key != 0x0110),
    "no Data Set Type": command_set(value for key, value in ECHO.items() if key != 0x0800),
    "everything twice": command_set([*ECHO.values(), *ECHO.values()]),
    "out of order": command_set(reversed(ECHO.values())),
    "an unknown Command Field": command_set((ECHO | {0x0100: us(0x0100, 0x7777)}).values()),
    "a response to nothing": command_set([*(ECHO | {0x0100: us(0x0100, 0x8030)}).values(), us(0x0900, 0)]),
    "a cancel of nothing": command_set([us(0x0100, 0x0FFF), us(0x0120, 77), us(0x0800, 0x0101)]),
    "N-CREATE": command_set((ECHO | {0x0100: us(0x0100, 0x0140)}).values()),
    "two Command Fields in one": command_set((ECHO | {0x0100: element(0x0100, b"\x30\0\x30\0")}).values()),
    "an empty Command Field": command_set((ECHO | {0x0100: element(0x0100, b"")}).values()),
    "a Message ID of 1 byte": command_set((ECHO | {0x0110: struct.pack("<HHL", 0, 0x0110, 1) + b"\1"}).values()),
    "a Message ID of 10 kB": command_set((ECHO | {0x0110: element(0x0110, b"\1\0" * 5000)}).values()),
    "another SOP Class": command_set((ECHO | {0x0002: element(0x0002, CT.encode())}).values()),
    "a SOP Class of noise": command_set((ECHO | {0x0002: element(0x0002, b"\xff\x00\x1b[2J" * 100)}).values()),
    "elements of other groups": command_set(ECHO.values()) + struct.pack("<HHL", 8, 0x52, 6) + b"STUDY ",
    "unknown elements": command_set([*ECHO.values(), element(0x4321, b"x" * 1000)]),
    "an element of 4 GiB": command_set(ECHO.values()) + struct.pack("<HHL", 0, 0x0902, 0xFFFFFFFE),
    "an element of undefined length": command_set(ECHO.values()) + struct.pack("<HHL", 0, 0x0902, 0xFFFFFFFF),
    "a group length of 0": element(0x0000, bytes(4)) + b"".join(ECHO.values()),
    "a group length of 4 GiB": element(0x0000, b"\xff" * 4) + b"".join(ECHO.values()),
    "no group length": b"".join(ECHO.values()),
    "explicit VR": EXPLICIT_ECHO,
    "big endian": b"\0\0\0\0\0\0\0\4\0\0\0\x38" + b"\0\0\1\0\0\0\0\2\0\x30",
    "noise": bytes((each * 37) % 251 for each in range(300)),
    "one byte": b"\0",
    "zeros": bytes(300),
    "a data set that does not come": command_set((ECHO | {0x0800: us(0x0800, 1)}).values()),
}
"""Invalid command sets of a C-ECHO-RQ."""


@pytest.mark.parametrize("sent", SETS.values(), ids=SETS)
def test_a_command_set_is_answered_or_ends_the_association(daemon: Daemon, sent: bytes) -> None:
    """If the association continues, a C-ECHO is answered. A refusal or an abort has one log line."""
    answers: list[int] = []
    with Raw(daemon.port) as client:
        client.associate((1, VERIFICATION, [IMPLICIT]))
        last = command_set((ECHO | {0x0110: us(0x0110, 999)}).values())
        client.send(pdv(1, sent, command=True), pdv(1, last, command=True))
        try:
            while 999 not in answers[1::2]:
                answer = client.message()
                answers += [answer.status, answer.number(0x0120) or 0]
            client.release()
        except (AssertionError, ConnectionError):  # an A-ABORT, or its end
            assert ended(client) is not None
            daemon.lines = 1
            return
    statuses = answers[::2]
    assert set(statuses) <= {0x0000, 0x0122, 0x0211}
    daemon.lines = len(statuses) - statuses.count(0)


OPERATIONS = {raw.C_STORE: CT, raw.C_FIND: FIND, raw.C_MOVE: MOVE, raw.C_GET: GET, raw.C_ECHO: VERIFICATION}


@pytest.mark.parametrize("kind", OPERATIONS)
def test_a_request_in_the_context_of_another_service_is_refused(daemon: Daemon, kind: int) -> None:
    """0122 if it names its own SOP Class, 0211 if it names that of the context; the association continues."""
    data = identifier("STUDY", PatientID="X") if kind != raw.C_ECHO else None
    others = [(place, each) for place, each in enumerate(OPERATIONS.values()) if each != OPERATIONS[kind]]
    with Raw(daemon.port) as client:
        client.associate(
            *[(2 * place + 1, each, [IMPLICIT, EXPLICIT]) for place, each in enumerate(OPERATIONS.values())]
        )
        for place, _ in others:
            client.send(raw.request(kind, 2 * place + 1, OPERATIONS[kind], 1, data))
            assert client.message().status == 0x0122
        for place, each in others:
            client.send(raw.request(kind, 2 * place + 1, each, 1, data))
            assert client.message().status == 0x0211
        client.release()
    daemon.lines = 2 * len(others)


@pytest.mark.parametrize("kind", [raw.C_STORE, raw.C_FIND, raw.C_MOVE, raw.C_GET])
def test_a_request_without_a_data_set_is_refused(daemon: Daemon, kind: int) -> None:
    """The response is a failure with one log line; the server does not wait for a data set."""
    extra = [element(0x0600, b"NOBODY")] if kind == raw.C_MOVE else [element(0x1000, b"1.2.3")]
    with Raw(daemon.port) as client:
        client.associate((1, OPERATIONS[kind], [IMPLICIT]))
        client.send(raw.request(kind, 1, OPERATIONS[kind], 1, None, extra))
        assert client.message().status >> 12 in (0xA, 0xC)
        client.release()
    daemon.lines = 2 if kind == raw.C_MOVE else 1


def test_a_message_id_in_use_does_no_harm(daemon: Daemon) -> None:
    """Two hundred queries with the same Message ID, sent without waiting, are all answered in order."""
    keys = {"StudyInstanceUID": STORED[0].StudyInstanceUID}
    sent = raw.request(raw.C_FIND, 1, FIND, 7, identifier("STUDY", **keys)) + raw.cancel(1, 8)
    with Raw(daemon.port) as client:
        client.associate((1, FIND, [IMPLICIT]))
        client.send(*[sent] * 200)
        finals = [client.until_final()[-1] for _ in range(200)]
        client.release()
    assert {(each.status, each.number(0x0120)) for each in finals} == {(0x0000, 7)}
    daemon.lines = 0


def test_p5_cancels_by_the_thousand_are_ignored(daemon: Daemon) -> None:
    """Each for another unknown Message ID; then a C-ECHO is answered."""
    with Raw(daemon.port) as client:
        client.associate((1, VERIFICATION, [IMPLICIT]), (3, FIND, [IMPLICIT]))
        client.send(*[raw.cancel(3, each) for each in range(5000)])
        client.send(pdv(1, command_set(ECHO.values()), command=True))
        assert client.message().status == 0x0000
        client.release()
    daemon.lines = 0
