"""Storage commitment while the clock of the server jumps: no report is forgotten, and none comes a day late."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clock.clock import DAY, Clock
from tests.committing import CT, Requester, requester, some_uid
from tests.crash.servers import Server, Site
from tests.waiting import eventually

ASKED = [(CT, some_uid(1))]
FAILED = "REQUESTER cannot be told of a storage commitment"
JUMPED = "the clock has jumped by"

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""pynetdicom does not close the socket of an aborted association."""


@pytest.fixture
def peer() -> Requester:
    """A requestor that does not listen yet."""
    return requester()


@pytest.fixture
def site(tmp_path: Path, peer: Requester) -> Site:
    """An archive on SQLite that knows the requestor, and always reports on a new association."""
    rows = "".join(f"{key} = {json.dumps(value)}\n" for key, value in peer.row.items())
    (tmp_path / "config.toml").write_text(f"[[peers]]\n{rows}")
    settings = (
        "commitment.same_association_seconds=0",
        "commitment.first_retry_seconds=1",
        "commitment.longest_retry_seconds=1",
    )
    return Site(tmp_path, settings=settings, log=tmp_path / "log")


@contextmanager
def serving(site: Site, clock: Clock) -> Iterator[Server]:
    """Run the archive by the clock for the `with` block."""
    server = site.start(*clock.prefix, f"PACS_CONFIG={site.folder / 'config.toml'}")
    try:
        yield server
    finally:
        server.stop()


def said(site: Site, text: str) -> int:
    """Return how often the log has a text."""
    return site.log.read_text().count(text)


def await_next(site: Site, text: str) -> None:
    """Wait until the log has a text once more."""
    before = said(site, text)
    eventually(lambda: said(site, text) > before, 60)


def test_no_report_is_forgotten_or_late_after_a_jump(site: Site, clock: Clock, peer: Requester):
    """Four days ahead, a new request is older than `give_up_seconds`; back, its next attempt is a day away."""
    with serving(site, clock) as server:
        assert peer.ask(server.port, ASKED) == 0x0000
        await_next(site, FAILED)
        for seconds in (4 * DAY, -5 * DAY, -370 * DAY):
            jumps = said(site, JUMPED)
            clock.jump(seconds)
            eventually(lambda jumps=jumps: said(site, JUMPED) > jumps, 60)
            await_next(site, FAILED)
        with peer.listening():
            assert [uid for _, uid, _ in peer.report().failed] == [ASKED[0][1]]


def test_no_report_is_forgotten_after_a_restart(site: Site, clock: Clock, peer: Requester):
    """With the clock five days ahead."""
    with serving(site, clock) as server:
        assert peer.ask(server.port, ASKED) == 0x0000
        await_next(site, FAILED)
    clock.jump(5 * DAY)
    with serving(site, clock):
        await_next(site, FAILED)
        with peer.listening():
            assert peer.report().transaction == "1.2.3.4"
