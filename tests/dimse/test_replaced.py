"""Retrieves while the selected instances are replaced: the archive has each at every moment, and so it sends each."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count

import pytest

from pacs.testing import serving, study
from tests import raw
from tests.archives import GET, take_in
from tests.cli.test_workers import CT, Client, stopped, workers
from tests.databases import fresh_database
from tests.dimse.test_cancel_points import ROLE, get
from tests.dimse.test_store_suboperations import Destination, counts, moving
from tests.raw import IMPLICIT, Raw

RLE = "1.2.840.10008.1.2.5"
INSTANCES = 30
OTHERS = [("sqlite", 1), ("postgresql", 4)]
CONFIGURATION = """
[storage]
duplicates = "replace"

[[peers]]
ae_title = "TAKER"
host = "127.0.0.1"
port = {port}
"""
UID = study(series=1, instances=1)[0].StudyInstanceUID

# pynetdicom does not close the socket of a peer that aborted.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


# --- another transfer syntax --------------------------------------------------------------------------------------


def compressed(archive, datasets):
    """Store the same instances again, compressed."""
    for each in datasets:
        each["PixelData"].is_undefined_length = True
        with archive.storage.receive(each.SOPClassUID, each.SOPInstanceUID, RLE, "TEST") as reception:
            reception.write(raw.encoded(each, RLE))
            reception.finish()


@contextmanager
def replacing_at_the_first(folder, syntaxes, associations):
    """A C-MOVE of four instances, of which the last two are replaced by compressed ones when the first one arrives.

    Yields the destination and the final response.
    """
    datasets = study(series=1, instances=4, size=16)
    later = study(series=1, instances=4, size=16, transfer_syntax=RLE)[2:]
    lock, first = threading.Lock(), iter([later])

    def answer(_event):
        with lock:
            compressed(archive, next(first, []))
        return 0x0000

    with Destination(answer, syntaxes=syntaxes) as taker, ExitStack() as stack:
        chosen = {"storage.duplicates": "replace", "peers": [taker.peer(associations=associations)]}
        archive = stack.enter_context(serving(folder, chosen))
        take_in(archive, datasets)
        with moving(archive) as client:
            yield taker, client.until_final()[-1], later


@pytest.mark.parametrize("associations", [1, 2])
def test_v9_an_instance_that_is_replaced_by_a_compressed_one_gets_a_context_of_its_own(tmp_path, associations):
    """On a new association; nothing fails."""
    with replacing_at_the_first(tmp_path, (raw.EXPLICIT, RLE), associations) as (taker, final, later):
        assert (final.status, counts(final)) == (0x0000, (None, 4, 0, 0))
        arrived = {each.SOPInstanceUID: taker.arrived[each.SOPInstanceUID] for each in later}
        assert arrived == {each.SOPInstanceUID: raw.encoded(each, RLE) for each in later}


def test_v9_a_destination_that_does_not_take_the_new_transfer_syntax_gets_these_converted(tmp_path):
    """It was asked once more."""
    with replacing_at_the_first(tmp_path, (raw.EXPLICIT,), 1) as (taker, final, later):
        assert (final.status, counts(final)) == (0x0000, (None, 4, 0, 0))
        native = study(series=1, instances=4, size=16)[2:]
        arrived = {each.SOPInstanceUID: taker.arrived[each.SOPInstanceUID] for each in later}
        assert arrived == {each.SOPInstanceUID: raw.encoded(each, raw.EXPLICIT) for each in native}


# --- replaced continuously ----------------------------------------------------------------------------------------


@contextmanager
def replaced_continuously(port):
    """Store all instances again and again, each time with other values, on two associations.

    Yields all versions of each instance so far, encoded, by SOP Instance UID.
    """
    versions = {each.SOPInstanceUID: set() for each in study(series=1, instances=INSTANCES)}
    ended, numbers = threading.Event(), count()

    def send(client):
        number = next(numbers)
        for each in study(series=1, instances=INSTANCES, ImageComments=f"version {number}"):
            versions[each.SOPInstanceUID].add(raw.encoded(each, raw.EXPLICIT))
            assert client.store(each) == 0

    def send_until_ended():
        with Client(port) as client:
            while not ended.is_set():
                send(client)

    with Client(port) as client:
        send(client)
    with ThreadPoolExecutor(2) as pool:
        senders = [pool.submit(send_until_ended) for _ in range(2)]
        try:
            yield versions
        finally:
            ended.set()
            for each in senders:
                each.result()


@pytest.mark.parametrize(
    ("kind", "number"),
    [("sqlite", 4), ("postgresql", 1), *(pytest.param(*each, marks=pytest.mark.long) for each in OTHERS)],
)
def test_a_retrieve_completes_while_all_instances_are_replaced_again_and_again(tmp_path, request, kind, number):
    """C-GET and C-MOVE: each instance arrives in one of its versions, byte for byte."""
    with Destination() as taker, ExitStack() as stack:
        (tmp_path / "config.toml").write_text(CONFIGURATION.format(port=taker.peer()["port"]))
        options = ("--config", str(tmp_path / "config.toml"))
        url = stack.enter_context(fresh_database(kind, request, tmp_path))
        server = stack.enter_context(workers(tmp_path, number, *options, url=url))
        with replaced_continuously(server.port) as versions:
            for _ in range(2):
                with moving(server, UID) as client:
                    final = client.until_final()[-1]
                assert (final.status, counts(final)) == (0x0000, (None, INSTANCES, 0, 0)), final.text(0x0902)
                assert all(taker.arrived[uid] in versions[uid] for uid in versions)
                with Raw(server.port) as client:
                    client.associate((3, GET, [IMPLICIT]), (5, CT, [raw.EXPLICIT]), extra=ROLE)
                    *received, final = get(client)
                    client.release()
                assert (final.status, counts(final)) == (0x0000, (None, INSTANCES, 0, 0)), final.text(0x0902)
                got = {each.text(0x1000): bytes(each.data) for each in received}
                assert all(got[uid] in versions[uid] for uid in versions)
        _, log = stopped(server)
    assert "Traceback" not in log
