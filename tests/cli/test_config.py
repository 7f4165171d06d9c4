"""The configuration: sources of values, invalid values and error messages."""

import re
import tomllib
from pathlib import Path

import pytest

from pacs.config import Config, PeerEntry, from_settings, load
from pacs.config.error_messages import keys
from pacs.config.model import MannerName
from pacs.dicom.matching_mode import MATCHING_MODES
from pacs.errors import ConfigurationError

SHIPPED = Path(__file__).parents[2] / "config.toml"


@pytest.fixture
def file(tmp_path):
    """Return the path of a configuration file that does not exist yet."""
    return tmp_path / "config.toml"


def complaint(file, text, environment=None, flags=None):
    """Return the error message for a configuration."""
    file.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        load(file, environment or {}, flags or {})
    return refused.value.comment


def flat(table):
    """Return nested tables by dotted key."""
    return {f"{section}.{key}": value for section, part in table.items() for key, value in part.items()}


def test_the_shipped_file_has_every_key_with_its_default():
    """config.toml and the model agree."""
    shown = flat(tomllib.loads(SHIPPED.read_text()))
    defaults = flat(Config().model_dump(mode="json", exclude={"peers", "users"}))
    assert shown == defaults


def test_every_key_of_the_shipped_file_has_a_comment():
    """config.toml alone explains each key."""
    for line in SHIPPED.read_text().splitlines():
        assert "=" not in line.split("#")[0] or "#" in line, line


def test_the_example_peer_of_the_shipped_file_is_valid(file):
    """With every key there is, after removing the comment signs."""
    example = re.sub(r"(?m)^# ", "", SHIPPED.read_text().partition("# [[peers]]\n")[2]).partition("\n\n")[0]
    file.write_text("[[peers]]\n" + example)
    (peer,) = load(file, {}).peers
    assert peer == PeerEntry.model_validate(tomllib.loads(example))
    assert set(tomllib.loads(example)) == set(PeerEntry.model_fields)


def test_the_matching_modes_of_the_configuration_are_those_of_the_core():
    """`query.manner` names exactly these."""
    assert set(MannerName.__args__) == set(MATCHING_MODES)


def test_the_defaults_need_no_file(tmp_path, monkeypatch):
    """Data in the working directory, reachable from this machine only."""
    monkeypatch.chdir(tmp_path)
    config = load(None, {}, {})
    assert (config.server.ae_title, config.server.host, config.server.port) == ("PACS", "127.0.0.1", 11112)
    assert config.database.url == f"sqlite:///{tmp_path}/pacs-data/pacs.db"
    assert config.files.url == f"{tmp_path}/pacs-data/files"


def test_the_file_of_the_working_directory_is_the_default(tmp_path, monkeypatch):
    """`./config.toml`, if it exists."""
    monkeypatch.chdir(tmp_path)
    Path("config.toml").write_text('[server]\nae_title = "HERE"\n')
    assert load(None, {}, {}).server.ae_title == "HERE"


def test_flags_override_environment_and_environment_overrides_the_file(file):
    """One key given three times."""
    file.write_text("[server]\nport = 1\n")
    assert load(file, {}).server.port == 1
    assert load(file, {"PACS_SERVER__PORT": "2"}).server.port == 2
    assert load(file, {"PACS_SERVER__PORT": "2"}, {"server.port": 3}).server.port == 3


def test_relative_paths_start_from_the_folder_of_the_file(file, monkeypatch):
    """Also that in a SQLite URL, for any working directory."""
    monkeypatch.chdir("/")
    file.write_text('[database]\nurl = "sqlite:///my.db"\n[files]\nurl = "kept"\n')
    config = load(file, {})
    assert config.database.url == f"sqlite:///{file.parent}/my.db"
    assert config.files.url == f"{file.parent}/kept"


def test_absolute_paths_and_server_databases_are_unchanged(file):
    """No folder is prepended."""
    file.write_text('[database]\nurl = "postgresql+psycopg://me@db/pacs"\n[files]\nurl = "/srv/kept"\n')
    config = load(file, {})
    assert (config.database.url, config.files.url) == ("postgresql+psycopg://me@db/pacs", "/srv/kept")
    file.write_text('[database]\nurl = "sqlite:////srv/my.db"\n')
    assert load(file, {}).database.url == "sqlite:////srv/my.db"


