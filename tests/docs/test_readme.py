"""The commands of README.md run, CI runs the same ones, and its figures are measured ones."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]
SERVE, TEST = LINES[:2]


def test_ci_runs_the_second_command_of_the_readme():
    """The last line of .ci/run is the same text."""
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == TEST


def test_ci_run_is_a_bash_script_that_stops_at_the_first_failure():
    """Bash can parse it."""
    script = ROOT / ".ci" / "run"
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", script], check=True)


def fresh_machine(home: Path) -> dict[str, str]:
    """Return an environment with Python and nothing of this project, on any free port, so that tests do not collide."""
    ours = ("PACS_", "PYTHON", "VIRTUAL")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = f"{sys.base_prefix}/bin{os.pathsep}{inherited['PATH']}"
    return inherited | {"HOME": str(home), "PATH": path, "PACS_SERVER__PORT": "0", "PACS_WEB__PORT": "0"}


@pytest.mark.timeout(300)
def test_the_first_command_of_the_readme_serves_from_a_fresh_clone(tmp_path):
    """Clone, run the line, wait for the ready line, send a C-ECHO, stop it with SIGTERM: exit status 0."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, clone], check=True)
    typed = f"trap : TERM; {SERVE}; echo ended with $?"
    shell = subprocess.Popen(
        ["sh", "-c", typed], cwd=clone, env=fresh_machine(tmp_path), stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        ready = re.fullmatch(r"pacs is ready: AE title PACS on 127\.0\.0\.1:(\d+)\n", shell.stdout.readline())
        assert ready, "the server did not say that it is ready"
        run(f"{sys.executable}", "-m", "pynetdicom", "echoscu", "127.0.0.1", ready[1])
        assert re.fullmatch(r"pacs serves http://127\.0\.0\.1:\d+/healthz.*\n", shell.stdout.readline())
        os.killpg(shell.pid, signal.SIGTERM)
        assert shell.communicate(timeout=30)[0] == "ended with 0\n"
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
    assert (clone / "pacs-data" / "pacs.db").exists()


def at(line: str, port: int) -> str:
    """Return a line with another port."""
    return line.replace("PACS@127.0.0.1:11112", f"PACS@127.0.0.1:{port}")


CALLING = ("echo", "store", "find", "get")
"""The commands of the README that call a server."""


def test_the_first_image_in_a_minute(pacs_server, tmp_path):
    """The commands of that section, in order, against a running server: the stored image is found and retrieved."""
    lines = [line for line in LINES if line.startswith(tuple(f".venv/bin/pacs {each} PACS@" for each in CALLING))]
    shown = [typed(at(line, pacs_server.port), tmp_path) for line in lines]
    assert len(shown) == len(CALLING)
    assert "1 instance, " in shown[1]
    assert "CompressedSamples^CT1" in shown[2]
    assert len(list((tmp_path / "downloads").rglob("*.dcm"))) == 1


def typed(line: str, folder: Path) -> str:
    """Run a line in a shell, with the Python of this test run as .venv; return all that it prints."""
    line = line.replace(".venv/bin/python", shlex.quote(sys.executable))
    line = line.replace(".venv/bin/pacs", f"{shlex.quote(sys.executable)} -m pacs")
    ran = subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout + ran.stderr


def test_every_pacs_line_of_the_readme_is_typed_in_a_test():
    """The two first ones above, the others in the order of that section."""
    lines = [line for line in LINES[2:] if "pacs" in line]
    assert [line.split()[1] for line in lines] == list(CALLING)


def test_the_figures_of_the_readme_are_those_of_the_pages_it_links_to():
    """Each number in the table stands in the page that says how it is measured; 9355 as 9355 or 9,355."""
    rows = [line for line in README.splitlines() if line.startswith("|") and "](docs/" in line]
    assert len(rows) == 6
    for row in rows:
        *cells, link = row.strip("| ").split(" | ")
        page = (ROOT / re.findall(r"\]\(([^)#]+)", link)[0]).read_text("utf-8").replace(",", "")
        for figure in re.findall(r"[\d.]+", " ".join(cells[1:])):
            assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", page), (figure, row)
