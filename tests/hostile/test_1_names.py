"""Names that are paths, commands or escape sequences: none has an effect outside the data."""

import pytest

from pacs.testing import study
from tests import raw
from tests.archives import FIND, MOVE, identifier
from tests.docs.requests import VERIFICATION, store
from tests.hostile.daemons import Daemon, ended
from tests.raw import EXPLICIT, IMPLICIT, Raw, element, request

NAMES = {
    "parent": "..",
    "above": "../../../../../../ESCAPED",
    "root": "/etc/x",
    "windows": "..\\x",
    "drive": "C:\\x",
    "device": "CON",
    "stream": "NUL:",
    "NUL": "1.2\x003",
    "newline": "1.2\n2026 [error] fake",
    "escape": "\x1b[2J\x1b]0;x\x07",
    "65 characters and more": "1." * 40 + "1",
    "60 kB": "1" * 60000,
    "empty": "",
    "unicode": "\u202e\u5c71\u7530",
    "shell": "$(touch x);`x`|x",
    "format": "%s%n{0.__class__}",
    "SQL": "1'; DROP TABLE study; --",
    "spaces": "   ",
}
"""Values that a peer may send as an AE title, UID, key or destination."""

each_name = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)


PLACE = "X" * 8


def put(data: bytes, name: str) -> bytes:
    """Return a data set in implicit VR with a name instead of `PLACE`."""
    value = name.encode() + b"\0" * (len(name.encode()) % 2)
    head = data.index(PLACE.encode()) - 4
    return data[:head] + len(value).to_bytes(4, "little") + value + data[head + 12 :]


@each_name
def test_p11_no_name_of_an_instance_is_a_path(daemon: Daemon, name: str) -> None:
    """The instance is refused with one log line, or stored under a generated file name."""
    statuses = {}
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID"):
        (dataset,) = study(series=1, instances=1, patient_id=keyword, number=list(NAMES.values()).index(name) + 1)
        uid = name if keyword == "SOPInstanceUID" else dataset.SOPInstanceUID
        setattr(dataset, keyword, PLACE)
        data = put(raw.encoded(dataset, IMPLICIT), name)
        sent = store(daemon.port, data, syntax=IMPLICIT, sop_class=dataset.SOPClassUID, instance=uid)
        statuses[keyword] = sent.status
    daemon.lines = 4 - list(statuses.values()).count(0)
    assert statuses.pop("PatientID") in (0x0000, 0xC000)
    assert all(each >> 12 in (0xA, 0xC) for each in statuses.values()), statuses


@each_name
def test_p11_no_instance_of_a_command_is_a_path(daemon: Daemon, name: str) -> None:
    """A command set that names another instance than its data set is refused."""
    (dataset,) = study(series=1, instances=1, patient_id="COMMAND")
    status = store(daemon.port, dataset, instance=name or " ").status
    assert status >> 12 in (0xA, 0xC)


def titled(**titles: str) -> bytes:
    """Return an association request with these AE titles, in 16 bytes each."""
    sent = raw.associate_rq([(1, VERIFICATION, [IMPLICIT])])
    fields = {"called": (10, 26), "calling": (26, 42)}
    for name, title in titles.items():
        begin, end = fields[name]
        sent = sent[:begin] + title.encode()[:16].ljust(16) + sent[end:]
    return sent


@each_name
def test_an_ae_title_is_only_text(daemon: Daemon, name: str) -> None:
    """An accepted association is served; a rejected one has one log line without control characters."""
    daemon.lines = 0
    for which in ("calling", "called"):
        with Raw(daemon.port) as client:
            client.send(titled(**{which: name}))
            kind, _ = client.pdu()
            if kind == 0x02:
                client.send(request(raw.C_ECHO, 1, VERIFICATION, 1, None))
                assert client.message().status == 0x0000
                client.release()
        assert kind in (0x02, 0x03, 0x07)
        daemon.lines += kind != 0x02


@each_name
def test_an_unlisted_destination_is_refused(daemon: Daemon, name: str) -> None:
    """A801; the log has a line about the response, and one with the known destinations."""
    with Raw(daemon.port) as client:
        client.associate((1, MOVE, [IMPLICIT]))
        extra = [element(0x0600, name.encode()[:16])]
        client.send(request(raw.C_MOVE, 1, MOVE, 1, identifier("STUDY", StudyInstanceUID="1.2.3"), extra))
        assert client.message().status == 0xA801
        client.release()
    daemon.lines = 2


@each_name
def test_a_key_is_only_compared(daemon: Daemon, name: str) -> None:
    """The query is answered, or refused with one log line."""
    statuses = []
    with Raw(daemon.port) as client:
        client.associate((1, FIND, [IMPLICIT]))
        for keyword in ("StudyInstanceUID", "PatientID", "AccessionNumber", "PatientName"):
            data = put(identifier("STUDY", **{keyword: PLACE}), name)
            client.send(request(raw.C_FIND, 1, FIND, 1, data))
            statuses.append(client.until_final()[-1].status)
        client.release()
    assert all(each == 0x0000 or each >> 12 in (0xA, 0xC) for each in statuses), statuses
    daemon.lines = len(statuses) - statuses.count(0)


@pytest.mark.parametrize("name", ["..", "/etc/x", "1.2.840\0", "x" * 65000, "\x1b[2J"])
def test_a_syntax_of_a_context_is_only_text(daemon: Daemon, name: str) -> None:
    """The context is rejected, or the association request is aborted."""
    with Raw(daemon.port) as client:
        client.send(raw.associate_rq([(1, name, [EXPLICIT]), (3, VERIFICATION, [name, IMPLICIT])]))
        kind, body = client.pdu()
        if kind == 0x02:
            assert raw.contexts(body)[1][0] != 0
            client.release()
        else:
            assert kind == 0x07
            ended(client)
    daemon.lines = int(kind != 0x02)
