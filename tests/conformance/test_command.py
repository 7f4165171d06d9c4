"""`pacs conformance run`: output, consent and exit status."""

import csv
import io
import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from pacs.cli import main
from pacs.conformance.checks.runner import CHECKS
from pacs.testing import serving
from tests.certificates import Authority
from tests.conformance.conftest import TITLE


@pytest.fixture
def run(strict):
    """Run `pacs conformance run --against` the strict server with further arguments."""

    def typed(*words, against=None, **options):
        server = against or f"PACS@127.0.0.1:{strict.port}"
        receive = ["--receive", f"{TITLE}:{strict.receiving}"]
        command = ["conformance", "run", "--yes", "--against", server, *receive, *map(str, words)]
        return CliRunner().invoke(main, command, **options)

    return typed


def test_the_exit_status_is_0_without_deviations(run, strict):
    """It announces what it stores, and prints totals; piped output is CSV."""
    result = run("--only", "negotiation")
    assert result.exit_code == 0, result.output
    assert "50 small instances" in result.stderr
    assert "Patient IDs begin with PACSRUN-" in result.stderr
    rows = list(csv.reader(io.StringIO(result.stdout)))
    assert rows[0] == ["check", "question", f"PACS@127.0.0.1:{strict.port}"]
    assert [row[0] for row in rows[1:]] == [check.id for check in CHECKS if check.theme == "negotiation"]
    assert "0 ✗ deviates" in result.stderr


def test_the_exit_status_is_1_with_a_deviation(pacs_server):
    """K2 deviates in the tolerant matching mode."""
    command = [
        "conformance",
        "run",
        "--yes",
        "--against",
        f"PACS@127.0.0.1:{pacs_server.port}",
        "--only",
        "K2",
        "--receive",
        "A:0",
    ]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "✗ the study without Accession Number is not found" in result.stdout


def test_the_exit_status_is_4_if_a_server_is_unreachable(run, free_receiver):
    """The results of the other servers are printed."""
    result = run("--against", f"GONE@127.0.0.1:{free_receiver}", "--only", "N1")
    assert result.exit_code == 4
    assert f"no connection to 127.0.0.1:{free_receiver}" in result.stderr
    assert "N1,Does the server answer a C-ECHO with Success?,✓" in result.stdout
    complaint, announced = result.stderr.index("no connection"), result.stderr.index("small instances")
    assert complaint < announced
    assert "GONE@" not in result.stderr[announced:]


def test_nothing_is_announced_if_no_server_is_reachable(run, free_receiver):
    """Nothing would be stored."""
    result = run(against=f"GONE@127.0.0.1:{free_receiver}")
    assert result.exit_code == 4
    assert result.stderr == f"pacs: no connection to 127.0.0.1:{free_receiver}: Connection refused\n"
    assert result.stdout == ""


def test_without_a_terminal_yes_is_required(strict):
    """Otherwise nothing is stored, and the exit status is 2."""
    command = [sys.executable, "-m", "pacs", "conformance", "run", "--against", f"PACS@127.0.0.1:{strict.port}"]
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=40, check=False)
    assert ran.returncode == 2
    assert "confirm with --yes, as there is no terminal" in ran.stderr
    assert ran.stdout == ""


def test_each_server_has_a_column(run, pacs_server):
    """In the order of the command line."""
    other = f"PACS@127.0.0.1:{pacs_server.port}"
    result = run("--against", other, "--only", "K2", "--json")
    found = json.loads(result.stdout)
    assert [each["verdicts"]["K2"]["verdict"] for each in found["servers"]] == ["conforms", "deviates"]
    assert found["servers"][1]["server"] == other
    assert found["servers"][1]["implementation"].startswith("PACS_")
    assert {each["id"] for each in found["checks"]} == {each.id for each in CHECKS}


def test_markdown_is_a_table(run):
    """With the sign of each result."""
    result = run("--only", "N1", "--markdown")
    assert "| N1 | Does the server answer a C-ECHO with Success? | PS3.4 A.4 | ✓ |" in result.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--against", "NOBODY"], "'NOBODY' is not a configured peer"),
        (["--receive", "PACS"], "is not AET:PORT"),
        (["--receive", "A:99999"], "is not AET:PORT"),
        (["--only", "nothing"], "'nothing' is not a check"),
        (["--prefix", "a/b"], "letters, digits and hyphens"),
    ],
)
def test_the_exit_status_is_2_after_a_usage_error(run, words, said):
    """Nothing is stored."""
    result = run(*words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "are stored" not in result.stderr


@pytest.mark.parametrize(("words", "answer", "status"), [((), b"n\n", 1), ((), b"y\n", 0), (("--yes",), b"", 0)])
def test_on_a_terminal_it_asks_before_storing(strict, words, answer, status):
    """After "n" nothing is stored; --yes suppresses the question."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "pacs", "conformance", "run", "--against", f"PACS@127.0.0.1:{strict.port}"]
    command += ["--receive", f"{TITLE}:{strict.receiving}", "--only", "N1", *words]
    try:
        os.write(ours, answer)
        ran = subprocess.run(command, stdin=theirs, capture_output=True, text=True, timeout=40, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    assert ran.returncode == status, ran.stderr
    assert ("Continue?" in ran.stderr) == (not words)
    assert ("N1," in ran.stdout) == (status == 0)


def test_conformance_without_a_command_prints_the_statement():
    """The conformance statement of this archive."""
    result = CliRunner().invoke(main, ["conformance"])
    assert result.exit_code == 0
    assert result.stdout.startswith("# DICOM conformance statement")


def test_servers_are_arguments_with_the_options_of_tls(tmp_path, monkeypatch):
    """As of `pacs echo`: by address or as configured peers; a server without the pinned certificate is not reached."""
    authority = Authority(tmp_path)
    ours = authority.sign("pacs", "localhost", "127.0.0.1")
    secured = {"tls.enabled": True, "tls.port": 0, "tls.certificate": ours.certificate, "tls.key": ours.key}
    monkeypatch.chdir(tmp_path)
    options = ("--only", "N1", "--yes", "--receive", "A:0", "--prefix", "TLS")
    with serving(tmp_path / "secured", secured) as server:
        peer = f'[[peers]]\nae_title = "PACS2"\nhost = "127.0.0.1"\nport = {server.secure_port}\n'
        (tmp_path / "config.toml").write_text(peer)
        for words in (
            (f"PACS@127.0.0.1:{server.secure_port}", "--ca", authority.path),
            ("PACS2", "--fingerprint", ours.fingerprint),
            ("--against", f"PACS@127.0.0.1:{server.secure_port}", "--ca", authority.path),
        ):
            done = CliRunner().invoke(main, ["conformance", "run", *words, *options])
            assert done.exit_code == 0, done.output
            assert "1 ✓" in done.stderr
        refused = CliRunner().invoke(main, ["conformance", "run", "PACS2", "--fingerprint", "ab" * 32, *options])
        assert refused.exit_code == 4
        assert f"its certificate has the fingerprint {ours.fingerprint}" in refused.stderr
    assert CliRunner().invoke(main, ["conformance", "run", *options]).exit_code == 2