def test_a_secret_is_read_from_the_file_in_its_variable(file, tmp_path):
    """`_FILE` after any key; the final newline is dropped."""
    file.write_text("")
    secret = tmp_path / "secret"
    secret.write_text("postgresql+psycopg://me:hush@db/pacs\n")
    config = load(file, {"PACS_DATABASE__URL_FILE": str(secret)})
    assert config.database.url == "postgresql+psycopg://me:hush@db/pacs"
    assert "hush" not in repr(config)


def test_a_secret_that_cannot_be_read_or_is_given_twice_is_an_error(file, tmp_path):
    """With the names of the variables."""
    missing = {"PACS_DATABASE__URL_FILE": str(tmp_path / "nowhere")}
    assert "PACS_DATABASE__URL_FILE" in complaint(file, "", missing)
    said = complaint(file, "", {**missing, "PACS_DATABASE__URL": "sqlite:///x.db"})
    assert "PACS_DATABASE__URL and PACS_DATABASE__URL_FILE" in said


def test_peers_can_be_given_in_the_environment_as_json(file):
    """The one key that is a list."""
    file.write_text("")
    config = load(file, {"PACS_PEERS": '[{"ae_title": "WS", "host": "ws.local", "port": 104}]'})
    assert config.peers == (PeerEntry(ae_title="WS", host="ws.local", port=104),)
    assert "PACS_PEERS: expected a JSON list" in complaint(file, "", {"PACS_PEERS": "WS"})


def test_an_empty_variable_is_ignored(file):
    """Compose files set variables to nothing."""
    file.write_text("")
    assert load(file, {"PACS_SERVER__PORT": ""}).server.port == 11112


def test_other_variables_with_the_prefix_are_ignored(file):
    """A name without double underscore is not a key."""
    file.write_text("")
    assert load(file, {"PACS_TEST_POSTGRES_URL": "x", "PACS_CONFIG": "y"}) == load(file, {})


