"""What pytest gets: fixtures, options and a marker; and the same servers for programs without pytest."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pacs.dimse.faults.model import Scenario
    from pacs.testing.server import PacsServer
    from pacs.testing.storage import StorageSCP

AE_TITLE = "PACS"
STORAGE_AE_TITLE = "STORAGE_SCP"


@contextmanager
def serving(
    folder: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    scenario: "Scenario | str | Path | None" = None,
    watched: bool = False,
) -> Iterator["PacsServer"]:
    """A running archive that keeps its data in `folder`, a temporary one where there is none; stopped at the end.

    It listens on a free port of 127.0.0.1, `.port`, and answers no HTTP unless told to. `settings` has values by dotted
    key, as in config.toml: `{"storage.duplicates": "replace", "peers": [...]}`; they count before those of the
    `scenario`, which is one, the file of one, or the name of a preset.

    A `watched` one, and any with a scenario, has `.received` and `.faults`; others are served exactly as `pacs serve`
    does, with nothing in between. Raises ConfigurationError as `pacs serve` would.
    """
    from pacs.testing.server import PacsServer

    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pacs-")))
        server = stack.enter_context(PacsServer(folder, settings or {}, scenario=scenario, watched=watched))
        server.start()
        yield server


@contextmanager
def storing(
    ae_title: str = STORAGE_AE_TITLE, *, port: int = 0, scenario: "Scenario | None" = None
) -> Iterator["StorageSCP"]:
    """A storage SCP that keeps what it is sent in memory: a move destination; stopped at the end of the `with` block.

    It listens on a free port of 127.0.0.1 unless one is given.
    """
    from pacs.testing.storage import StorageSCP

    with StorageSCP(ae_title, port, scenario) as scp:
        yield scp


# --- for pytest ---------------------------------------------------------------------------------------------------


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


@pytest.fixture
def pacs_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator["PacsServer"]:
    """A running archive with SQLite and a folder of its own; it sees what comes, and misbehaves when it is told to."""
    marker = request.node.get_closest_marker("pacs")
    asked: Mapping[str, Any] = marker.kwargs if marker is not None else {}
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
