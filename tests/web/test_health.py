"""/healthz and /readyz of a running server: healthy, draining, and without database or files."""

import json
import signal
import socket
import threading
import time
from contextlib import ExitStack

import pytest
from sqlalchemy import create_engine, text

from pacs.errors import StorageUnavailable
from pacs.observability.health import Probe
from pacs.testing import serving
from pacs.web import connection_limits
from tests.cli.test_workers import eventually
from tests.databases import postgres_database
from tests.web.answering import answering, associated, get, numbers

WELL = {"ready": True, "reasons": {}}


def readiness(port):
    """Return status and content of /readyz."""
    status, headers, body = get(port, "/readyz")
    assert headers["Content-Type"] == "application/json"
    return status, json.loads(body)


def not_ready(port, what):
    """Return whether /readyz gives this reason."""
    status, said = readiness(port)
    return status == 503 and what in said["reasons"]


def is_ready(port):
    """Return whether /readyz reports readiness."""
    return readiness(port) == (200, WELL)


# --- responses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_draining_server_is_alive_but_not_ready(tmp_path, workers):
    """503 with the reason; the port is closed at the end."""
    words = ("--workers", str(workers), "--set", "limits.drain_seconds=3600")
    with answering(tmp_path, *words) as server:
        assert get(server.web, "/healthz")[::2] == (200, "ok\n")
        eventually(lambda: is_ready(server.web))
        with ExitStack() as stack:
            for _ in range(4 * workers):  # so that each worker gets some
                stack.enter_context(associated(server.port))
            server.send_signal(signal.SIGTERM)
            eventually(lambda: not_ready(server.web, "associations"))
            assert get(server.web, "/healthz")[0] == 200
        out, err = server.communicate(timeout=20)
    assert (server.returncode, out) == (0, "")
    assert "Traceback" not in err
    with pytest.raises(ConnectionRefusedError):
        get(server.web, "/healthz")


def test_other_paths_and_methods_are_refused(tmp_path):
    """404 and 405; no response names the software, and none may be cached."""
    with web(tmp_path) as archive:
        for path in ("/", "/healthz/", "/dicom-web/studies", "/metrics/../etc/passwd", "/%00"):
            assert get(archive.web_port, path)[0] in (404, 307), path
        assert get(archive.web_port, "/healthz", "POST")[0] == 405
        assert get(archive.web_port, "/readyz", "DELETE")[0] == 405
        assert get(archive.web_port, "/healthz", "HEAD")[::2] == (200, "")
        headers = get(archive.web_port, "/healthz")[1]
        assert "Server" not in headers
        assert headers["Cache-Control"] == "no-store"


def test_metrics_can_be_disabled(tmp_path):
    """`metrics.enabled = false` affects only /metrics."""
    with web(tmp_path, **{"metrics.enabled": False}) as archive:
        assert get(archive.web_port, "/metrics")[0] == 404
        assert is_ready(archive.web_port)


def web(folder, **settings):
    """An archive in this process that serves HTTP."""
    return serving(folder, {"web.enabled": True, "web.port": 0} | settings)


# --- failures ----------------------------------------------------------------------------------------------------


def test_an_unreachable_database_server_is_a_reason(postgres_server, postgres_template, tmp_path):
    """Until it is back, without a restart of the archive."""
    with postgres_database(postgres_server, template=postgres_template) as url, answering(
        tmp_path, "--set", f"database.url={url}"
    ) as server:  # fmt: skip
        assert is_ready(server.web)
        allow_connections(postgres_server, url, "false")
        eventually(lambda: not_ready(server.web, "database"))
        assert get(server.web, "/healthz")[0] == 200
        eventually(lambda: numbers(server.web)["pacs_database_up"] == 0)  # of each worker that answers
        allow_connections(postgres_server, url, "true")
        eventually(lambda: is_ready(server.web))
        eventually(lambda: numbers(server.web)["pacs_database_up"] == 1)


def allow_connections(postgres_server, url, answer):
    """Make a database accept or refuse connections; existing ones end."""
    name = url.rpartition("/")[2].partition("?")[0]
    engine = create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {answer}"))
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
        connection.execute(text(end), {"name": name})
    engine.dispose()


