"""What README.md tells people to type works, and is what CI types."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pacs import client
from pacs.cli import main
from pacs.config import load
from pacs.testing import study, write
from tests.programs import PATIENCE, run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]
SERVE, TEST = LINES[:2]


def test_ci_runs_the_second_command_of_the_readme():
    """The last line of .ci/run is the same text."""
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == TEST


def test_ci_run_is_a_bash_script_that_stops_at_the_first_failure():
    """And that bash can read."""
    script = ROOT / ".ci" / "run"
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", script], check=True)


def fresh_machine(home: Path) -> dict[str, str]:
    """The environment of somebody who has Python and nothing of ours; any free port, so that tests do not collide."""
    ours = ("PACS_", "PYTHON", "VIRTUAL")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = f"{sys.base_prefix}/bin{os.pathsep}{inherited['PATH']}"
    return inherited | {"HOME": str(home), "PATH": path, "PACS_SERVER__PORT": "0", "PACS_WEB__PORT": "0"}


@pytest.mark.timeout(300)
def test_the_first_command_of_the_readme_serves_from_a_fresh_clone(tmp_path):
    """Clone, type the line, see that it is ready, echo it, stop it with SIGTERM: it ends well."""
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
    """A line for another server than the one of the README."""
    return line.replace("PACS@127.0.0.1:11112", f"PACS@127.0.0.1:{port}")


CALLING = ("echo", "store", "find", "get")
"""The commands of the README that call a server."""


def test_the_first_image_in_a_minute(pacs_server, tmp_path):
    """The commands of that section, in order, against a running server; what was stored is found and comes back."""
    lines = [line for line in LINES if line.startswith(tuple(f".venv/bin/pacs {each} PACS@" for each in CALLING))]
    shown = [typed(at(line, pacs_server.port), tmp_path) for line in lines]
    assert len(shown) == len(CALLING)
    assert "1 instance, " in shown[1]
    assert "CompressedSamples^CT1" in shown[2]
    assert len(list((tmp_path / "downloads").rglob("*.dcm"))) == 1


def test_the_python_of_the_readme_downloads_the_study(pacs_server, tmp_path):
    """The block, as it stands there."""
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    client.store(f"PACS@127.0.0.1:{pacs_server.port}", study("CompressedSamples^CT1", series=1, instances=2))
    program = tmp_path / "program.py"
    program.write_text(at(block, pacs_server.port))
    subprocess.run([sys.executable, program], cwd=tmp_path, check=True, timeout=PATIENCE)
    assert len(list((tmp_path / "downloads").rglob("*.dcm"))) == 2


def typed(line: str, folder: Path) -> str:
    """Type a line into a shell whose .venv is the Python of this test run; return all it prints."""
    line = line.replace(".venv/bin/python", shlex.quote(sys.executable))
    line = line.replace(".venv/bin/pacs", f"{shlex.quote(sys.executable)} -m pacs")
    ran = subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout + ran.stderr


def leaves(command: click.Command, name: str):
    """The full names of the commands below `command`, itself among them where it does something alone."""
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield name
    if isinstance(command, click.Group):
        for each, child in command.commands.items():
            yield from leaves(child, f"{name} {each}")


def test_the_table_of_commands_has_every_command_there_is():
    """And no other."""
    table = README.partition("| command |")[2].partition("\n\n")[0]
    told = set(re.findall(r"`(pacs(?: [a-z]+)+)", table))
    assert told == set(leaves(main, "pacs"))


def pacs_lines():
    """The arguments of each `pacs` line of the README."""
    for words in (shlex.split(line, comments=True) for line in LINES):
        if ".venv/bin/pacs" in words:
            yield words[words.index(".venv/bin/pacs") + 1 :]


def test_every_pacs_line_of_the_readme_does_what_it_says(tmp_path, monkeypatch):
    """Typed one after the other in an empty folder, with a folder to import; `serve` lines are only understood."""
    monkeypatch.chdir(tmp_path)
    write(study("ALLISON^ANN", series=1, instances=2), tmp_path / "folder")
    shown = ""
    for arguments in pacs_lines():
        if arguments[0] in CALLING:
            continue  # typed in a test of their own
        if arguments[0] == "serve":
            main.commands["serve"].make_context("serve", arguments[1:])
            continue
        here = [argument.replace("/path/to/", "") for argument in arguments]
        result = CliRunner().invoke(main, here)
        assert result.exit_code == 0, (here, result.output)
        shown += result.stdout
    assert "2 stored, 0 already stored, 0 refused" in shown
    assert "ALLISON^ANN" in shown
    assert [peer.ae_title for peer in load(None, {}).peers] == ["STORE_SCP"]


def test_the_configuration_the_readme_shows_can_be_used(tmp_path):
    """Each block of TOML is one that is read."""
    for number, block in enumerate(re.findall(r"```toml\n(.*?)```", README, re.DOTALL)):
        file = tmp_path / f"{number}.toml"
        file.write_text(block)
        load(file, {})


def test_the_files_the_readme_links_to_are_there():
    """No link leads nowhere."""
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
