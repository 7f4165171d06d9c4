"""`--user`, `--passcode-file`, `--token` and the options of TLS, in every command that calls another AE."""

import time

import jwt
import pytest

from pacs.services.users import hash_passcode
from pacs.testing import serving, study, write
from tests.archives import take_in
from tests.certificates import Authority

KEY = "a key of more than thirty-two bytes for HS256"


def token():
    """Return a token that is valid for an hour."""
    return jwt.encode({"sub": "carol", "exp": time.time() + 3600}, KEY, algorithm="HS256")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An archive with one instance that requires a user, and the path of that instance."""
    folder = tmp_path_factory.mktemp("archive")
    users = [{"name": "alice", "passcode": hash_passcode("open sesame")}, {"name": "bob"}]
    with serving(
        folder,
        {"access.users": "required", "users": users, "jwt.key": KEY, "commitment.same_association_seconds": 0.05},
    ) as archive:
        take_in(archive, study(series=1, instances=1))
        yield archive, write(study(series=1, instances=1), folder / "given")[0]


def commands(archive, folder):
    """Return the words of each command that calls another AE."""
    server, file = archive
    peer = f"PACS@127.0.0.1:{server.port}"
    key = ("-k", f"StudyInstanceUID={study(series=1, instances=1)[0].StudyInstanceUID}")
    return {
        "echo": ("echo", peer),
        "find": ("find", peer, *key),
        "store": ("store", peer, file),
        "commit": ("commit", peer, file),
        "get": ("get", peer, *key, "--to", folder / "got"),
        "fetch": ("fetch", peer, *key, "--to", folder / "fetched", "--port", "0"),
        "conformance run": ("conformance", "run", "--against", peer, "--only", "N1", "--yes"),
    }


@pytest.mark.parametrize("name", ["echo", "find", "store", "commit", "get", "fetch", "conformance run"])
def test_a_user_is_named_in_every_command_that_calls(pacs, archive, tmp_path, name):
    """With a passcode, and with a token; without either the association is rejected, with advice."""
    (tmp_path / "passcode").write_text("open sesame\n")
    (tmp_path / "token").write_text(token())
    words = commands(archive, tmp_path)[name]
    for options in (("--user", "alice", "--passcode-file", "passcode"), ("--user", "bob"), ("--token", "token")):
        result = pacs(*words, *options)
        assert result.exit_code == 0, result.output
    refused = pacs(*words)
    assert refused.exit_code == 4, refused.output
    if name != "conformance run":
        assert "the peer requires a user, or refuses this one" in refused.stderr


def test_a_move_names_the_user(pacs, archive, tmp_path):
    """The error is of the destination, so the association was accepted."""
    words = ("move", *commands(archive, tmp_path)["find"][1:], "-aem", "NOWHERE")
    assert pacs(*words).exit_code == 4
    assert "0xA801" in pacs(*words, "--user", "bob").stderr


def test_a_secret_comes_from_a_file_standard_input_or_is_a_token(pacs, archive, tmp_path):
    """A passcode is no option: other users can see the arguments of processes."""
    echo = commands(archive, tmp_path)["echo"]
    assert pacs(*echo, "--user", "alice", "--passcode-file", "-", input="open sesame\n").exit_code == 0
    assert pacs(*echo, "--user", "alice", "--passcode-file", "-", input="wrong\n").exit_code == 4
    assert pacs(*echo, "--token", token()).exit_code == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--user", "alice", "--token", "file"), "expected either --user NAME or --token FILE, not both"),
        (("--passcode-file", "file"), "--passcode-file needs --user NAME"),
        (("--user", "alice", "--passcode-file", "nowhere"), "cannot read 'nowhere' (No such file or directory)"),
        (("--user", "alice", "--passcode-file", "empty"), "the first line of 'empty' is empty"),
        (("--token", "binary"), "cannot read 'binary' (expected text in UTF-8)"),
        (("--user", "x" * 70000), "at most 65535 bytes"),
        (("--fingerprint", "12:34"), "expected a SHA-256 fingerprint"),
    ],
)
def test_a_mistake_in_these_options_is_one_sentence(pacs, tmp_path, options, sentence):
    """With exit status 2, before anything is sent."""
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x80")
    (tmp_path / "file").write_text("secret")
    result = pacs("echo", "PACS@127.0.0.1:1", *options)
    assert result.exit_code == 2, result.output
    assert sentence in " ".join(result.stderr.split())


def test_a_certificate_is_pinned_or_accepted_without_its_host_name(pacs, tmp_path):
    """Devices have self-signed certificates, or those of a hospital's CA for another name; each option implies TLS."""
    authority = Authority(tmp_path)
    pair = authority.sign("device", "device.example")
    keys = {"enabled": True, "only": True, "port": 0, "certificate": pair.certificate, "key": pair.key}
    with serving(tmp_path / "archive", {f"tls.{key}": value for key, value in keys.items()}) as device:
        echo = ("echo", f"PACS@127.0.0.1:{device.secure_port}")
        assert pacs(*echo, "--ca", authority.path).exit_code == 4
        assert pacs(*echo, "--fingerprint", "0" * 64).exit_code == 4
        assert pacs(*echo, "--ca", authority.path, "--no-hostname").exit_code == 0
        assert pacs(*echo, "--fingerprint", pair.fingerprint).exit_code == 0
