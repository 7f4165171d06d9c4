"""`log.format = "json"`: all output of a server is JSON, one object a line, from its start to its end."""

import json
import signal
import socket
import subprocess
import sys

import pytest

from pacs.dimse.scu import echo
from pacs.testing import study
from tests import raw
from tests.cli.test_daemon import ROOT, process
from tests.cli.test_workers import Client
from tests.raw import Raw
from tests.waiting import eventually

JSON = ("--set", "log.format=json")


def events(text):
    """Return the lines of an output, each of which is an object of JSON with an event, a level and a time."""
    found = [json.loads(line) for line in text.splitlines()]
    assert all({"event", "level", "timestamp"} <= each.keys() for each in found)
    return found


def titles(found):
    """Return the names of events."""
    return [each["event"] for each in found]


def trouble(port):
    """Send what is logged as an error: a request in HTTP, a rejected one, a refused C-STORE, an abort."""
    with socket.create_connection(("127.0.0.1", port)) as plain:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        plain.recv(100)
    with Raw(port) as client:
        client.send(raw.associate_rq([(1, "1.2.840.10008.1.1", [raw.IMPLICIT])], calling="\x1b[31m"[:5], called="O"))
        client.pdu()
    (dataset,) = study(series=1, instances=1)
    with Client(port) as client:
        del dataset.StudyInstanceUID
        assert client.store(dataset) == 0xA901
        client.send(b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00")


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_every_line_of_a_run_is_json(tmp_path, workers):
    """Start, errors of associations, reload, a rejected reload, and stop; the ready line, too."""
    file = tmp_path / "config.toml"
    file.write_text("")
    with (
        (tmp_path / "err").open("w") as err,
        process(
            tmp_path, *JSON, "--workers", workers, "--config", file, "--set", "access.called_ae=ours", stderr=err
        ) as server,
    ):
        echo("127.0.0.1", server.port, calling_ae_title="WS", called_ae_title="PACS", timeout=60)
        trouble(server.port)
        for content, expected in (("", "configuration reloaded"), ("nonsense", "reload rejected")):
            file.write_text(content)
            server.send_signal(signal.SIGHUP)
            assert eventually(lambda said=expected: said in (tmp_path / "err").read_text(), 60)
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        rest = server.stdout.read()
    assert events(rest) == []
    found = events((tmp_path / "err").read_text())
    assert titles(found)[0] == "ready"
    assert titles(found)[-1] == "stopped"
    assert {"stopping", "association rejected", "operation", "association ended", "notice"} <= set(titles(found))


def test_the_ready_line_is_json(tmp_path):
    """With address and port, and that of the web server in a second one."""
    command = [sys.executable, "-m", "pacs", "serve", "--port", "0", *JSON, "--set", "web.port=0"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            ready, web = (json.loads(server.stdout.readline()) for _ in range(2))
        finally:
            server.send_signal(signal.SIGTERM)
    assert (ready["event"], ready["level"], ready["ae_title"], ready["host"]) == ("ready", "info", "PACS", "127.0.0.1")
    assert (web["event"], web["host"]) == ("web ready", "127.0.0.1")
    assert ready["port"] > 0
    assert web["port"] > 0


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_start_that_fails_is_a_line_of_json(tmp_path, workers):
    """The port is in use: exit status 2 as in the other format."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = ["--port", taken.getsockname()[1], "--workers", workers, "--set", f"files.url={tmp_path}/files"]
        words += ["--set", f"database.url=sqlite:///{tmp_path}/pacs.db", *JSON]
        command = [sys.executable, "-m", "pacs", "serve", *map(str, words)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    found = events(ended.stderr)
    assert found[-1]["level"] == "error"
    assert "cannot listen on 127.0.0.1" in found[-1]["event"]


CRASHING = """
import sys, threading
from pacs.archive import Archive
from pacs.cli import main
from pacs.observability import logging

def announce(archive):
    thread = threading.Thread(target=lambda: {}["DOE^JOHN"])
    thread.start()
    thread.join()
    raise KeyError("DOE^JOHN")

Archive.announce = announce
main()
"""


@pytest.mark.parametrize("format", ["json", pytest.param("console", marks=pytest.mark.long)])
def test_what_nothing_catches_is_logged_without_messages(tmp_path, format):
    """In a thread, and in the main one, which ends with status 1; the messages may name patients."""
    words = ["--port", "0", "--set", f"log.format={format}", "--set", "web.enabled=false"]
    command = [sys.executable, "-c", CRASHING, "serve", *words]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "JOHN" not in ended.stdout + ended.stderr
    assert "KeyError" in ended.stderr
    if format == "json":
        assert [each["event"] for each in events(ended.stderr) if each["level"] == "critical"] == [
            "a thread failed",
            "the server failed",
        ]


def test_start_reload_and_stop_are_in_the_log(tmp_path):
    """In the other format, too: with version and database, the signal, and how long the server ran."""
    with (tmp_path / "err").open("w") as err, process(tmp_path, stderr=err) as server:
        server.send_signal(signal.SIGHUP)
        assert eventually(lambda: "configuration reloaded" in (tmp_path / "err").read_text(), 60)
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
    said = (tmp_path / "err").read_text()
    places = [said.index(each) for each in ("] ready", "] configuration reloaded", "] stopping", "] stopped")]
    assert places == sorted(places)
    assert "database=sqlite" in said
    assert "signal=SIGINT" in said
