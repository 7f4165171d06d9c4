"""Waits and orders in the server that a jump of the clock must not change."""

from pathlib import Path

from tests.clock.clock import DAY, HOUR, Clock, run

POOL = """
import threading
import time
from pacs.errors import PacsError
from pacs.index.database import Index

index = Index("sqlite:///pacs.db", connections=1, wait=2)

def wait():
    began = time.monotonic()
    try:
        with index.read():
            print("connected")
    except PacsError as error:
        print(type(error).__name__, round(time.monotonic() - began))

with index.read():
    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    for _ in range(10):
        threading.Event().wait(0.1)
        jump()
    waiting.join(30)
print("end")
"""

LINGER = """
import socket, time
from pacs.dimse.upper.upper_layer import UpperLayer

listener = socket.create_server(("127.0.0.1", 0))
theirs = socket.create_connection(listener.getsockname())
ours = listener.accept()[0]
upper = UpperLayer(ours, is_requestor=False, artim=1, max_pdu=16384)
upper.abort()
jump()
began = time.monotonic()
upper.linger()
print(round(time.monotonic() - began))
"""

ORDER = """
from pacs.observability.activity import Activity
from pacs.observability.events import AssociationAccepted, Notice

activity = Activity()
record = activity.recorder(0)
for number in range(4):
    record(Notice(sentence=str(number)))
    record(AssociationAccepted(association=str(number), calling_ae_title="A", called_ae_title="B", address="C"))
    jump()
print(*(entry["sentence"] for entry in activity.events()))
print(*(entry["association"] for entry in activity.running()))
"""


def test_a_wait_for_a_connection_to_the_database_ends_in_time(clock: Clock, tmp_path: Path, monkeypatch):
    """After `database.wait_seconds`; the queue of SQLAlchemy waits for the clock."""
    monkeypatch.chdir(tmp_path)
    assert run(clock, POOL, *[-HOUR] * 10) == ["IndexUnavailable 2", "end"]


def test_the_artim_timer_ends_in_time(clock: Clock):
    """That of pynetdicom waits for the clock: a connection that the peer does not close would stay for a day."""
    assert run(clock, LINGER, -26 * HOUR) == ["1"]
    assert run(clock, LINGER, 26 * HOUR) == ["1"]


def test_events_and_operations_keep_their_order(clock: Clock):
    """The newest event is the one that happened last, and the oldest operation the one that began first."""
    assert run(clock, ORDER, -DAY, 2 * DAY, -370 * DAY, 0) == ["3 2 1 0", "0 1 2 3"]
