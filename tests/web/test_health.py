"""/healthz and /readyz of the real daemon: while all is well, while it drains, while something is gone."""

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
from pacs.web import listener
from tests.cli.test_workers import eventually
from tests.databases import postgres_database
from tests.web.answering import answering, associated, get, numbers

WELL = {"ready": True, "reasons": {}}


def readiness(port):
    """The status of /readyz and what it says."""
    status, headers, body = get(port, "/readyz")
    assert headers["Content-Type"] == "application/json"
    return status, json.loads(body)


def not_ready(port, what):
    """Whether work cannot be done for this reason."""
    status, said = readiness(port)
    return status == 503 and what in said["reasons"]


def is_ready(port):
    """Whether work can be done."""
    return readiness(port) == (200, WELL)


# --- what is answered --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_is_alive_and_ready_and_stops_when_it_drains(tmp_path, workers):
    """503 with the reason while an association is waited for, and alive all the while; then the port is closed."""
    words = ("--workers", str(workers), "--set", "limits.drain_seconds=3600")
    with answering(tmp_path, *words) as server:
        assert get(server.web, "/healthz")[::2] == (200, "ok\n")
        eventually(lambda: is_ready(server.web))
        with ExitStack() as stack:
            for _ in range(4 * workers):  # so that each worker has some to wait for
                stack.enter_context(associated(server.port))
            server.send_signal(signal.SIGTERM)
            eventually(lambda: not_ready(server.web, "associations"))
            assert get(server.web, "/healthz")[0] == 200
        out, err = server.communicate(timeout=20)
    assert (server.returncode, out) == (0, "")
    assert "Traceback" not in err
    with pytest.raises(ConnectionRefusedError):
        get(server.web, "/healthz")


def test_other_paths_and_methods_are_none(tmp_path):
    """404 and 405; no answer says which software made it, and none is to be kept."""
    with web(tmp_path) as archive:
        for path in ("/", "/healthz/", "/dicom-web/studies", "/metrics/../etc/passwd", "/%00"):
            assert get(archive.web_port, path)[0] in (404, 307), path
        assert get(archive.web_port, "/healthz", "POST")[0] == 405
        assert get(archive.web_port, "/readyz", "DELETE")[0] == 405
        assert get(archive.web_port, "/healthz", "HEAD")[::2] == (200, "")
        headers = get(archive.web_port, "/healthz")[1]
        assert "Server" not in headers
        assert headers["Cache-Control"] == "no-store"


def test_without_metrics_there_are_none(tmp_path):
    """`metrics.enabled = false`: the rest is answered."""
    with web(tmp_path, **{"metrics.enabled": False}) as archive:
        assert get(archive.web_port, "/metrics")[0] == 404
        assert is_ready(archive.web_port)


def web(folder, **settings):
    """An archive in this process that answers HTTP."""
    return serving(folder, {"web.enabled": True, "web.port": 0} | settings)


# --- what is gone ------------------------------------------------------------------------------------------------


def test_a_database_server_that_is_gone_is_a_reason_until_it_is_back(postgres_server, postgres_template, tmp_path):
    """Nobody has to start the archive again."""
    with postgres_database(postgres_server, template=postgres_template) as url, answering(
        tmp_path, "--set", f"database.url={url}"
    ) as server:  # fmt: skip
        assert is_ready(server.web)
        allow_connections(postgres_server, url, "false")
        eventually(lambda: not_ready(server.web, "database"))
        assert get(server.web, "/healthz")[0] == 200
        assert numbers(server.web)["pacs_database_up"] == 0
        allow_connections(postgres_server, url, "true")
        eventually(lambda: is_ready(server.web))
        assert numbers(server.web)["pacs_database_up"] == 1


def allow_connections(postgres_server, url, answer):
    """Have a database take connections or not; those it has are ended."""
    name = url.rpartition("/")[2].partition("?")[0]
    engine = create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {answer}"))
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
        connection.execute(text(end), {"name": name})
    engine.dispose()


def test_an_index_whose_file_is_gone_is_a_reason_until_it_is_back(tmp_path):
    """SQLite would go on in a file that nobody will find again."""
    with web(tmp_path) as archive:
        assert is_ready(archive.web_port)
        (tmp_path / "pacs.db").rename(tmp_path / "away")
        eventually(lambda: not_ready(archive.web_port, "database"))
        (tmp_path / "away").rename(tmp_path / "pacs.db")
        eventually(lambda: is_ready(archive.web_port))


def test_files_that_cannot_be_written_are_a_reason(tmp_path):
    """Until they can; no probe is left."""
    incoming = tmp_path / "files" / "incoming"
    with web(tmp_path) as archive:
        assert is_ready(archive.web_port)
        incoming.rename(tmp_path / "away")
        eventually(lambda: not_ready(archive.web_port, "files"))
        assert numbers(archive.web_port)["pacs_files_up"] == 0
        (tmp_path / "away").rename(incoming)
        eventually(lambda: is_ready(archive.web_port))
        assert list(incoming.iterdir()) == []


def test_who_asks_waits_no_longer_than_he_wants_to_and_one_looks_for_all(tmp_path):
    """A look that hangs is one thread, however many ask; its answer is there when it comes back."""
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


# --- clients that cost -------------------------------------------------------------------------------------------


def test_those_who_never_end_their_requests_keep_nobody_out(tmp_path):
    """Three times as many as there is room for: the oldest are given up, and whoever asks is answered."""
    with web(tmp_path) as archive, ExitStack() as stack:
        slow = []
        for _ in range(3 * listener.MOST_CONNECTIONS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", archive.web_port)))
            client.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
            slow.append(client)
        assert is_ready(archive.web_port)
        assert sum(is_closed(each) for each in slow[: listener.MOST_CONNECTIONS]) == listener.MOST_CONNECTIONS
        assert is_ready(archive.web_port)


def is_closed(client):
    """Whether the other end has closed, at last."""
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
def test_a_connection_without_a_whole_request_in_time_is_given_up(tmp_path, monkeypatch, begin, more):
    """However busy it is."""
    monkeypatch.setattr(listener, "WAIT", 0.3)
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


def test_a_head_that_is_too_long_is_refused(tmp_path):
    """And is not kept in memory meanwhile."""
    with web(tmp_path) as archive, socket.create_connection(("127.0.0.1", archive.web_port)) as client:
        client.settimeout(20)
        try:
            client.sendall(b"GET /healthz HTTP/1.1\r\nX-Long: " + b"x" * (1 << 20))
            answer = client.recv(1 << 16)
        except ConnectionError:
            answer = b""
        assert not answer or answer.startswith(b"HTTP/1.1 4")
        assert is_ready(archive.web_port)
