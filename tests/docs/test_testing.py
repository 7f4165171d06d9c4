"""docs/testing.md: its examples run, and its tables are those of the model."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from pacs.cli import main
from pacs.config import load_scenario, presets
from pacs.faults.model import DIMSE, OPERATIONS, Fault

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "testing.md"


def blocks(language):
    """The blocks of the page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def table(heads, rows):
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(each) + " |" for each in lines)


def when_table():
    """The first half of a fault."""
    rows = [(f"`{each.name}`", each.metadata["when"]) for each in fields(Fault) if "when" in each.metadata]
    return table(("key", "what it says"), rows)


def does_table():
    """The second half of a fault."""
    rows = [
        (f"`{each.name}`", each.metadata["does"], _told(each.metadata["of"]))
        for each in fields(Fault)
        if "does" in each.metadata
    ]
    return table(("key", "what it does", "to"), rows)


def _told(operations):
    if set(operations) == set(OPERATIONS):
        return "all"
    missing = [each for each in DIMSE if each not in operations]
    if "association" not in operations and len(missing) <= 1:
        return "all operations" + "".join(f" but {each}" for each in missing)
    return ", ".join(operations)


def presets_table():
    """The presets."""
    return table(("preset", "what it does"), [(f"`{each.name}`", each.description) for each in presets().values()])


@pytest.mark.parametrize("made", [when_table, does_table, presets_table], ids=lambda each: each.__name__)
def test_the_tables_are_those_of_the_model(made):
    """Every condition, every fault, every preset there is, in the words of the model."""
    assert made() in PAGE.read_text("utf-8")


def test_the_example_of_a_test_passes(tmp_path):
    """As it stands, in a folder of its own."""
    (example,) = blocks("python")
    (tmp_path / "test_example.py").write_text(example)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr


def test_the_example_of_a_scenario_can_be_used(tmp_path):
    """It has the faults that its comments tell of."""
    (example,) = blocks("toml")
    file = tmp_path / "example.toml"
    file.write_text(example)
    scenario = load_scenario(file)
    assert (scenario.name, [each.operation for each in scenario.faults]) == (
        "a bad day",
        ["C-FIND", "C-MOVE", "association"],
    )


def test_the_lines_about_a_recording_are_commands():
    """What they do is shown in tests/cli/test_recording.py: here that they are understood."""
    (lines,) = blocks("sh tape")
    for words in map(shlex.split, lines.splitlines()):
        parsed = main.commands[words[1]].make_context(words[1], words[2:], resilient_parsing=True)
        assert parsed.params["port"] == 11119


def test_the_files_the_page_links_to_are_there():
    """No link leads nowhere."""
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text("utf-8")):
        assert (PAGE.parent / link).exists(), link
