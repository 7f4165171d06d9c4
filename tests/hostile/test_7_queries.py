"""Expensive queries: each is answered or refused in time, and ends with the association of its requestor."""

import struct
import time

import pytest

from pacs.testing import study
from tests import raw
from tests.archives import FIND, identifier
from tests.docs.requests import store
from tests.hostile.daemons import STORED, Daemon
from tests.raw import IMPLICIT, Raw, request

ALIKE = "A" * 60


@pytest.fixture
def alike(daemon: Daemon) -> Daemon:
    """The daemon with a study whose texts are the worst case for patterns with many wild cards."""
    (dataset,) = study(
        ALIKE, patient_id="ALIKE", series=1, instances=1, StudyDescription=ALIKE, PatientComments="a" * 9000
    )
    assert store(daemon.port, dataset, calling="CHECK").status == 0x0000
    return daemon


PATTERNS = {
    "asterisks by ten thousand": "*" * 10_000 + "B",
    "letters between": "*A" * 30 + "B",
    "letters between and behind": "*A" * 25 + "*AB?",
    "question marks by ten thousand": "?" * 10_000,
    "question marks between": "*?" * 300 + "B",
    "SQL": "' OR 1=1; DROP TABLE study; --",
    "LIKE": "%_[a-z]\\%*",
    "a class of GLOB": "[!x]*[[]*",
    "an expression": "(A+)+$*",
    "NUL": "A\0*",
}
"""Wild card patterns."""


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("keyword", ["PatientName", "StudyDescription", "PatientComments"])
def test_the_time_for_a_pattern_is_bounded(alike: Daemon, keyword: str, pattern: str) -> None:
    """The query is answered in time, by SQL or row by row."""
    with Raw(alike.port, 5) as client:
        client.associate((1, FIND, [IMPLICIT]))
        data = identifier("STUDY", **{keyword: "X" * 8})
        value = pattern.encode() + b" " * (len(pattern) % 2)
        head = data.index(b"X" * 8) - 4
        data = data[:head] + struct.pack("<L", len(value)) + value + data[head + 12 :]
        client.send(request(raw.C_FIND, 1, FIND, 1, data))
        status = client.until_final()[-1].status
        client.release()
    assert status == 0x0000 or status >> 12 in (0xA, 0xC)
    alike.lines = int(status != 0)


LISTS = {
    "1 UID": ["1.2.3"],
    "65 kB of UIDs": ["1.2.3.4.5"] * 6000,
    "100,000 UIDs": ["1.2.3"] * 100_000,
    "a UID of 100 kB": ["1." * 50_000 + "1"],
    "empty UIDs": [""] * 50_000,
}


@pytest.mark.parametrize("uids", LISTS.values(), ids=LISTS)
def test_a_list_of_uids_is_looked_up_or_refused(daemon: Daemon, uids: list[str]) -> None:
    """Of any length."""
    value = "\\".join(uids).encode()
    value += b"\0" * (len(value) % 2)
    data = struct.pack("<HHL", 0x0008, 0x0052, 6) + b"STUDY " + struct.pack("<HHL", 0x0020, 0x000D, len(value)) + value
    with Raw(daemon.port) as client:
        client.associate((1, FIND, [IMPLICIT]))
        client.send(request(raw.C_FIND, 1, FIND, 1, data))
        status = client.until_final()[-1].status
        client.release()
    assert status == 0x0000 or status >> 12 in (0xA, 0xC)
    daemon.lines = int(status != 0)


def sequence(*items: bytes) -> bytes:
    """Return a Request Attributes Sequence with these items."""
    value = b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(each)) + each for each in items)
    return struct.pack("<HHL", 0x0040, 0x0275, len(value)) + value


KEYS = {
    "two items": identifier("SERIES", StudyInstanceUID="1.2") + sequence(b"", b""),
    "ten thousand items": identifier("SERIES", StudyInstanceUID="1.2") + sequence(*[b""] * 9000),
    "no level": identifier("STUDY", PatientID="X")[14:],
    "a level of noise": identifier("\x1b[2J"),
    "a number for a date": struct.pack("<HHL", 0x0008, 0x0020, 4) + b"\xff\xff\xff\xff" + identifier("STUDY"),
    "bytes for a text": identifier("STUDY") + struct.pack("<HHL", 0x0010, 0x0020, 6) + b"\xff\xfe\x00\x1b[2",
    "a range without ends": identifier("STUDY", StudyDate="-"),
    "ranges in ranges": identifier("STUDY", StudyDate="20200101-20210101-20220101"),
    "pixels": identifier("IMAGE", SOPInstanceUID="") + struct.pack("<HHL", 0x7FE0, 0x0010, 0),
    "everything": identifier("STUDY") + b"".join(struct.pack("<HHL", 0x0010, each, 0) for each in range(1, 9000)),
}
"""Identifiers with unusual keys."""


@pytest.mark.parametrize("data", KEYS.values(), ids=KEYS)
def test_unusual_keys_are_answered_or_refused(daemon: Daemon, data: bytes) -> None:
    """The association continues."""
    with Raw(daemon.port) as client:
        client.associate((1, FIND, [IMPLICIT]))
        client.send(request(raw.C_FIND, 1, FIND, 1, data))
        status = client.until_final()[-1].status
        client.release()
    assert status in (0x0000, 0xFE00) or status >> 12 in (0xA, 0xC)
    daemon.lines = int(status != 0)


@pytest.mark.parametrize(
    "ending", [b"", raw.pdu(0x07, bytes(4)), raw.pdu(0x05, bytes(4))], ids=["gone", "abort", "release"]
)
def test_a_requestor_that_leaves_ends_its_query(daemon: Daemon, ending: bytes) -> None:
    """Thirty peers query everything and leave before the second response."""
    asked = request(raw.C_FIND, 1, FIND, 1, identifier("IMAGE", SOPInstanceUID="", StudyInstanceUID=""))
    for _ in range(30):
        with Raw(daemon.port) as client:
            client.associate((1, FIND, [IMPLICIT]))
            client.send(asked)
            client.pdu()
            client.send(ending)
    time.sleep(0.1)
    said = daemon.incidents()
    daemon.lines = 0
    assert len(said) <= 30 * 2


def test_requestors_that_do_not_read_delay_no_other(daemon: Daemon) -> None:
    """Twenty peers send queries without end and read nothing."""
    keys = {"StudyInstanceUID": STORED[0].StudyInstanceUID, "PatientName": ""}
    asked = request(raw.C_FIND, 1, FIND, 1, identifier("STUDY", **keys))
    clients = [Raw(daemon.port) for _ in range(20)]
    for client in clients:
        client.associate((1, FIND, [IMPLICIT]))
        client.socket.setblocking(False)
        try:
            while True:
                client.socket.send(asked * 100)
        except BlockingIOError:
            pass
    daemon.check_echo()
    for client in clients:
        client.socket.close()
    daemon.lines = 20
