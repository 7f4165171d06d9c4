"""What pytest gets: fixtures, options and a marker."""

import os
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pacs.support.suggestion import suggestion
from pacs.testing.running import AE_TITLE, serving, storing

if TYPE_CHECKING:
    from pacs.testing.server import PacsServer
    from pacs.testing.storage import StorageSCP

MARKED = ("settings", "scenario")
"""What the marker can say."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the plugin."""
    group = parser.getgroup("pacs", "a DICOM archive to test against")
    group.addoption("--pacs-aet", default=AE_TITLE, metavar="TITLE", help="AE title of the fixture pacs_server (PACS)")
    group.addoption(
        "--pacs-port",
        type=int,
        default=0,
        metavar="PORT",
        help="port of the fixture pacs_server, plus the number of the worker under pytest-xdist (any free one)",
    )

    parser.addini("pacs_settings", "KEY = VALUE lines of settings of the fixture pacs_server", type="linelist")


def pytest_configure(config: pytest.Config) -> None:
    """The marker of the plugin."""
    config.addinivalue_line(
        "markers",
        "pacs(settings={}, scenario=None): how the fixture pacs_server is configured, by dotted key as in config.toml, "
        "and how it misbehaves: a Scenario, a file or the name of a preset",
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Import what a server needs where some test has one: no test's own time has it then."""
    used = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if not session.config.option.collectonly and used & {"pacs_server", "storage_scp"}:
        import_module("pacs.testing.server")
        import_module("pacs.testing.storage")


@pytest.fixture
def pacs_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator["PacsServer"]:
    """A running archive with SQLite and a folder of its own; it sees what comes, and misbehaves when it is told to."""
    asked = _asked(request.node.get_closest_marker("pacs"))
    settings = {
        "server.ae_title": request.config.getoption("--pacs-aet"),
        "server.port": _port(request.config.getoption("--pacs-port")),
    }
    given = settings | _of_lines(request.config.getini("pacs_settings")) | dict(asked.get("settings", {}))
    with serving(tmp_path / "pacs", given, scenario=asked.get("scenario"), watched=True) as server:
        yield server


@pytest.fixture
def storage_scp(request: pytest.FixtureRequest) -> Iterator["StorageSCP"]:
    """A storage SCP; where a test uses `pacs_server` too, it is a move destination of that by its AE title."""
    with storing() as scp:
        if "pacs_server" in request.fixturenames:
            server = request.getfixturevalue("pacs_server")
            server.add_peer(scp.ae_title, scp.host, scp.port)
        yield scp


def _asked(marker: pytest.Mark | None) -> Mapping[str, Any]:
    """What a marker says. Raises pytest.UsageError."""
    if marker is None:
        return {}
    if marker.args:
        first = marker.args[0]
        mend = "settings={...}" if isinstance(first, Mapping) else f"scenario={first!r}"
        raise pytest.UsageError(f"pytest.mark.pacs({first!r}): expected keywords; did you mean pacs({mend})?")
    for each in marker.kwargs:
        if each not in MARKED:
            raise pytest.UsageError(
                f"pytest.mark.pacs({each}=...): expected {' and '.join(MARKED)}{suggestion(each, MARKED)}"
            )
    return marker.kwargs


def _of_lines(lines: Iterable[str]) -> dict[str, str]:
    """Settings from the ini file. Raises pytest.UsageError."""
    settings = {}
    for line in lines:
        key, equals, value = line.partition("=")
        if not equals:
            raise pytest.UsageError(f"pacs_settings: {line!r} is not KEY = VALUE, such as query.manner = strict")
        settings[key.strip()] = value.strip()
    return settings


def _port(port: int) -> int:
    """A fixed port is of one process: each worker of pytest-xdist has the next."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return port + int(worker) if port and worker.isdecimal() else port
