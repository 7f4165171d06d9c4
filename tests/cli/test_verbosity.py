"""`-q`, `-v` and `-d`, which every command has, with one meaning."""

import logging
import os
import signal
import subprocess
import sys

import click
import pytest

from pacs import client
from pacs.cli import main
from pacs.errors import DestinationUnreachable
from pacs.testing import serving, study, write
from tests.archives import take_in
from tests.programs import free_port
from tests.waiting import eventually


@pytest.fixture
def server(tmp_path):
    """A server with one instance."""
    with serving(tmp_path / "server") as server:
        take_in(server, study(series=1, instances=1))
        yield server


def leaves(command, *names):
    """Yield the words of each command that does something itself."""
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from leaves(child, *names, name)
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield names


@pytest.mark.parametrize("words", [*leaves(main)], ids=" ".join)
def test_every_command_has_the_same_options(pacs, words):
    """With the same help."""
    shown = " ".join(pacs(*words, "--help").stdout.split())
    assert (
        "-q, --quiet Print only results and errors. -v, --verbose Print each step. -d, --debug Print the log" in shown
    )


@pytest.mark.parametrize(
    ("words", "prints"),
    [
        (("echo", "{peer}"), ""),
        (("find", "{peer}", "-k", "PatientID"), "PatientID\nP1\n"),
        (("find", "{peer}", "-k", "PatientID=NOBODY", "-r", "StudyDate"), "PatientID,StudyDate\n"),
        (("store", "{peer}", "{file}"), ""),
        (("get", "{peer}", "-k", "PatientID=P1"), ""),
        (("fetch", "{peer}", "-k", "PatientID=P1", "--port", "0"), ""),
        (("import", "{file}"), ""),
        (("db", "upgrade"), ""),
        (("fsck",), ""),
        (("reindex",), ""),
        (("backup", "copy"), ""),
        (("delete", "PatientID=NOBODY"), ""),
        (("check", "--set", "server.port=0", "--set", "web.port=0"), ""),
    ],
)
def test_a_quiet_command_prints_only_its_results(pacs, server, tmp_path, words, prints):
    """Neither summary nor notice, on either stream."""
    (file,) = write(study(series=1, instances=1), tmp_path / "given")
    assert pacs("import", file).exit_code == 0
    given = {"peer": f"PACS@127.0.0.1:{server.port}", "file": str(file)}
    result = pacs(*(each.format(**given) for each in words), "-q")
    assert result.exit_code == 0, result.output
    assert (result.stdout, result.stderr) == (prints, "")


def test_a_quiet_command_prints_its_errors(pacs):
    """The sentence and the exit status are the same."""
    for options in ((), ("-q",)):
        result = pacs("echo", f"PACS@127.0.0.1:{free_port()}", *options)
        assert result.exit_code == 4
        assert "The peer cannot be reached" in result.stderr


def test_a_verbose_command_prints_each_step(pacs, server, tmp_path):
    """Its associations, and each response or event."""
    (file,) = write(study(series=1, instances=1), tmp_path / "given")
    stored = pacs("store", f"PACS@127.0.0.1:{server.port}", file, "-v").stderr
    assert f"associated with PACS@127.0.0.1:{server.port} as PACSCU: " in stored
    assert "storing: remaining 0, completed 1" in stored
    assert "request 1" not in stored


def test_a_debugged_command_prints_messages_and_tracebacks(pacs, server):
    """The presentation contexts, requests and responses; of an error also where it was raised."""
    found = pacs("find", f"PACS@127.0.0.1:{server.port}", "-k", "PatientID", "--debug")
    assert found.stdout == "PatientID\nP1\n"
    for part in ("presentation context 1: 1.2.840.10008.5.1.4.1.2.2.1 accepted", "C-FIND request 1",
                 "C-FIND response to 1: status 0xFF00", "C-FIND response to 1: status 0x0000"):  # fmt: skip
        assert part in found.stderr
    failed = pacs("echo", f"PACS@127.0.0.1:{free_port()}", "-d").stderr
    assert "Traceback" in failed
    assert failed.splitlines()[-1].startswith("pacs: PACS@127.0.0.1:")


def test_the_last_option_counts(pacs, server):
    """As scripts append to the options of others."""
    echo = ("echo", f"PACS@127.0.0.1:{server.port}")
    assert pacs(*echo, "-q", "-v").stdout
    assert not pacs(*echo, "-v", "-q").stdout


@pytest.mark.parametrize(("option", "level"), [("-q", "WARNING"), ("-v", "INFO"), ("-d", "DEBUG")])
def test_the_log_of_a_server_has_the_level_of_the_option(pacs, tmp_path, monkeypatch, option, level):
    """Whatever log.level of the file is, also after a reload."""
    (tmp_path / "config.toml").write_text('[log]\nlevel = "ERROR"\n')
    seen = []

    def run(archive, *, read, **_more):
        seen.extend((logging.getLevelName(logging.getLogger().level), archive.config.log.level, read().log.level))

    monkeypatch.setattr("pacs.daemon.run_until_signalled", run)
    assert pacs("serve", option, "--workers", "1").exit_code == 0
    assert seen == [level] * 3


def is_answering(peer):
    """Whether a server answers a C-ECHO."""
    try:
        return client.echo(peer) > 0
    except DestinationUnreachable:
        return False


def test_a_quiet_server_prints_no_ready_line(tmp_path):
    """And it serves."""
    port = free_port()
    words = ["serve", "-q", "--port", str(port), "--set", "web.enabled=false"]
    with subprocess.Popen(
        [sys.executable, "-m", "pacs", *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert eventually(lambda: is_answering(f"PACS@127.0.0.1:{port}"), 60)
        os.kill(process.pid, signal.SIGTERM)
        printed, _ = process.communicate(timeout=60)
    assert (process.returncode, printed) == (0, b"")
