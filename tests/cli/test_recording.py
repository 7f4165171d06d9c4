"""`pacs record` and `pacs replay` as processes."""

import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from pacs.testing import serving, study
from tests.archives import take_in
from tests.programs import PATIENCE, needs_ipv6, run, start


@contextmanager
def started(*words):
    """Run a command until it is interrupted; yield its port and a list for its last output."""
    command = [sys.executable, "-m", "pacs", *map(str, words)]
    process = start(command, stdout=subprocess.PIPE, text=True)
    said = process.stdout.readline()
    rest = []
    try:
        yield int(re.search(r"127\.0\.0\.1:(\d+)", said)[1]), rest
    finally:
        process.send_signal(signal.SIGINT)
        rest.append(process.communicate(timeout=PATIENCE)[0])
    assert process.returncode == 0


def test_an_association_is_recorded_and_replayed_by_two_commands(tmp_path):
    """The replay responds without the archive."""
    tape = tmp_path / "tape.jsonl"
    keys = ("-S", "-aec", "PACS", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientID=P1", "-k", "PatientName")
    with serving(tmp_path / "archive") as archive:
        take_in(archive, study(series=1, instances=1))
        with started("record", f"PACS@127.0.0.1:{archive.port}", tape) as (port, rest):
            run("findscu", *keys, "127.0.0.1", port)
    assert re.match(r"1 association, \d+ messages in ", rest[0])
    with started("replay", tape) as (port, _):
        said = run("findscu", "-v", *keys, "127.0.0.1", port)
    assert said.count("(Pending)") == 1
    assert "NAME" in said


def test_ipv6_addresses_are_printed_in_brackets(tmp_path):
    """Both, of the SCU's new target and of the server."""
    needs_ipv6()
    words = ("record", "PACS@[::1]:104", tmp_path / "tape.jsonl", "--host", "::1")
    process = start([sys.executable, "-m", "pacs", *map(str, words)], stdout=subprocess.PIPE, text=True)
    said = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert re.search(r"connect to \[::1\]:\d+ instead of \[::1\]:104; ", said)


@pytest.mark.parametrize("target", ["nowhere", "PACS@host", "PACS@host:port"])
def test_an_invalid_target_is_an_error(pacs, target):
    """With what was expected."""
    refused = pacs("record", target, "tape.jsonl")
    assert refused.exit_code == 2
    assert "expected HOST:PORT" in refused.output


def test_a_file_that_is_no_recording_is_an_error(pacs, tmp_path):
    """With the line."""
    (tmp_path / "tape.jsonl").write_text("nonsense\n")
    refused = pacs("replay", "tape.jsonl")
    assert refused.exit_code == 1
    assert "tape.jsonl, line 1" in refused.output
