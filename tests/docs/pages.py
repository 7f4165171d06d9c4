"""The fenced code blocks of README.md and docs/, and the tests that run them.

A `sh` or `toml` block is run or loaded by `test_pages.py`, unless a comment stands above it: `<!-- run: NAME -->` names
the test that runs it, `<!-- not run: REASON -->` says why none does. `python` and `json` blocks always have such a
comment.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from pacs.cli import main
from tests.programs import PATIENCE

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *DOCS.rglob("*.md")])
SHELL = re.compile(r"[|&;$<>*()`]")
FENCE = re.compile(r"(?:<!-- (?P<note>(?:not )?run: [^\n]*) -->\n+)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, its language, the comment above it and its text."""

    page: Path
    language: str
    note: str
    text: str


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page."""
    for found in FENCE.finditer(page.read_text("utf-8")):
        yield Block(page, found["language"], found["note"] or "", found["text"])


def block(name: str) -> str:
    """Return the text of the block that `<!-- run: NAME -->` stands above."""
    (found,) = (each for page in PAGES for each in blocks_of(page) if each.note == f"run: {name}")
    return found.text


def type_in(line: str, folder: Path) -> str:
    """Type a line in `folder`, the working directory; return what it prints. It must succeed."""
    if line.startswith("pacs ") and not SHELL.search(re.sub(r"'[^']*'", "", line)):
        result = CliRunner().invoke(main, shlex.split(line)[1:])
        assert result.exit_code == 0, (line, result.output)
        return result.output
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["sh", "-c", line], cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, (line, ran.stdout, ran.stderr)
    return ran.stdout + ran.stderr
