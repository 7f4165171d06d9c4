"""`pacs peers`: the file `peers.toml`, what changes it, and a C-ECHO to all peers."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from pacs.config import PeerEntry, PeersFile, load, read_sources
from pacs.services.users import hash_passcode
from pacs.testing import serving, study, write
from tests.cli.test_reloading import FRIEND, PEERS_ONLY, configured, is_rejected
from tests.programs import free_port


@pytest.fixture
def file(tmp_path):
    """The `peers.toml` of the default configuration."""
    return tmp_path / "pacs-data" / "peers.toml"


def of(title):
    """Return the configured peer of a title."""
    return next(each for each in load(None, {}).peers if each.ae_title == title)


# --- add, edit, remove -------------------------------------------------------------------------------------------


def test_a_peer_is_added_to_a_file_in_the_folder_of_the_data(pacs, tmp_path, file):
    """The configuration file is not touched: a clone of the project tracks it."""
    (tmp_path / "config.toml").write_text("# mine\n")
    added = pacs("peers", "add", "WS", "ws.local", "104")
    assert added.exit_code == 0, added.output
    assert f"added to {file}; the next start reads it" in added.stdout
    assert (tmp_path / "config.toml").read_text() == "# mine\n"
    assert of("WS") == PeerEntry(ae_title="WS", host="ws.local", port=104)
    assert file.stat().st_mode & 0o777 == 0o640


def test_the_file_is_beside_the_folder_of_the_files(pacs, tmp_path):
    """Wherever that was set."""
    pacs("peers", "add", "WS", "ws", "104", "--set", "files.url=elsewhere/files")
    assert (tmp_path / "elsewhere" / "peers.toml").exists()
    assert load(None, {"PACS_FILES__URL": "elsewhere/files"}).peers[0].ae_title == "WS"
    assert not load(None, {}).peers


def test_every_key_of_a_peer_is_an_option(pacs):
    """Of `add` and `edit`, but for the arguments of `add`; lists are separated by commas."""
    options = [
        "--manner=strict", "--roles=lenient", "--associations=3", "--tls", "--explain", "--services=store,find",
        "--addresses=10.0.0.0/8, 127.0.0.1", "--destinations=WS", "--transfer-syntaxes=ImplicitVRLittleEndian",
        "--send-as=rle,explicit", f"--certificates={'ab' * 32}",
    ]  # fmt: skip
    added = pacs("peers", "add", "A \"B\" 'C'", "ws", "104", *options)
    assert added.exit_code == 2  # its destination is unknown
    pacs("peers", "add", "WS", "ws", "104")
    assert pacs("peers", "add", "A \"B\" 'C'", "ws", "104", *options).exit_code == 0
    given = of("A \"B\" 'C'")
    assert {key for key in PeerEntry.model_fields if getattr(given, key) != getattr(of("WS"), key)} == set(
        PeerEntry.model_fields
    ) - {"host", "port"}
    pacs("peers", "edit", "WS", *options)
    assert of("WS").model_dump(exclude={"ae_title"}) == given.model_dump(exclude={"ae_title"})


def test_an_edit_changes_the_given_values_and_keeps_the_others(pacs, file):
    """So do the other peers and the comments of the file."""
    pacs("peers", "add", "A", "a", "1")
    pacs("peers", "add", "B", "b", "2", "--manner", "strict", "--services", "store")
    file.write_text(file.read_text() + "\n# about C\n[[peers]]\nae_title = 'C'  # mine\nhost = 'c'\nport = 3\n")
    edited = pacs("peers", "edit", "B", "--port", "22", "--default", "manner", "--ae-title", "BB", "--no-tls")
    assert edited.exit_code == 0, edited.output
    assert [each.ae_title for each in load(None, {}).peers] == ["A", "BB", "C"]
    assert of("BB") == PeerEntry(ae_title="BB", host="b", port=22, services=("store",), tls=False)
    assert "\n# about C\n[[peers]]\nae_title = 'C'  # mine\n" in file.read_text()
    assert pacs("peers", "edit", "A").exit_code == 2


def test_peers_are_removed_all_or_none(pacs, file):
    """What names them as a destination is told; the rest of the file stays."""
    for title in ("STORE", "WS", "CT"):
        pacs("peers", "add", title, "host", "104")
    before = file.read_text()
    unknown = pacs("peers", "remove", "WS", "STORES")
    assert unknown.exit_code == 2
    assert "has no peer 'STORES'; did you mean STORE? (its peers: STORE, WS, CT)" in unknown.stderr
    pacs("peers", "edit", "CT", "--destinations", "WS")
    refused = pacs("peers", "remove", "STORE", "WS")
    assert refused.exit_code == 2
    assert "destinations of CT: expected AE titles of [[peers]], not 'WS'" in refused.stderr
    assert len(load(None, {}).peers) == 3
    pacs("peers", "edit", "CT", "--default", "destinations")
    assert file.read_text() == before
    assert "STORE, WS removed from" in pacs("peers", "remove", "STORE", "WS").stdout
    assert [each.ae_title for each in load(None, {}).peers] == ["CT"]


def test_a_known_peer_is_not_added_again(pacs, file):
    """The file is unchanged; the message says how to change the peer."""
    pacs("peers", "add", "WS", "ws", "104")
    before = file.read_bytes()
    again = pacs("peers", "add", "WS", "ws2", "105")
    assert again.exit_code == 2
    assert f"{file} has the peer 'WS' already: change it with `pacs peers edit WS`" in again.stderr
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("verb", ["add", "edit", "remove"])
def test_a_peer_of_another_source_is_not_changed(pacs, tmp_path, file, verb):
    """The message names the file with the line, or the variable."""
    words = {"add": ("ws", "104"), "edit": ("--port", "105"), "remove": ()}[verb]
    block = '[[peers]]\nae_title = "OTHER"\nhost = "o"\nport = 1\n\n[[peers]]\nhost = "ws"\nport = 1\nae_title = "WS"\n'
    (tmp_path / "config.toml").write_text(f"[server]\nlisten = [\n]\n\n{block}")
    refused = pacs("peers", verb, "WS", *words)
    assert refused.exit_code == 2
    assert (
        f"the peer 'WS' is in config.toml, line 13: change it there; `pacs peers` changes only {file}" in refused.stderr
    )
    variable = {"PACS_PEERS": '[{"ae_title": "WS", "host": "ws", "port": 1}]'}
    refused = pacs("peers", verb, "WS", *words, env=variable)
    assert "the peer 'WS' is in the environment variable PACS_PEERS: change it there" in refused.stderr
    assert not file.exists()


def test_an_ae_title_in_both_files_is_refused(pacs, tmp_path, file):
    """Both are named; removing it from one of them mends it."""
    pacs("peers", "add", "WS", "ws", "104")
    (tmp_path / "config.toml").write_text('[[peers]]\nae_title = "WS "\nhost = "ws"\nport = 1\n')
    refused = pacs("peers", "list")
    assert refused.exit_code == 2
    assert f"the peer 'WS' is in [[peers]] of config.toml and in {file}: remove one of them" in refused.stderr
    assert pacs("peers", "remove", "WS").exit_code == 0
    assert of("WS").port == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[peers]]\nae_title = 'A'\nhost = 'a'\n", "peers[1].port: missing ({file})"),
        ("[[peers]]\nae_title = 'A'\nhost = 'a'\nport = 'x'\n", "peers[1].port = 'x': expected a number ({file})"),
        ("[[peers]]\nae_titel = 'A'\n", "peers[1].ae_titel: unknown key; did you mean peers[1].ae_title? ({file})"),
        ("[server]\nport = 1\n", "server: unknown key"),
        ("[[peers]\n", "'{file}' is not TOML in UTF-8"),
        ("\xff", "'{file}' is not TOML in UTF-8"),
        ("[[peers]]\nae_title='A'\nhost='a'\nport=1\n" * 2, "[[peers]] has AE titles more than once: A"),
    ],
)
def test_a_mistake_in_the_file_is_an_error_that_names_it(pacs, file, text, message):
    """With key, value and what was expected, as for the configuration file."""
    file.parent.mkdir()
    file.write_text(text, "latin-1")
    for words in (("list",), ("add", "WS", "ws", "104"), ("remove", "WS")):
        refused = pacs("peers", *words)
        assert refused.exit_code == 2
        assert message.format(file=file) in refused.stderr


def test_a_link_stays_a_link(pacs, tmp_path, file):
    """The file that it names is changed."""
    target = tmp_path / "peers-of-the-hospital.toml"
    target.write_text("# ours\n")
    file.parent.mkdir(exist_ok=True)
    file.symlink_to(target)
    assert pacs("peers", "add", "CT1", "10.0.0.5", "104").exit_code == 0
    assert file.is_symlink()
    assert target.read_text().startswith("# ours")
    assert "CT1" in target.read_text()


def test_a_line_ends_only_where_toml_says(pacs, file):
    """Comments of word processors have other line separators."""
    pacs("peers", "add", "CT1", "10.0.0.5", "104")
    file.write_text(f"# see\u2028[[peers]]\n{file.read_text()}", "utf-8")
    changed = pacs("peers", "edit", "CT1", "--port", "105")
    assert changed.exit_code == 0, changed.stderr
    assert "\u2028[[peers]]\n" in file.read_text("utf-8")
    assert "port = 105" in file.read_text("utf-8")


def test_peers_written_as_an_inline_list_are_not_changed(pacs, file):
    """They are read; to change them, they have to be blocks."""
    file.parent.mkdir()
    file.write_text("peers = [{ae_title = 'A', host = 'a', port = 1}]\n")
    assert of("A").port == 1
    refused = pacs("peers", "remove", "A")
    assert refused.exit_code == 2
    assert "has peers outside of [[peers]] blocks: write a block for each one" in refused.stderr


def test_commands_that_add_peers_at_the_same_time_lose_none(pacs, file):
    """Each waits for the other."""
    titles = {f"WS{number}" for number in range(16)}

    def add(title):
        PeersFile(read_sources(None, {})).add({"ae_title": title, "host": "ws", "port": 104})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, titles))
    assert {each.ae_title for each in load(None, {}).peers} == titles
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_cannot_be_written_is_a_sentence(pacs, tmp_path):
    """A file is in place of the folder."""
    (tmp_path / "pacs-data").write_text("")
    refused = pacs("peers", "add", "WS", "ws", "104")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("pacs: cannot write ")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_root_gives_the_file_to_the_owner_of_its_folder(pacs, file):
    """Who is the user of the server, which has to read it."""
    file.parent.mkdir()
    os.chown(file.parent, 12345, 54321)
    assert pacs("peers", "add", "WS", "ws", "104").exit_code == 0
    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 54321)


# --- a running server --------------------------------------------------------------------------------------------


def test_a_running_server_is_named_and_reads_both_files_on_sighup(pacs, tmp_path):
    """`peers add` prints the command that applies the change, which is for the supervisor of the workers."""
    data = ("--set", f"files.url={tmp_path}/files")
    with configured(tmp_path, PEERS_ONLY, "--workers", "2", *data) as server:
        added = pacs("peers", "add", "STRANGER", "127.0.0.1", "104", "--config", tmp_path / "config.toml", *data)
        assert f"apply it to the running server with `kill -HUP {server.pid}`" in added.stdout, added.output
        assert is_rejected(server)
        server.reconfigure(PEERS_ONLY)
        assert not is_rejected(server)
        server.reconfigure(PEERS_ONLY + FRIEND.replace("FRIEND", "STRANGER"), "reload rejected, previous settings kept")
        assert f"and in {tmp_path}/peers.toml" in server.log.read_text()
        assert not is_rejected(server)


def test_a_reload_waits_for_no_pipe(tmp_path):
    """The server goes on with its former peers."""
    with configured(tmp_path, PEERS_ONLY, "--set", f"files.url={tmp_path}/files") as server:
        os.mkfifo(tmp_path / "peers.toml")
        server.reconfigure(PEERS_ONLY + FRIEND, "reload rejected, previous settings kept")
        assert "cannot read peers file" in server.log.read_text()
        assert is_rejected(server, "FRIEND")
        (tmp_path / "peers.toml").unlink()
        server.reconfigure(PEERS_ONLY + FRIEND)


# --- echo --------------------------------------------------------------------------------------------------------


def test_a_passcode_from_standard_input_is_for_all_peers(pacs, tmp_path):
    """It is read once."""
    with serving(tmp_path / "server") as server:
        for title in ("A", "B"):
            pacs("peers", "add", title, "127.0.0.1", server.port)
        done = pacs("peers", "echo", "--user", "ANN", "--passcode-file", "-", input="secret\n")
    assert done.exit_code == 0, done.output


def test_all_peers_are_verified_at_once(pacs, tmp_path):
    """3 if some do not answer, 4 if none does; those that are named, or all."""
    with serving(tmp_path / "server") as server:
        pacs("peers", "add", "PACS", "127.0.0.1", server.port)
        assert pacs("peers", "echo").exit_code == 0
        pacs("peers", "add", "OFF", "127.0.0.1", free_port())
        some = pacs("peers", "echo", "--json")
        assert some.exit_code == 3
        up, off = json.loads(some.stdout)
        assert (up["ae_title"], up["answers"], up["error"]) == ("PACS", "yes", "")
        assert up["milliseconds"] > 0
        assert (off["answers"], off["milliseconds"]) == ("no", None)
        assert "Connection refused" in off["error"]
        assert pacs("peers", "echo", "PACS").exit_code == 0
        assert pacs("peers", "echo", "OFF").exit_code == 4
        assert pacs("peers", "echo", "NOBODY").exit_code == 2


def test_without_peers_there_is_nothing_to_verify(pacs):
    """That is said."""
    nothing = pacs("peers", "echo")
    assert nothing.exit_code == 0
    assert "no peers; add one with `pacs peers add AE_TITLE HOST PORT`" in nothing.stderr


def test_the_user_is_named_to_all_peers(pacs, tmp_path):
    """With the options of other commands."""
    users = [{"name": "alice", "passcode": hash_passcode("secret")}]
    with serving(tmp_path / "server", {"access.users": "required", "users": users}) as server:
        pacs("peers", "add", "PACS", "127.0.0.1", server.port)
        assert pacs("peers", "echo").exit_code == 4
        assert pacs("peers", "echo", "--user", "alice", "--passcode-file", "-", input="secret\n").exit_code == 0


# --- backup ------------------------------------------------------------------------------------------------------


def test_a_backup_has_the_peers_and_a_restore_puts_them_back(pacs, tmp_path, file):
    """A later backup has what is there then; other peers in place of the restored ones are not overwritten."""
    new = ("--set", "files.url=new/files", "--set", "database.url=sqlite:///new/pacs.db")
    (image,) = write(study(series=1, instances=1), tmp_path / "given")
    assert pacs("import", image).exit_code == 0
    pacs("peers", "add", "WS", "ws", "104")
    assert pacs("backup", "copy").exit_code == 0
    pacs("peers", "add", "OTHER", "o", "104", *new)
    refused = pacs("restore", "copy", *new)
    assert refused.exit_code == 2
    assert "peers.toml has other peers than the backup: move it away" in refused.stderr
    (tmp_path / "new" / "peers.toml").unlink()
    restored = pacs("restore", "copy", *new)
    assert restored.exit_code == 0, restored.output
    assert (tmp_path / "new" / "peers.toml").read_text() == file.read_text()
    file.unlink()
    assert pacs("backup", "copy").exit_code == 0
    assert not (tmp_path / "copy" / "peers.toml").exists()
