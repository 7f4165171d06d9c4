"""Scenario files: their contents, and `pacs serve --scenario`."""

import os
import re
import signal
import subprocess
import sys

import pytest

from pacs.config import load_scenario, presets
from pacs.errors import ConfigurationError
from pacs.faults.model import Fault
from tests.programs import run, start

READY = re.compile(r"pacs is ready: AE title (\w+) on 127\.0\.0\.1:(\d+), INJECTS FAULTS: scenario moody\n")
MOODY = """
name = "moody"
description = "For a test."
seed = 7

[settings]
server.ae_title = "MOODY"
query = { manner = "strict" }

[[settings.peers]]
ae_title = "DESTINATION"
host = "127.0.0.1"
port = 11113

[[faults]]
operation = "C-ECHO"
nth = "every 2"
status = 0x0122
comment = "Not today"

[[faults]]
operation = "association"
calling = "EVIL*"
reject = [2, 3, 2]

[[faults]]
operation = "C-MOVE"
fail = 0.25
nth = [1, 3]
offending = [0x00100020]
final_status = 0xB000
delay = 1
"""


@pytest.fixture
def file(tmp_path):
    """A scenario file with every kind of key."""
    path = tmp_path / "moody.toml"
    path.write_text(MOODY)
    return path


def test_a_file_gives_the_same_scenario_as_code(file):
    """The same faults; settings by dotted key or in tables."""
    scenario = load_scenario(file)
    assert (scenario.name, scenario.description, scenario.seed) == ("moody", "For a test.", 7)
    assert scenario.settings == {
        "server.ae_title": "MOODY",
        "query.manner": "strict",
        "peers": [{"ae_title": "DESTINATION", "host": "127.0.0.1", "port": 11113}],
    }
    assert scenario.faults == (
        Fault("C-ECHO", nth="every 2", status=0x0122, comment="Not today"),
        Fault("association", calling="EVIL*", reject=(2, 3, 2)),
        Fault("C-MOVE", fail=0.25, nth=(1, 3), offending=(0x00100020,), final_status=0xB000, delay=1),
    )


def test_a_scenario_without_a_name_has_that_of_its_file(tmp_path):
    """An empty file changes nothing."""
    file = tmp_path / "empty.toml"
    file.write_text("")
    scenario = load_scenario(file)
    assert (scenario.name, scenario.seed, scenario.faults, scenario.settings) == ("empty", 0, (), {})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("sed = 3", "sed: unknown key; did you mean seed?"),
        ("seed = 'x'", "seed = 'x': expected a number"),
        ("seed = true", "seed = True: expected a number"),
        ("faults = 3", "faults = 3: expected [[faults]] blocks"),
        ("faults = [3]", "faults[1]: expected a [[faults]] block"),
        ("[[faults]]\noperaton = 'C-ECHO'", "faults[1].operaton: unknown key; did you mean operation?"),
        ("[[faults]]\nstatus = 'x'", "faults[1].status = 'x': expected a number"),
        ("[[faults]]\nsilent = 1", "faults[1].silent = 1: expected true or false"),
        (
            "[[faults]]\nnth = 1.5",
            "faults[1].nth = 1.5: expected a number, or expected a list, or expected text in quotes",
        ),
        ("[[faults]]\nreject = [1, 1]", "faults[1].reject = [1, 1]: expected one more value"),
        ("[[faults]]\ncalling = 3", "faults[1].calling = 3: expected text in quotes"),
        ("[[faults]]\noperation = 'C-FIN'", "faults[1].operation: expected one of association, C-ECHO"),
        ("[[faults]]\nstatus = 2024-01-01", "faults[1]: expected text, numbers, true or false and lists of them"),
        ("[[faults]]\n[[faults]]\nreject = [1, 1, 1]", "faults[2].reject: expected operation to be one of association"),
        ("[settings]\nquery.maner = 1", "query.maner: unknown key; did you mean query.manner?"),
        (
            "[settings.files]\nurl = 'theirs'",
            "settings.files.url: a scenario cannot set this key; expected one of access",
        ),
        ("[settings]\nquery.explain = true", "settings.query.explain: a scenario cannot set this key"),
        ("[settings]\nweb.host = '0.0.0.0'", "settings.web.host: a scenario cannot set this key"),
        ("seed = ", "is not TOML in UTF-8"),
    ],
)
def test_an_error_has_key_value_and_expectation(tmp_path, text, complaint):
    """And the file."""
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as told:
        load_scenario(file)
    assert complaint in told.value.comment
    assert "bad.toml" in told.value.comment