def test_a_missing_file_of_the_index_is_a_reason(tmp_path):
    """SQLite itself would continue in the deleted file."""
    with web(tmp_path) as archive:
        assert is_ready(archive.web_port)
        (tmp_path / "pacs.db").rename(tmp_path / "away")
        eventually(lambda: not_ready(archive.web_port, "database"))
        (tmp_path / "away").rename(tmp_path / "pacs.db")
        eventually(lambda: is_ready(archive.web_port))


def test_an_unwritable_file_store_is_a_reason(tmp_path):
    """Until it is writable; no test file is left."""
    incoming = tmp_path / "files" / "incoming"
    with web(tmp_path) as archive:
        assert is_ready(archive.web_port)
        incoming.rename(tmp_path / "away")
        eventually(lambda: not_ready(archive.web_port, "files"))
        assert numbers(archive.web_port)["pacs_files_up"] == 0
        (tmp_path / "away").rename(incoming)
        eventually(lambda: is_ready(archive.web_port))
        assert list(incoming.iterdir()) == []


def test_a_probe_that_hangs_blocks_one_thread_and_no_caller(tmp_path):
    """All callers share its result."""
    goes_on, looks = threading.Event(), []

    def look():
        looks.append(1)
        goes_on.wait(20)
        raise StorageUnavailable("it came back unwell")

    probe = Probe(look, fresh=3600)
    for _ in range(3):
        assert probe.ask(0.05).reason == "no answer within 0.05 s"
    assert len(looks) == 1
    goes_on.set()
    assert probe.ask(20).reason == "it came back unwell"
    assert probe.ask(0).reason == "it came back unwell"
    assert len(looks) == 1


# --- hostile clients ---------------------------------------------------------------------------------------------


def test_incomplete_requests_do_not_block_other_clients(tmp_path):
    """With three times the maximum of connections, the oldest are closed."""
    with web(tmp_path) as archive, ExitStack() as stack:
        slow = []
        for _ in range(3 * connection_limits.MOST_CONNECTIONS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", archive.web_port)))
            client.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
            slow.append(client)
        assert is_ready(archive.web_port)
        assert (
            sum(is_closed(each) for each in slow[: connection_limits.MOST_CONNECTIONS])
            == connection_limits.MOST_CONNECTIONS
        )
        assert is_ready(archive.web_port)


def is_closed(client):
    """Wait until the other end has closed."""
    client.settimeout(20)
    try:
        while client.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


ENDLESS = {
    "a head byte by byte": (b"GET /healthz HTTP/1.1\r\nX-Slow: ", b"x"),
    "a body without end": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n", b"x" * 100),
    "requests whose answers are not read": (b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100),
    "nothing": (b"", b""),
}


@pytest.mark.parametrize(("begin", "more"), ENDLESS.values(), ids=list(ENDLESS))
def test_a_connection_without_a_complete_request_is_closed_in_time(tmp_path, monkeypatch, begin, more):
    """Even if it sends something all the time."""
    monkeypatch.setattr(connection_limits, "WAIT", 0.3)
    with web(tmp_path) as archive, socket.create_connection(("127.0.0.1", archive.web_port)) as client:
        client.settimeout(20)
        with pytest.raises((ConnectionError, EOFError)):
            client.sendall(begin)
            while True:
                if more:
                    client.sendall(more)
                    time.sleep(0.01)
                elif not client.recv(1):
                    raise EOFError
        assert is_ready(archive.web_port)


def test_a_request_head_that_is_too_long_is_refused(tmp_path):
    """And not kept in memory."""
    with web(tmp_path) as archive, socket.create_connection(("127.0.0.1", archive.web_port)) as client:
        client.settimeout(20)
        try:
            client.sendall(b"GET /healthz HTTP/1.1\r\nX-Long: " + b"x" * (1 << 20))
            answer = client.recv(1 << 16)
        except ConnectionError:
            answer = b""
        assert not answer or answer.startswith(b"HTTP/1.1 4")
        assert is_ready(archive.web_port)
