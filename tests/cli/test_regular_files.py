"""Files that a user names: what is no regular file is refused with its name, and no command waits for it.

And files that have nothing.
"""

import os

import pytest


def make_pipe(path):
    """Make a pipe that nobody writes to."""
    os.mkfifo(path)


def make_device(path):
    """Make a link to a device that has no end."""
    path.symlink_to("/dev/zero")


IRREGULAR = {make_pipe: "it is no regular file", make_device: "it is no regular file", os.mkdir: "it is a folder"}


@pytest.fixture(params=IRREGULAR, ids=lambda make: make.__name__)
def irregular(request, tmp_path):
    """The path `it` of a pipe, a device or a folder, and what commands say of it."""
    request.param(tmp_path / "it")
    return tmp_path / "it", IRREGULAR[request.param]


@pytest.mark.parametrize("words", [("peers", "list"), ("peers", "add", "A", "a", "104"), ("check",)])
def test_peers_toml(pacs, tmp_path, irregular, words):
    """It is called a peers file, not a configuration file."""
    path, said = irregular
    (tmp_path / "pacs-data").mkdir()
    path.rename(tmp_path / "pacs-data" / "peers.toml")
    result = pacs(*words)
    assert result.exit_code == 2
    assert f"cannot read peers file '{tmp_path}/pacs-data/peers.toml' ({said})" in result.output


@pytest.mark.parametrize("name", ["config.toml", "other.toml"])
def test_the_configuration_file(pacs, irregular, tmp_path, name):
    """With --config, and ./config.toml, which container runtimes make a folder if the host has no such file."""
    path, said = irregular
    path.rename(tmp_path / name)
    result = pacs("peers", "list", *(() if name == "config.toml" else ("--config", name)))
    assert result.exit_code == 2
    assert f"cannot read configuration file '{name}' ({said})" in result.output


def test_a_file_with_a_secret_of_the_configuration(pacs, irregular, monkeypatch):
    """Its variable is named."""
    path, said = irregular
    monkeypatch.setenv("PACS_DATABASE__URL_FILE", str(path))
    result = pacs("peers", "list")
    assert result.exit_code == 2
    assert f"PACS_DATABASE__URL_FILE: cannot read file '{path}' ({said})" in result.output


@pytest.mark.parametrize(
    ("options", "key"), [(("--ca", "it"), "ca"), (("--cert", "it", "--cert-key", "it"), "certificate")]
)
def test_certificates_and_keys(pacs, irregular, options, key):
    """Of the client; the server reads its own in the same way."""
    _, said = irregular
    result = pacs("echo", "A@127.0.0.1:1", *options)
    assert result.exit_code == 2
    assert f"{key} = 'it': cannot be read ({said})" in result.output


@pytest.mark.parametrize("words", [("import",), ("store", "A@127.0.0.1:1"), ("dump",), ("render",), ("replay",)])
def test_instances_and_recordings(pacs, irregular, words):
    """A folder is what `import` and `store` take, too."""
    result = pacs(*words, "it")
    assert result.exit_code in (1, 2)
    assert "it" in result.stderr
    assert "Traceback" not in result.output


def test_scenarios(pacs, irregular):
    """Of the server."""
    result = pacs("serve", "--scenario", "it")
    assert result.exit_code == 2
    assert "scenario file" in result.output


def test_a_passcode_may_come_from_a_pipe_but_not_without_end(pacs, tmp_path):
    """Shells make pipes of programs, as in `--passcode-file <(pass show pacs)`."""
    read, write = os.pipe()
    os.write(write, b"secret\n")
    os.close(write)
    said = pacs("echo", "A@127.0.0.1:1", "--user", "ANN", "--passcode-file", f"/dev/fd/{read}")
    os.close(read)
    assert said.exit_code == 4
    said = pacs("echo", "A@127.0.0.1:1", "--user", "ANN", "--passcode-file", "/dev/zero")
    assert said.exit_code == 2


# --- empty files -------------------------------------------------------------------------------------------------

EMPTY = {b"": "Not a DICOM file", bytes(128) + b"DICM": "The file ends after its preamble"}


@pytest.mark.parametrize("words", [("import",), ("store", "A@127.0.0.1:1"), ("dump",), ("dump", "--json"), ("render",)])
@pytest.mark.parametrize("content", EMPTY)
def test_a_file_without_elements_is_an_error(pacs, tmp_path, words, content):
    """It has neither pixel data nor UIDs, but that is not what is wrong with it."""
    (tmp_path / "it").write_bytes(content)
    result = pacs(*words, "it")
    assert result.exit_code == 1
    assert EMPTY[content] in result.stderr