def test_all_errors_are_listed(tmp_path):
    """One line each."""
    file = tmp_path / "bad.toml"
    file.write_text("sed = 1\n[[faults]]\nstatus = 'x'\n[[faults]]\nstatuss = 1\n")
    with pytest.raises(ConfigurationError) as told:
        load_scenario(file)
    assert [each.partition(":")[0].partition(" ")[0] for each in told.value.comment.splitlines()] == [
        "sed",
        "faults[1].status",
        "faults[2].statuss",
    ]


@pytest.mark.parametrize("name", ["nobody", "../config", "scenarios/strict-a900"])
def test_an_unknown_name_is_an_error_that_leads_to_the_presets(name):
    """Paths do not lead to presets."""
    with pytest.raises(ConfigurationError, match=r"no scenario file or preset .*; run `pacs serve --scenario list`"):
        load_scenario(name)


def test_the_presets_are_listed(pacs):
    """With their descriptions."""
    shown = pacs("serve", "--scenario", "list")
    assert shown.exit_code == 0
    for each in presets().values():
        assert f"{each.name}\n    {each.description}" in shown.stdout


def test_several_workers_are_refused(pacs, file):
    """Each would count messages separately."""
    refused = pacs("serve", "--scenario", file, "--workers", 2)
    assert refused.exit_code == 2
    assert "server.workers = 2: expected 1 with --scenario" in refused.stderr


def test_an_error_in_a_scenario_is_a_sentence_and_exit_status_2(pacs, tmp_path):
    """As in the configuration."""
    (tmp_path / "bad.toml").write_text("sed = 1")
    refused = pacs("serve", "--scenario", "bad.toml")
    assert (refused.exit_code, refused.stderr) == (
        2,
        "pacs: sed: unknown key; did you mean seed? (bad.toml)\n",
    )


def test_a_server_with_a_scenario_injects_faults_and_says_so(file, tmp_path):
    """In its log and in the ready line; its settings apply, overridden by options."""
    words = ["serve", "--scenario", file, "--port", 0, "--set", "web.enabled=false", "--ae-title", "RUDE"]
    command = [sys.executable, "-m", "pacs", *map(str, words)]
    log = tmp_path / "log"
    with log.open("w") as errors:
        server = start(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert server.stdout is not None
        ready = READY.fullmatch(server.stdout.readline())
        assert ready is not None
        assert ready[1] == "RUDE"
        first, second = (run("echoscu", "-v", "127.0.0.1", ready[2]) for _ in range(2))
        evil = run("echoscu", "-v", "-aet", "EVIL1", "127.0.0.1", ready[2], check=False)
    finally:
        os.kill(server.pid, signal.SIGTERM)
        server.communicate(timeout=30)
    said = [re.sub(r" {2,}", " ", line) for line in log.read_text().splitlines()]
    (fault,) = [line for line in said if "fault " in line and "C-ECHO" in line]
    assert "[warning" in fault
    assert "calling_ae_title=ECHOSCU" in fault
    assert "fault=1 does=status=0x0122, comment='Not today'" in fault.replace('"', "")
    assert [re.findall(r"status=(0x\w+) ", line) for line in said if "operation " in line] == [["0x0000"], ["0x0122"]]
    (rejected,) = [line for line in said if "fault " in line and "kind=association" in line]
    assert "calling_ae_title=EVIL1" in rejected
    assert "fault=2" in rejected
    assert "(Success)" in first
    assert "0x122" in second
    assert "Local Limit Exceeded" in evil
    assert "injects faults (scenario moody with 3 faults, seed 7); do not use it for real images" in log.read_text()
