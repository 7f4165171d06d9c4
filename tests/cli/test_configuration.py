"""`pacs config show` and `init`: every value in force with its source, and a new file."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pacs.config import Config, load, template
from pacs.config.toml_lines import key_lines

ROOT = Path(__file__).parents[2]
FILE = """\
# mine
[server]
port = 11113
listen = [
    "127.0.0.2:104",  # [not a table]
]

[limits]   # both
"idle_seconds" = 5

[[peers]]
ae_title = "A"
host = "a"
port = 1

[[peers]]
port = 2
host = '''
b'''
ae_title = "B"
"""


def shown(pacs, *words, **options):
    """Return value and source of each key that `pacs config show` prints."""
    result = pacs("config", "show", "--json", *words, **options)
    assert result.exit_code == 0, result.output
    return {each["key"]: (each["value"], each["source"]) for each in json.loads(result.stdout)}


def test_every_value_in_force_is_shown(pacs):
    """All keys of the model; without any source they are the defaults."""
    values = shown(pacs)
    sections = {name: value for name, value in Config().model_dump(mode="json").items() if isinstance(value, dict)}
    assert set(values) == {f"{section}.{key}" for section, keys in sections.items() for key in keys}
    assert {source for _, source in values.values()} == {"default"}
    assert values["limits.decoders"] == ("auto", "default")


def test_each_value_has_its_source(pacs, tmp_path):
    """The file with the line, the variable, the option, or default; what overrides another counts."""
    (tmp_path / "config.toml").write_text(FILE.replace("'''\nb'''", "'b'"))
    (tmp_path / "key").write_text("a secret")
    pacs("peers", "add", "C", "c", "3", "--manner", "strict")
    environment = {
        "PACS_WEB__PORT": "8081",
        "PACS_QUERY__MANNER": "strict",
        "PACS_JWT__KEY_FILE": str(tmp_path / "key"),
    }
    values = shown(pacs, "--set", "query.manner=tolerant", env=environment)
    assert values["server.port"] == (11113, "config.toml:3")
    assert values["server.listen"] == (["127.0.0.2:104"], "config.toml:4")
    assert values["limits.idle_seconds"] == (5.0, "config.toml:9")
    assert values["web.port"] == (8081, "PACS_WEB__PORT")
    assert values["jwt.key"] == ("***", "PACS_JWT__KEY_FILE")
    assert values["query.manner"] == ("tolerant", "--set query.manner")
    assert values["web.host"] == ("127.0.0.1", "default")
    assert values["peers[2].host"] == ("b", "config.toml:18")
    assert values["peers[2].manner"] == (None, "default")
    assert values["peers[3].manner"] == ("strict", f"{tmp_path}/pacs-data/peers.toml:7")
    assert values["peers[3].tls"] == (False, "default")


def test_peers_of_a_variable_have_its_name(pacs):
    """And their defaults have none."""
    values = shown(pacs, "peers", env={"PACS_PEERS": '[{"ae_title": "A", "host": "a", "port": 1}]'})
    assert values["peers[1].port"] == (1, "PACS_PEERS")
    assert values["peers[1].manner"] == (None, "default")


def test_secrets_are_masked(pacs, tmp_path):
    """Passcodes, keys, and passwords in a URL, also in messages."""
    url = "postgresql://pacs:p@ss:w@db.local/pacs?sslpassword=hidden&sslmode=require"
    variables = {
        "PACS_DATABASE__URL": url,
        "PACS_JWT__KEY": "a key of more than thirty-two bytes for HS256",
        "PACS_USERS": '[{"name": "alice", "passcode": ""}]',
    }
    values = shown(pacs, env=variables)
    assert values["database.url"][0] == "postgresql://pacs:***@db.local/pacs?sslpassword=***&sslmode=require"
    for query in ("PASSWORD=hidden", "passwor%64=hidden", "a=1&ssl%70assword=hidden", "p%61ss=hidden"):
        text = str(shown(pacs, "database.url", env={"PACS_DATABASE__URL": f"postgresql://db.local/pacs?{query}"}))
        assert "hidden" not in text
    assert values["jwt.key"][0] == "***"
    assert values["users[1].passcode"][0] == ""
    hashed = pacs("passcode", input="secret").stdout.partition('"')[2].rstrip().rstrip('"')
    (tmp_path / "config.toml").write_text(f'[[users]]\nname = "alice"\npasscode = "{hashed}"\n')
    assert shown(pacs, "users")["users[1].passcode"] == ("***", "config.toml:3")
    wrong = pacs("config", "show", env={"PACS_DATABASE__URL": url.replace("postgresql", "mysql")})
    assert wrong.exit_code == 2
    assert "ss:w" not in wrong.stderr


def test_sections_and_keys_can_be_chosen(pacs):
    """As CSV in a pipe; an unknown one is a mistake."""
    rows = list(csv.reader(io.StringIO(pacs("config", "show", "web", "server.port").stdout)))
    assert [each[0] for each in rows] == ["key", "server.port", "web.enabled", "web.host", "web.port", "web.tls"]
    assert rows[2] == ["web.enabled", "true", "default"]
    unknown = pacs("config", "show", "webb")
    assert unknown.exit_code == 2
    assert "there is no value of 'webb'; `pacs config show` lists them" in unknown.stderr


def test_a_new_file_has_every_key_with_its_default_and_a_comment(pacs, tmp_path):
    """It is the file of the repository, in the package too."""
    assert pacs("config", "init").exit_code == 0
    assert (tmp_path / "config.toml").read_text() == (ROOT / "config.toml").read_text() == template()
    assert load(None, {}) == load(tmp_path / "config.toml", {})
    assert {source for _, source in shown(pacs).values() if source == "default"} == set()
    assert pacs("config", "init", "other.toml").exit_code == 0
    assert (tmp_path / "other.toml").stat().st_mode & 0o777 == 0o644
    assert pacs("config", "init", "nowhere/config.toml").exit_code == 2


def test_an_existing_file_is_not_replaced_without_a_question(pacs, tmp_path):
    """Without a terminal it is refused; --yes replaces it."""
    file = tmp_path / "config.toml"
    file.write_text("# mine\n")
    refused = pacs("config", "init")
    assert refused.exit_code == 2
    assert "'config.toml' exists; expected another FILE, or --yes to replace it" in refused.stderr
    assert file.read_text() == "# mine\n"
    assert pacs("config", "init", "--yes").exit_code == 0
    assert file.read_text() == template()


@pytest.mark.parametrize(("answer", "replaced"), [(b"n\n", False), (b"y\n", True)])
def test_on_a_terminal_the_user_is_asked(tmp_path, answer, replaced):
    """With the name of the file."""
    file = tmp_path / "config.toml"
    file.write_text("# mine\n")
    control, terminal = pty.openpty()
    os.write(control, answer)
    asked = subprocess.run(
        [sys.executable, "-m", "pacs", "config", "init"],
        cwd=tmp_path, stdin=terminal, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    os.close(control)
    os.close(terminal)
    assert "Replace config.toml? [y/N]" in asked.stdout
    assert (asked.returncode, file.read_text() != "# mine\n") == ((0, True) if replaced else (1, False))


# --- lines of keys -----------------------------------------------------------------------------------------------


def test_the_line_of_a_key_is_where_it_begins():
    """In tables, lists of tables, dotted keys and inline tables; brackets in values and comments are no tables."""
    assert key_lines(FILE) == {
        "server": 2, "server.port": 3, "server.listen": 4, "limits": 8, "limits.idle_seconds": 9,
        "peers": 11, "peers[1].ae_title": 12, "peers[1].host": 13, "peers[1].port": 14,
        "peers[2].port": 17, "peers[2].host": 18, "peers[2].ae_title": 20,
    }  # fmt: skip
    inline = key_lines('a.b = 1\npeers = [\n  {x = 1},\n  {x = 2}]\nc = {d = """\n[e]\n"""}\n')
    assert inline == {"a": 1, "a.b": 1, "peers": 2, "peers[1].x": 2, "peers[2].x": 2, "c": 5, "c.d": 5}
    assert key_lines("") == {}


VALUES = some.sampled_from(
    ['"text"', "1", "true", '[\n "a",\n "[b]",\n]', '"""\n[c]\nd = 1\n"""', "'''\n'''", "[1, 2] # x"]
)


@given(
    some.lists(
        some.tuples(some.sampled_from(["[t{}]", "[[list]]", "# comment\n[t{}]"]), some.lists(VALUES, max_size=4))
    )
)
def test_every_key_of_a_file_has_the_line_it_is_written_in(found):
    """Whatever values are around it."""
    text, expected, entries = "", {}, 0
    for number, (header, values) in enumerate(found):
        text += header.format(number) + "\n"
        entries += header == "[[list]]"
        name = f"list[{entries}]" if header == "[[list]]" else f"t{number}"
        for place, value in enumerate(values):
            expected[f"{name}.k{place}"] = text.count("\n") + 1
            text += f"k{place} = {value}\n"
    assert tomllib.loads(text) is not None
    lines = key_lines(text)
    assert {key: lines.get(key) for key in expected} == expected
