"""The pytest plugin: fixtures, options and a marker."""

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
    from pacs.testing.store_scp import StorageSCP

MARKER_KEYWORDS = ("settings", "scenario")
"""Keywords of the marker."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the plugin."""
    group = parser.getgroup("pacs", "DICOM archive as a test server")
    group.addoption(
        "--pacs-aet", default=AE_TITLE, metavar="TITLE", help="AE title of the fixture pacs_server (default: PACS)"
    )
    group.addoption(
        "--pacs-port",
        type=int,
        default=0,
        metavar="PORT",
        help="port of the fixture pacs_server; pytest-xdist workers add their number (default: a free port)",
    )

    parser.addini("pacs_settings", "settings of the fixture pacs_server, as KEY = VALUE lines", type="linelist")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of the plugin."""
    config.addinivalue_line(
        "markers",
        "pacs(settings={}, scenario=None): settings of the fixture pacs_server, by dotted key as in config.toml, "
        "and its faults: a Scenario, a scenario file or the name of a preset",
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Import the server before the first test if a test needs it, so that no test includes the import time."""
    used = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if not session.config.option.collectonly and used & {"pacs_server", "storage_scp"}:
        import_module("pacs.testing.server")
        import_module("pacs.testing.store_scp")


@pytest.fixture
def pacs_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator["PacsServer"]:
    """A running archive with SQLite and its own folder; it records what it receives, and can misbehave."""
    marked = _marker_keywords(request.node.get_closest_marker("pacs"))
    settings = {
        "server.ae_title": request.config.getoption("--pacs-aet"),
        "server.port": _port(request.config.getoption("--pacs-port")),
    }
    given = settings | _parse_lines(request.config.getini("pacs_settings")) | dict(marked.get("settings", {}))
    with serving(tmp_path / "pacs", given, scenario=marked.get("scenario"), watched=True) as server:
        yield server


@pytest.fixture
def storage_scp(request: pytest.FixtureRequest) -> Iterator["StorageSCP"]:
    """A storage SCP; in a test with `pacs_server`, it is a move destination of that server."""
    with storing() as scp:
        if "pacs_server" in request.fixturenames:
            server = request.getfixturevalue("pacs_server")
            server.add_peer(scp.ae_title, scp.host, scp.port)
        yield scp


def _marker_keywords(marker: pytest.Mark | None) -> Mapping[str, Any]:
    """Return the keywords of the marker. Raises pytest.UsageError."""
    if marker is None:
        return {}
    if marker.args:
        first = marker.args[0]
        correct = "settings={...}" if isinstance(first, Mapping) else f"scenario={first!r}"
        raise pytest.UsageError(f"pytest.mark.pacs({first!r}): expected keywords; did you mean pacs({correct})?")
    for each in marker.kwargs:
        if each not in MARKER_KEYWORDS:
            raise pytest.UsageError(
                f"pytest.mark.pacs({each}=...): expected {' and '.join(MARKER_KEYWORDS)}"
                f"{suggestion(each, MARKER_KEYWORDS)}"
            )
    return marker.kwargs


def _parse_lines(lines: Iterable[str]) -> dict[str, str]:
    """Return the settings in the ini file. Raises pytest.UsageError."""
    settings = {}
    for line in lines:
        key, equals, value = line.partition("=")
        if not equals:
            raise pytest.UsageError(f"pacs_settings: {line!r} is not KEY = VALUE, such as query.manner = strict")
        settings[key.strip()] = value.strip()
    return settings


def _port(port: int) -> int:
    """Return the port for this process: each pytest-xdist worker uses the next one."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return port + int(worker) if port and worker.isdecimal() else port
