"""Fixtures: an archive that holds two studies and knows the client as HOME at a free port."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import Dataset

from benchmarks.processes import free_port
from pacs import client
from pacs.archive import Archive
from pacs.client import Peer
from pacs.observability.events import Event, OperationFinished
from pacs.testing import serving, study
from tests.waiting import eventually


@dataclass
class Known:
    """A running archive, its address, the port it knows for HOME, and its events."""

    archive: Archive
    peer: Peer
    port: int
    events: list[Event]

    def statuses(self, kind: str, count: int = 1) -> list[int]:
        """Return the final statuses of the operations of a kind, once there are this many."""
        eventually(lambda: len(self._statuses(kind)) >= count)
        return self._statuses(kind)

    def _statuses(self, kind: str) -> list[int]:
        return [each.status for each in self.events if isinstance(each, OperationFinished) and each.kind == kind]


@pytest.fixture
def known(tmp_path: Path) -> Iterator[Known]:
    """An empty archive that knows HOME."""
    port = free_port()
    home = {"ae_title": "HOME", "host": "127.0.0.1", "port": port}
    with serving(tmp_path / "pacs", {"peers": [home]}) as archive:
        events: list[Event] = []
        archive.events.subscribe(events.append)
        yield Known(archive, Peer("PACS", "127.0.0.1", archive.port, calling_ae_title="HOME"), port, events)


@pytest.fixture
def datasets() -> list[Dataset]:
    """A study of two series with three instances each."""
    return study("DOE^JOHN", series=2, instances=3)


@pytest.fixture
def full(known: Known, datasets: list[Dataset]) -> Known:
    """The archive with that study."""
    assert client.store(known.peer, *datasets).failed == ()
    return known
