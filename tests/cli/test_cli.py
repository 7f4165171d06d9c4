"""The command line: output, errors and exit statuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pacs.config import load
from pacs.services.users import Credentials, User, Users

ROOT = Path(__file__).parents[2]
HEAVY = {"pydicom", "pynetdicom", "sqlalchemy", "alembic", "pydantic", "rich", "structlog"}


def test_help_imports_nothing_heavy():
    """`pacs --help` needs only click."""
    program = f"import sys, pacs.cli; print(sorted({HEAVY} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "[]"


def test_python_dash_m_pacs_is_the_same_command():
    """Where `pacs` is not in the PATH."""
    shown = subprocess.run(
        [sys.executable, "-m", "pacs", "--version"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert shown.stdout.startswith("pacs, version ")


@pytest.mark.parametrize("words", [["serve"], ["check"], ["ls"], ["import"], ["db", "check"], ["peers", "list"]])
def test_every_command_has_help(pacs, words):
    """Exit status 0."""
    result = pacs(*words, "--help")
    assert result.exit_code == 0
    assert "--config" in result.stdout


def test_an_error_in_the_configuration_is_a_sentence_and_exit_status_2(pacs):
    """No traceback; every line begins with the name of the command."""
    result = pacs("db", "check", "--set", "server.prot=1", "--set", "query.manner=rude")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "pacs: server.prot: unknown key; did you mean server.port? (command line)",
        "pacs: query.manner = 'rude': expected 'tolerant' or 'strict' (command line)",
    ]


def test_a_setting_without_a_value_is_refused(pacs):
    """With an example."""
    result = pacs("db", "check", "--set", "server.port")
    assert result.exit_code == 2
    assert "is not KEY=VALUE; expected for example server.port=0" in result.stderr


def test_the_configuration_file_can_be_named_in_the_environment(pacs, tmp_path):
    """`PACS_CONFIG` is `--config`."""
    file = tmp_path / "elsewhere.toml"
    file.write_text("[server]\nprot = 1\n")
    assert "server.prot" in pacs("peers", "list", env={"PACS_CONFIG": str(file)}).stderr


def test_a_schema_is_created_and_checked(pacs):
    """`db check`, `db upgrade`, `db check`."""
    before = pacs("db", "check")
    assert before.exit_code == 2
    assert "`pacs db upgrade`" in before.stderr
    assert pacs("db", "upgrade").exit_code == 0
    assert "already" in pacs("db", "upgrade").stdout
    assert pacs("db", "check").exit_code == 0


def test_a_peer_is_added_and_listed(pacs):
    """In the folder of the data; as JSON, and as CSV in a pipe."""
    added = pacs("peers", "add", "STORE_SCP", "127.0.0.1", "11113", "--manner", "strict", "--roles", "lenient")
    assert added.exit_code == 0
    assert '[[peers]]\nae_title = "STORE_SCP"' in added.stdout
    (peer,) = load(None, {}).peers
    assert (peer.ae_title, peer.roles) == ("STORE_SCP", "lenient")
    (listed,) = json.loads(pacs("peers", "list", "--json").stdout)
    assert listed == {
        "ae_title": "STORE_SCP", "host": "127.0.0.1", "port": 11113, "tls": "no", "manner": "strict",
        "services": "store find move get commit", "destinations": "all", "addresses": "any", "associations": 1,
        "roles": "lenient",
    }  # fmt: skip
    heads, row = pacs("peers", "list").stdout.splitlines()
    assert heads == ",".join(listed)
    assert row == ",".join(map(str, listed.values()))


def test_a_passcode_is_hashed_for_the_configuration(pacs):
    """The output is a line for a [[users]] block; the passcode is not echoed."""
    printed = pacs("passcode", input="open sesame\n").stdout
    (line,) = (each for each in printed.splitlines() if each.startswith("passcode = "))
    Path("config.toml").write_text(f'[[users]]\nname = "alice"\n{line}\n')
    (user,) = load(None, {}).users
    assert Users([User(user.name, user.passcode)], "required").identify(
        Credentials(name="alice", passcode="open sesame")
    )
    assert "sesame" not in printed


def test_a_peer_with_a_title_in_latin_1_is_added_and_listed(pacs):
    """The file has its characters, and is read again."""
    assert pacs("peers", "add", "MÜNSTER", "127.0.0.1", "104").exit_code == 0
    assert 'ae_title = "MÜNSTER"' in Path("pacs-data/peers.toml").read_text(encoding="utf-8")
    assert json.loads(pacs("peers", "list", "--json").stdout)[0]["ae_title"] == "MÜNSTER"
    assert pacs("peers", "list").stdout.splitlines()[1].startswith("MÜNSTER,")


def test_an_invalid_peer_is_not_added(pacs, tmp_path):
    """Nothing is written."""
    result = pacs("peers", "add", "A_TITLE_THAT_IS_TOO_LONG", "127.0.0.1", "0", "--roles", "generous")
    assert result.exit_code == 2
    assert "peers[1].roles" in result.stderr
    assert "peers[1].ae_title" in result.stderr
    assert "peers[1].port" in result.stderr
    assert not list(tmp_path.iterdir())