PEER = '[[peers]]\nae_title = "WS"\nhost = "h"\nport = 104\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nport = 99999\n", "server.port = 99999: expected at most 65535"),
        ("[server]\nport = -1\n", "server.port = -1: expected at least 0"),
        ('[server]\nport = "many"\n', "server.port = 'many': expected a number"),
        ("[server]\nae_title = 5\n", "server.ae_title = 5: expected text in quotes"),
        ('[server]\nae_title = ""\n', "server.ae_title = '': expected an AE title of 1 to 16 characters"),
        ('[server]\nae_title = "   "\n', "expected an AE title of 1 to 16 characters"),
        ('[server]\nae_title = "SEVENTEEN_LETTERS"\n', "expected an AE title of 1 to 16 characters"),
        (r"[server]" + "\nae_title = 'A\\B'\n", "without backslash or control characters"),
        ('[server]\nae_title = "A\\nB"\n', "without backslash or control characters"),
        ('[server]\nae_title = "PÄCS"\n', "expected an AE title of ASCII characters"),
        (PEER.replace("WS", "ПАКС"), "expected an AE title of ASCII or Latin-1 characters"),
        (PEER.replace("WS", "A\\\\B"), "without backslash or control characters"),
        (PEER.replace("WS", "A\\u0085B"), "without backslash or control characters"),
        (PEER.replace("WS", "SEVENTEEN_LETTERS"), "expected an AE title of 1 to 16 characters"),
        ('[server]\nhost = "two words"\n', "expected a host name or an IP address"),
        ('[access]\ncallers = "all"\n', "access.callers = 'all': expected 'anyone' or 'peers'"),
        ('[access]\nopen_to_network = "perhaps"\n', "access.open_to_network = 'perhaps': expected true or false"),
        ('[database]\nheal = "maybe"\n', "database.heal = 'maybe': expected true or false or 'answer'"),
        ("[limits]\ndecoders = 0\n", "limits.decoders = 0: expected 'auto' or at least 1"),
        ('[query]\nmanner = "rude"\n', "query.manner = 'rude': expected 'tolerant' or 'strict'"),
        ('[database]\nurl = "mysql://h/db"\n', "expected sqlite:///FILE or postgresql+psycopg://"),
        ('[database]\nurl = "sqlite:///:memory:"\n', "expected sqlite:///FILE"),
        ('[files]\nurl = "ftp://h/x"\n', "files.url = 'ftp://h/x': expected a folder"),
        ("[limits]\nidle_seconds = 0\n", "limits.idle_seconds = 0: expected more than 0"),
        ("[limits]\nidle_seconds = inf\n", "limits.idle_seconds = inf: expected a finite number"),
        ("server = 3\n", "server = 3: expected a table"),
        ("peers = 3\n", "peers = 3: expected a list"),
        ("[[peers]]\nae_title = 'X'\n", "peers[1].host: missing"),
        ("[[peers]]\nae_title = 'X'\nhost = 'h'\nport = 0\n", "peers[1].port = 0: expected at least 1"),
        (
            "[[peers]]\nae_title = 'X'\nhost = 'h'\nport = 1\ntransfer_syntaxes = ['CT']\n",
            "peers[1].transfer_syntaxes[1] = 'CT': expected a transfer syntax",
        ),
        (
            "[[peers]]\nae_title = 'X'\nhost = 'h'\nport = 1\nsend_as = ['rle', 'JPEGBaseline8Bit']\n",
            "peers[1].send_as[2] = 'JPEGBaseline8Bit': nothing is converted into 'JPEGBaseline8Bit': expected "
            "explicit, implicit, rle, jpegls, j2k, htj2k",
        ),
        ("[[peers]]\nae_title='X'\nhost='h'\nport=1\n" * 2, "AE titles more than once: X"),
        ("[server\n", "is not TOML in UTF-8"),
    ],
)
def test_an_invalid_value_is_an_error_with_key_value_and_expectation(file, text, said):
    """And the name of the file."""
    comment = complaint(file, text)
    assert said in comment
    assert "config.toml" in comment


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nprot = 5\n", "server.prot: unknown key; did you mean server.port?"),
        ("port = 5\n", "port: unknown key; did you mean server.port?"),
        ("[sever]\nport = 5\n", "sever: unknown key; did you mean server?"),
        (
            "[[peers]]\nae_title='X'\nhots='h'\nport=1\n",
            "peers[1].hots: unknown key; did you mean peers[1].host?",
        ),
        ("[server]\nfrobnicate = 5\n", "server.frobnicate: unknown key (/"),
    ],
)
def test_an_unknown_key_is_an_error_with_a_suggestion(file, text, said):
    """A typing error is never ignored."""
    assert said in complaint(file, text)


def test_an_unknown_key_of_the_environment_is_an_error_with_the_variable(file):
    """Not only those of the file."""
    said = complaint(file, "", {"PACS_SERVER__PROT": "5"})
    assert said == "server.prot: unknown key; did you mean server.port? (PACS_SERVER__PROT)"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PACS_SERVR__PORT": "5"}, "servr: unknown key; did you mean server? (PACS_SERVR__PORT)"),
        ({"PACS_SERVER_PORT": "5"}, "unknown variable PACS_SERVER_PORT; did you mean PACS_SERVER__PORT?"),
        ({"PACS_PEERS": '[{"ae_title": "X", "host": "h", "port": 0}]'}, "peers[1].port = 0: expected at least 1 (PACS"),
    ],
)
def test_an_error_in_the_environment_names_the_variable(file, environment, said):
    """An unknown section, one underscore instead of two, a peer in a list."""
    assert said in complaint(file, "", environment)


def test_variables_of_kubernetes_are_no_error(file):
    """A service named pacs-server gets PACS_SERVER_PORT."""
    file.write_text("")
    assert (
        load(file, {"PACS_SERVER_PORT": "tcp://10.0.0.1:104", "PACS_PORT": "tcp://10.0.0.1:104"}).server.port == 11112
    )


def test_true_is_not_a_number(file):
    """Although bool is an int in Python."""
    assert complaint(file, "[server]\nport = true\n").startswith("server.port = True: expected a number (")


def test_an_error_without_a_file_names_none():
    """An error of several keys together has no origin."""
    with pytest.raises(ConfigurationError, match=r"open_to_network = true if this is intended$"):
        from_settings({"server.host": "0.0.0.0"})


def test_all_errors_are_listed(file):
    """Three errors from three sources, three lines."""
    said = complaint(file, "[server]\nprot = 1\n", {"PACS_QUERY__MANNER": "x"}, {"limits.pdu_size": "1"})
    assert len(said.splitlines()) == 3
    assert "(PACS_QUERY__MANNER)" in said
    assert "(command line)" in said


