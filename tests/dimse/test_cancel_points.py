"""X1: a C-CANCEL that arrives at any point of a C-FIND or C-GET ends it with FE00 or Success, and nothing else."""

import logging
import time

import pytest

from pacs import settings
from pacs.dimse.association import association, cancel_monitor, incoming_messages
from pacs.dimse.scp import handlers, operation, retrieve_task, store_sender
from pacs.index import database, search
from pacs.services import query, retrieve
from pacs.support import cancellation
from pacs.testing import serving, study
from tests import raw
from tests.archives import FIND, GET, identifier, take_in
from tests.databases import KINDS, fresh_database
from tests.points import Points
from tests.raw import IMPLICIT, Raw, cancel

MODULES = (
    *(association, cancel_monitor, incoming_messages, handlers, operation, retrieve_task, store_sender),
    *(search, database, query, retrieve, cancellation),
)
"""The modules in which an operation waits, checks, and answers."""

MONITOR = cancel_monitor.shared()
IMAGES = 4
COUNTS = (0x1020, 0x1021, 0x1022, 0x1023)
CT = "1.2.840.10008.5.1.4.1.1.2"
ROLE = raw.item(0x54, len(CT).to_bytes(2, "big") + CT.encode() + b"\x00\x01")


@pytest.fixture(scope="module", params=KINDS)
def archive(request, tmp_path_factory):
    """An archive of four images, which it finds in pages of two."""
    folder = tmp_path_factory.mktemp("points")
    with (
        fresh_database(request.param, request, folder) as url,
        pytest.MonkeyPatch.context() as patch,
        serving(folder, {"database.url": url}) as running,
    ):
        patch.setattr(settings, "QUERY_PAGE", 2)
        running.reload(running.config)
        take_in(running, study(series=1, instances=IMAGES))
        yield running


def find(client, message_id=7):
    """Send a C-FIND for all images, with an attribute that is read from the files; return its responses."""
    client.send(raw.request(raw.C_FIND, 1, FIND, message_id, identifier("IMAGE", SOPInstanceUID="", WindowCenter="")))
    return client.until_final()


def get(client):
    """Send a C-GET for the study, accept each instance, and return the last response and the instances."""
    uid = study(series=1, instances=1)[0].StudyInstanceUID
    client.send(raw.request(raw.C_GET, 3, GET, 7, identifier("STUDY", StudyInstanceUID=uid)))
    return answered(client, client.message())


def answered(client, message):
    """Accept the instances of a C-GET, from a first message on; return them and the final response."""
    received = []
    while message.number(0x0100) == raw.C_STORE or message.is_pending:
        if message.number(0x0100) == raw.C_STORE:
            received.append(message)
            client.send(raw.success(5, message.elements))
        message = client.message()
    return [*received, message]


POSSIBLE_COUNTS = {
    (find, 0xFE00): [(0, 0)],
    (find, 0x0000): [(0, 0)],
    (get, 0xFE00): [(3, 0), (4, IMAGES)],
    (get, 0x0000): [(3, IMAGES)],
}
"""How many counts the final response may have, and their sum: the remaining ones are unknown before the search ends."""


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("ask", [find, get])
def test_x1_a_cancel_at_any_point_of_an_operation(archive, ask, caplog, pytestconfig):
    """FE00, or Success with everything; the association answers the next query completely."""
    caplog.set_level(logging.ERROR, "pacs")
    total = cancelled_at(archive, ask, 1 << 30)[0]
    step = 1 if pytestconfig.getoption("--long") else total // 25
    statuses = [cancelled_at(archive, ask, number)[1] for number in range(1, total, step)]
    assert len(statuses) >= 25
    assert set(statuses) == {0xFE00, 0x0000}
    assert not caplog.records


def cancelled_at(archive, ask, number):
    """Cancel an operation at a point of its thread; return how many points it had, and its status."""
    points = Points(MODULES, number, lambda: send_cancel(client), lambda: True)
    with points.tracing_new("pacs-association"), Raw(archive.port) as client:
        client.associate((1, FIND, [IMPLICIT]), (3, GET, [IMPLICIT]), (5, CT, [raw.EXPLICIT]), extra=ROLE)
        *parts, final = ask(client)
        count = points.count
        assert final.status in (0xFE00, 0x0000), points.where
        assert final.status == 0xFE00 or len(parts) == IMAGES, points.where
        counts = [final.number(tag) for tag in COUNTS if tag in final.elements]
        assert (len(counts), sum(counts)) in POSSIBLE_COUNTS[ask, final.status], points.where
        assert len(find(client, 8)) == IMAGES + 1, points.where
        client.release()
    return count, final.status


def send_cancel(client):
    """Send a C-CANCEL; wait until the server has read it, where the monitor reads for the thread that stands here."""
    client.send(cancel(1, 7))
    deadline = time.monotonic() + 0.02
    while is_unread() and time.monotonic() < deadline:
        time.sleep(0.0005)


def is_unread():
    """Return whether the monitor watches an association whose operation is not cancelled yet."""
    watched = [each.source for each in list(MONITOR._watches.values()) if each.is_registered]
    return any(not each.requested for source in watched for each in source._incoming._operations.values())
