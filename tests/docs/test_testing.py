"""The examples of docs/testing.md run. test_pages.py compares its tables with the model."""

import os
import shlex
import subprocess
import sys

from pacs.cli import main
from pacs.config import load_scenario
from tests.docs.pages import block


def test_the_example_of_a_test_passes(tmp_path):
    """As it stands, in a folder of its own."""
    (tmp_path / "test_example.py").write_text(block("example"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-n", "0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr


def test_the_example_of_a_scenario_can_be_used(tmp_path):
    """It has the faults that its comments name."""
    file = tmp_path / "example.toml"
    file.write_text(block("scenario"))
    scenario = load_scenario(file)
    assert (scenario.name, [each.operation for each in scenario.faults]) == (
        "a bad day",
        ["C-FIND", "C-MOVE", "association"],
    )


def test_the_lines_about_a_recording_are_commands():
    """They parse; tests/cli/test_recording.py runs recording and replay."""
    for words in map(shlex.split, block("recording").splitlines()):
        parsed = main.commands[words[1]].make_context(words[1], words[2:], resilient_parsing=True)
        assert parsed.params["port"] == 11119
