"""`pacs completion`: the scripts of the shells, and what they complete."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


@pytest.fixture
def complete(pacs, tmp_path):
    """Complete the last of the given words, as the script of bash does."""
    (tmp_path / "config.toml").write_text('[server]\nae_title = "ARCHIVE"\n')
    pacs("peers", "add", "WS1", "ws", "104")
    pacs("peers", "add", "WS2", "ws", "104")
    pacs("peers", "add", "CT", "ct", "104")

    def completed(*words):
        variables = {"_PACS_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["pacs", *words])}
        lines = pacs(env=variables | {"COMP_CWORD": str(len(words))}).stdout.splitlines()
        return [each.removeprefix("plain,") for each in lines if each]

    return completed


def test_commands_and_options_are_completed(complete):
    """As click knows them."""
    assert complete("pe") == ["peers"]
    assert set(complete("peers", "")) == {"list", "echo", "add", "edit", "remove"}
    assert complete("find", "WS1", "--pass") == ["--passcode-file"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("echo", "WS"), ["WS1", "WS2"]),
        (("find", ""), ["WS1", "WS2", "CT", "ARCHIVE"]),
        (("peers", "edit", "C"), ["CT"]),
        (("peers", "remove", "CT", "WS"), ["WS1", "WS2"]),
        (("peers", "echo", "W"), ["WS1", "WS2"]),
        (("move", "CT", "-aem", "WS"), ["WS1", "WS2"]),
        (("find", "CT", "-k", "PatientBirthD"), ["PatientBirthDate", "PatientBirthDateInAlternativeCalendar"]),
        (("find", "CT", "--level", "st"), ["studies"]),
        (("ls", "im"), ["images"]),
        (("ls", "images", "PatientBirthDa"), ["PatientBirthDate", "PatientBirthDateInAlternativeCalendar"]),
        (("serve", "--set", "server.ho"), ["server.host"]),
        (("config", "show", "web.p"), ["web.port"]),
        (("store", "CT", "fol"), ["file,fol"]),
        (("find", "CT", "stu"), ["studies"]),
        (("get", "CT", "StudyInstanceU"), ["StudyInstanceUID"]),
        (("ls", "se"), ["series"]),
        (("delete", "SOPInstanceU"), ["SOPInstanceUID", "SOPInstanceUIDOfConcatenationSource"]),
    ],
)
def test_peers_and_keys_are_completed(complete, words, found):
    """AE titles of the configuration, keywords, configuration keys; files after the peer."""
    assert complete(*words) == found


def test_a_configuration_with_a_mistake_completes_nothing(complete, tmp_path):
    """And prints nothing into the command line."""
    (tmp_path / "config.toml").write_text("[server]\nprot = 1\n")
    assert complete("echo", "WS") == []


def test_bash_completes_with_the_printed_script(tmp_path):
    """In a shell."""
    script = 'eval "$(pacs completion bash)"; COMP_WORDS=(pacs passc); COMP_CWORD=1; _pacs_completion pacs passc pacs; '
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", f'{script} echo "${{COMPREPLY[@]}}"'],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("passcode\n", "")


@pytest.mark.parametrize(
    ("shell", "part"), [("zsh", "compdef _pacs_completion pacs"), ("fish", "complete --no-files --command pacs")]
)
def test_other_shells_have_a_script(pacs, shell, part):
    """That of click; another shell is a mistake."""
    assert part in pacs("completion", shell).stdout
    assert pacs("completion", "tcsh").exit_code == 2
