"""The exit statuses of docs/reference/commands.md, for every command and each kind of failure.

0 success, 1 failure, 2 mistake, 3 some failed, 4 no association, 130 Ctrl-C.
"""

import socket
from contextlib import contextmanager
from threading import Thread

import click
import pytest

from pacs.cli import main
from pacs.testing import Fault, serving, study, write
from tests.archives import take_in
from tests.cli.test_verbosity import leaves
from tests.programs import free_port

COMMANDS = [*leaves(main)]
DATASETS = study(series=1, instances=2)
KEY = ("-k", f"StudyInstanceUID={DATASETS[0].StudyInstanceUID}")

ARGUMENTS = {
    "import": ("{good}",),
    "export": ("{out}", "--all"),
    "delete": ("PatientID=P1", "--yes"),
    "explain": ("-k", "PatientID=P1"),
    "backup": ("{out}",),
    "restore": ("{copy}",),
    "peers add": ("NEW", "127.0.0.1", "104"),
    "peers edit": ("WS", "--port", "105"),
    "peers remove": ("WS",),
    "dump": ("1.2.3",),
    "render": ("1.2.3",),
}
"""Valid arguments of commands that need some and call no other AE."""

CALLING = {
    "echo": (),
    "find": KEY,
    "store": ("{good}",),
    "commit": ("{good}",),
    "get": (*KEY, "--to", "{out}"),
    "fetch": (*KEY, "--to", "{out}", "--port", "0"),
    "move": (*KEY, "-aem", "NOWHERE"),
}
"""Arguments after PEER of commands that call one."""

ARCHIVE = (
    "db upgrade",
    "db check",
    "import",
    "ls",
    "export",
    "delete",
    "explain",
    "fsck",
    "reindex",
    "backup",
    "check",
)
"""Commands that need index or files."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with two valid files, a damaged one, and a backup of the valid ones."""
    folder = tmp_path_factory.mktemp("files")
    good, other = write(DATASETS, folder / "good")
    (folder / "bad").mkdir()
    damaged = folder / "bad" / "damaged.dcm"
    damaged.write_bytes(good.read_bytes()[:-100])
    return {"good": str(good), "other": str(other), "damaged": str(damaged), "folder": str(folder)}