def test_a_password_is_never_shown(file):
    """Not even if the URL is invalid."""
    said = complaint(file, '[database]\nurl = "mysql://me:hush@h/db"\n')
    assert "hush" not in said
    assert "me:***@h" in said


def test_a_missing_configuration_file_is_an_error(tmp_path):
    """Only ./config.toml may be missing."""
    with pytest.raises(ConfigurationError, match="does not exist; check --config"):
        load(tmp_path / "nowhere.toml", {}, {})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_addresses_need_no_consent(file, host):
    """They are not reachable from the network."""
    file.write_text(f'[server]\nhost = "{host}"\n')
    assert load(file, {}).server.host == host


def test_an_ipv6_address_may_be_in_brackets(file):
    """As in an address with a port."""
    file.write_text('[server]\nhost = "[::1]"\n')
    assert load(file, {}).server.host == "::1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "pacs.hospital"])
def test_the_network_needs_consent_or_access_control(file, host):
    """An error until one of the keys is changed."""
    text = f'[server]\nhost = "{host}"\n'
    assert "access.open_to_network = true" in complaint(file, text)
    for consent in ("open_to_network = true", 'callers = "peers"'):
        file.write_text(f"{text}[access]\n{consent}\n")
        assert load(file, {}).server.host == host


def test_the_web_listener_needs_the_same_consent(file):
    """Unless it is off."""
    assert "web.host" in complaint(file, '[web]\nhost = "0.0.0.0"\n')
    file.write_text('[web]\nenabled = false\nhost = "0.0.0.0"\n')
    assert not load(file, {}).web.enabled


def test_transfer_syntaxes_are_named_by_keyword_or_uid(file):
    """Both become UIDs."""
    names = ["ExplicitVRLittleEndian", "1.2.840.10008.1.2"]
    file.write_text(f"[[peers]]\nae_title = 'X'\nhost = 'h'\nport = 1\ntransfer_syntaxes = {names}\n")
    assert load(file, {}).peers[0].transfer_syntaxes == ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")


def test_what_a_peer_is_sent_as_is_named_by_short_name_keyword_or_uid(file):
    """All become UIDs; what is lossy is refused."""
    names = ["jpegls", "JPEG2000Lossless", "1.2.840.10008.1.2.5", "implicit"]
    file.write_text(f"[[peers]]\nae_title = 'X'\nhost = 'h'\nport = 1\nsend_as = {names}\n")
    assert load(file, {}).peers[0].send_as == (
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.5",
        "1.2.840.10008.1.2",
    )


def test_suggestions_know_all_keys():
    """From the model."""
    assert {"server.port", "limits.cancel_grace", "peers[1].manner"} <= set(keys())


@pytest.mark.parametrize("text", ['["OLD", "OLDER"]', "OLD,OLDER", " OLD , OLDER "])
def test_a_list_can_be_given_as_text(text):
    """In the environment and by --set: as JSON, or separated by commas."""
    assert load(None, {"PACS_SERVER__ALIASES": text}).server.aliases == ("OLD", "OLDER")
    assert load(None, {}, {"server.aliases": text}).server.aliases == ("OLD", "OLDER")
    with pytest.raises(ConfigurationError, match="expected a JSON list"):
        load(None, {"PACS_SERVER__ALIASES": "[OLD"})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[access]\nusers = "required"\n', "else every association is rejected"),
        (
            '[tls]\nenabled = true\ncertificate = "a"\nkey = "b"\n[[peers]]\nae_title = "X"\nhost = "h"\nport = 1\n'
            f'certificates = ["{"ab" * 32}"]\n',
            "[[peers]] has certificates for X, but no certificate is requested",
        ),
    ],
)
def test_settings_that_reject_everyone_are_an_error(file, text, why):
    """Before the first association."""
    file.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        load(file, {})
    assert why in refused.value.comment


def test_removed_keys_are_ignored(file):
    """A configuration of the previous release still works, whatever the value was."""
    file.write_text("[limits]\nnesting = 7\nquery_page = 3\nelements = 5\n")
    assert load(file, {"PACS_LIMITS__QUERY_PAGE": "9"}).limits.elements == 5