@pytest.fixture
def run(pacs, files, tmp_path):
    """Run a command by its words, which may name `files`, in a folder with a configured peer WS that is off."""
    pacs("peers", "add", "WS", "127.0.0.1", free_port())
    (tmp_path / "copy").mkdir()

    def run(*words, **more):
        given = files | {"out": str(tmp_path / "out"), "copy": str(tmp_path / "copy")} | more
        result = pacs(*(str(each).format(**given) for each in words))
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with two instances, to which tests add faults."""
    with serving(
        tmp_path_factory.mktemp("server"), {"commitment.same_association_seconds": 0.05}, watched=True
    ) as server:
        take_in(server, DATASETS)
        server.add_peer("NOWHERE", "127.0.0.1", free_port())
        yield server


@contextmanager
def failing(server, **fault):
    """Let a server have a fault."""
    server.faults.add(Fault(**fault))
    try:
        yield f"PACS@127.0.0.1:{server.port}"
    finally:
        server.faults.clear()


def said(result):
    """Return what was printed on standard error on one line."""
    return " ".join(result.stderr.split())


# --- 2: mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_mistake_in_the_command_line_has_2(run, words):
    """An unknown option, before anything is done."""
    result = run(*words, "--no-such-option")
    assert result.exit_code == 2
    assert "No such option" in result.stderr


def configured(words):
    """Whether a command has `--config`."""
    command = main
    for each in words:
        assert isinstance(command, click.Group)
        command = command.commands[each]
    return any(each.name == "config_file" for each in command.params)


@pytest.mark.parametrize("words", [each for each in COMMANDS if configured(each)], ids=" ".join)
@pytest.mark.parametrize("mistake", ["nowhere", "unknown key"])
def test_a_mistake_in_the_configuration_has_2(run, tmp_path, words, mistake):
    """With the file, or the key. Commands with PEER read the configuration where it is an AE title."""
    name = " ".join(words)
    (tmp_path / "wrong.toml").write_text("[server]\nprot = 1\n")
    file = "nowhere.toml" if mistake == "nowhere" else "wrong.toml"
    arguments = ("WS", *CALLING[name]) if name in CALLING else ARGUMENTS.get(name, ())
    result = run(*words, *arguments, "--config", file)
    assert result.exit_code == 2, result.output
    expected = {"nowhere": "'nowhere.toml' does not exist", "unknown key": "server.prot: unknown key"}[mistake]
    assert expected in said(result) or "Missing argument" in said(result)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("import", "nowhere"), "does not exist"),
        (("ls", "stduies"), "stduies"),
        (("find", "WS", "-k", "PatientNam=X"), "did you mean PatientName?"),
        (("find", "NOBODY"), "'NOBODY' is not a configured peer"),
        (("echo", "WS", "PatientID=P1"), "unexpected argument 'PatientID=P1'"),
        (("find", "WS", "Patient=1"), "did you mean PatientID?"),
        (("ls", "Patient=1"), "did you mean PatientID?"),
        (("delete", "Patient=1"), "did you mean PatientID?"),
        (("export", "{out}", "Patient=1"), "did you mean PatientID?"),
        (("echo", "a@b:c"), "A peer is AE_TITLE@HOST:PORT"),
        (("store", "WS"), "no paths given"),
        (("store", "WS", "nowhere"), "does not exist"),
        (("move", "WS", *KEY, "-aem", "X", "--to", "{out}"), "not both"),
        (("peers", "add", "A_TITLE_THAT_IS_TOO_LONG", "h", "1"), "peers[1].ae_title"),
        (("peers", "edit", "NOBODY", "--port", "1"), "has no peer 'NOBODY'"),
        (("peers", "remove", "NOBODY"), "has no peer 'NOBODY'"),
        (("peers", "echo", "NOBODY"), "'NOBODY' is not a configured peer"),
        (("conformance", "run", "--against", "nonsense", "--yes"), "nonsense"),
        (("conformance", "run", "--against", "A@127.0.0.1:1"), "confirm with --yes"),
        (("record", "nonsense", "file"), "nonsense"),
        (("replay", "nowhere"), "does not exist"),
        (("restore", "nowhere"), "does not exist"),
        (("restore", "{copy}"), "contains no complete backup"),
        (("serve", "--scenario", "nowhere"), "no scenario file or preset"),
        (("serve", "--port", "x"), "expected a number"),
        (("completion", "tcsh"), "tcsh"),
        (("config", "show", "nowhere"), "nowhere"),
        (("config", "init", "nowhere/config.toml"), "cannot write"),
        (("passcode",), "no passcode given"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_argument_has_2(run, words, sentence):
    """With a sentence that names it."""
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert sentence in said(result)


# --- 1: failures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ARCHIVE, "serve"])
def test_an_index_that_cannot_be_opened_has_1(run, name):
    """The database does not listen."""
    assert run("import", "{good}").exit_code == 0
    url = f"database.url=postgresql://nobody@127.0.0.1:{free_port()}/none"
    result = run(*name.split(), *ARGUMENTS.get(name, ()), "--set", url, "--set", "server.port=0", "--set", "web.port=0")
    assert result.exit_code == 1, result.output


@pytest.mark.parametrize("name", ["ls", "export", "delete", "explain", "fsck", "reindex", "backup"])
def test_a_folder_without_an_archive_has_2(run, tmp_path, name):
    """The command was run in the wrong one; nothing is created there."""
    before = set(tmp_path.rglob("*"))
    result = run(*name.split(), *ARGUMENTS.get(name, ()))
    assert result.exit_code == 2, result.output
    assert "no archive here" in result.stderr
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["import", "check", "serve"])
def test_files_that_cannot_be_written_have_1(run, tmp_path, name):
    """A file is in place of the folder."""
    (tmp_path / "file").write_text("")
    words = ("--set", "files.url=file/files", "--set", "server.port=0", "--set", "web.port=0")
    result = run(*name.split(), *ARGUMENTS.get(name, ()), *words)
    assert result.exit_code == 1, result.output


@pytest.mark.parametrize(
    ("operation", "name"),
    [("C-ECHO", "echo"), ("C-FIND", "find"), ("C-STORE", "store"), ("N-ACTION", "commit"), ("C-GET", "get"),
     ("C-MOVE", "move")],
)  # fmt: skip
def test_an_operation_that_fails_at_the_peer_has_1(run, server, operation, name):
    """With the status in hexadecimal digits."""
    with failing(server, operation=operation, status=0x0110) as peer:
        result = run(name, peer, *CALLING[name])
    assert result.exit_code == 1, result.output
    assert "0110" in result.stderr


@pytest.mark.parametrize("name", ["get", "fetch", "move"])
def test_a_retrieve_without_matches_has_1(run, server, name):
    """Nothing was retrieved; a query without matches is a success."""
    peer, more = f"PACS@127.0.0.1:{server.port}", CALLING[name][2:]
    result = run(name, peer, "-k", "StudyInstanceUID=1.2.3", *more)
    assert result.exit_code == 1, result.output
    assert "no matches" in result.stderr or "Nothing at the peer matches" in result.stderr
    assert run("find", peer, "-k", "StudyInstanceUID=1.2.3").exit_code == 0


def test_what_is_all_refused_or_damaged_has_1(run, server):
    """In commands that store, export or check."""
    peer = f"PACS@127.0.0.1:{server.port}"
    assert run("import", "{damaged}").exit_code == 1
    assert run("store", peer, "{damaged}").exit_code == 1
    assert run("dump", "{damaged}").exit_code == 1
    assert run("import", "{good}").exit_code == 0
    assert run("export", "{out}", "PatientID=NOBODY").exit_code == 1
    assert run("delete", "PatientID=NOBODY", "--yes").exit_code == 0


def test_a_confirmation_that_is_not_given_has_1(run, pacs):
    """Nothing was deleted."""
    assert run("import", "{good}").exit_code == 0
    result = run("delete", "--all")
    assert result.exit_code == 1
    assert "nothing was deleted; use --yes" in result.stderr
    assert "Aborted" not in result.output
    result = pacs("delete", "--all", input="n\n")
    assert (result.exit_code, result.stderr) == (1, "pacs: nothing was deleted\n")


def test_a_recording_that_is_none_has_1(run):
    """The file is named."""
    result = run("replay", "{good}")
    assert result.exit_code == 1, result.output


# --- 3: some failed ----------------------------------------------------------------------------------------------


def test_what_is_partly_refused_has_3(run, server):
    """In commands with several files or instances."""
    peer = f"PACS@127.0.0.1:{server.port}"
    assert run("import", "{good}", "{damaged}").exit_code == 3
    assert run("store", peer, "{good}", "{damaged}").exit_code == 3
    with failing(server, operation="C-STORE", nth=2, status=0x0110) as peer:
        assert run("store", peer, "{good}", "{other}").exit_code == 3
    with failing(server, operation="C-GET", fail="every 2") as peer:
        assert run("get", peer, *CALLING["get"]).exit_code == 3


def test_a_commitment_of_some_instances_has_3(run, server, tmp_path):
    """The server has only one of them."""
    (unknown,) = write(study(series=1, instances=1, number=2), tmp_path / "unknown")
    peer = f"PACS@127.0.0.1:{server.port}"
    assert run("commit", peer, "{good}", unknown).exit_code == 3
    assert run("commit", peer, unknown).exit_code == 1


def test_an_archive_with_a_damaged_file_has_3_where_the_others_are_done(run, tmp_path):
    """Export, backup, reindex and restore; fsck has found a problem, which is a failure."""
    assert run("import", "{good}", "{other}").exit_code == 0
    assert run("backup", "{copy}").exit_code == 0
    for folder in (tmp_path / "pacs-data" / "files", tmp_path / "copy" / "files"):
        damaged = max(each for each in folder.rglob("*") if each.is_file() and each.read_bytes()[128:132] == b"DICM")
        damaged.chmod(0o600)
        damaged.write_bytes(damaged.read_bytes()[:200])
    assert run("export", "{out}", "--all").exit_code == 3
    assert run("backup", tmp_path / "second").exit_code == 3
    assert run("fsck").exit_code == 1
    assert run("reindex").exit_code == 3
    new = ("--set", "files.url=new/files", "--set", "database.url=sqlite:///new/pacs.db")
    assert run("restore", "{copy}", *new).exit_code == 3


def test_some_peers_that_do_not_answer_have_3(run, server):
    """All of them 4."""
    assert run("peers", "echo").exit_code == 4
    run("peers", "add", "PACS", "127.0.0.1", server.port)
    assert run("peers", "echo").exit_code == 3


# --- 4: no association -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CALLING, "conformance run"])
@pytest.mark.parametrize("kind", ["unreachable", "rejecting", "silent"])
def test_a_peer_that_accepts_no_association_has_4(run, server, name, kind):
    """Nothing listens, it rejects the association, or it does not answer the request."""
    with listening_silently() as silent, failing(server, operation="association", reject=(1, 1, 3)) as rejecting:
        peer = {"unreachable": f"PACS@127.0.0.1:{free_port()}", "rejecting": rejecting, "silent": silent}[kind]
        if name in CALLING:
            result = run(name, peer, *CALLING[name], "-ta", "0.5")
        else:
            result = run(*name.split(), "--against", peer, "--yes", "--timeout", "0.5", "--only", "N1")
    assert result.exit_code == 4, result.output
    assert peer.partition("@")[2] in result.stderr
    if kind == "unreachable" and name in CALLING:
        assert "; check host and port, and that the peer is running" in result.stderr


@pytest.mark.parametrize(
    ("response", "hint"),
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP: check the port"), (b"\x15\3\1\0\2\2\x46", "connect with TLS")],
)
def test_a_port_of_another_protocol_is_said(run, response, hint):
    """With exit status 4: a user has taken the port of the web server, or that for TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(response)

        thread = Thread(target=answer)
        thread.start()
        result = run("echo", f"PACS@127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert result.exit_code == 4, result.output
    assert hint in result.stderr
    assert "the peer is running" not in result.stderr


@contextmanager
def listening_silently():
    """Accept connections at an address, and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"PACS@127.0.0.1:{listener.getsockname()[1]}"


# --- 130: interrupted --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["echo", "find", "ls", "import", "fsck", "conformance run"])
def test_ctrl_c_has_130(run, monkeypatch, server, name):
    """Wherever it comes."""
    targets = {
        "echo": "pacs.client.echo",
        "find": "pacs.client.find",
        "ls": "pacs.services.maintenance.Maintenance.entities",
        "import": "pacs.services.storage.Storage.import_file",
        "fsck": "pacs.services.fsck.Fsck.run",
        "conformance run": "pacs.conformance.checks.runner.run_checks",
    }

    def interrupted(*_arguments, **_more):
        raise KeyboardInterrupt

    assert run("import", "{other}").exit_code == 0
    monkeypatch.setattr(targets[name], interrupted)
    peer = f"PACS@127.0.0.1:{server.port}"
    more = {"conformance run": ("--against", peer, "--yes")}.get(name, (peer,) if name in CALLING else ())
    result = run(*name.split(), *more, *CALLING.get(name, ARGUMENTS.get(name, ())))
    assert result.exit_code == 130, result.output
    assert "interrupted" in result.stderr


def test_ctrl_c_at_a_question_has_130(run, monkeypatch):
    """As elsewhere; click alone has 1."""

    def interrupted(*_arguments, **_more):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise click.Abort from None  # as click does it

    assert run("import", "{good}").exit_code == 0
    monkeypatch.setattr("click.confirm", interrupted)
    assert run("delete", "--all").exit_code == 130
