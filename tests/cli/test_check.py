"""`pacs check`: what it checks, and what it says to correct."""

import socket
from datetime import datetime

import pytest

from benchmarks.processes import free_port
from pacs.testing import Fault, serving
from tests.certificates import Authority
from tests.programs import needs_ipv6, storescp
from tests.waiting import eventually


def checked(pacs, *settings, words=(), peers=()):
    """Run `pacs check` with settings and peers."""
    for each in peers:
        assert pacs("peers", "add", *each).exit_code == 0
    settings = ("server.port=0", "web.port=0", *settings)
    return pacs("check", *words, *(word for setting in settings for word in ("--set", setting)))


def lines(result):
    """Return mark and sentence of each result."""
    return [(line[:4].strip(), line[5:]) for line in result.stdout.splitlines() if not line.startswith(" ")]


def test_the_defaults_pass(pacs):
    """Every check is ok, exit status 0."""
    result = checked(pacs)
    assert result.exit_code == 0
    assert {mark for mark, _ in lines(result)} == {"ok"}
    assert [said.partition(":")[0] for _, said in lines(result)] == [
        "configuration", "index", "files", "free space", "codecs", "server", "web",
    ]  # fmt: skip
    assert "SQLite" in result.stdout


def test_codecs_that_cannot_be_imported_fail(pacs, tmp_path, monkeypatch):
    """A decoder process says why; the server would store and send images as they are."""
    (tmp_path / "imagecodecs.py").write_text("raise ImportError('it is broken')")
    monkeypatch.syspath_prepend(tmp_path)
    result = checked(pacs)
    assert result.exit_code == 1
    assert "FAIL codecs: The codecs cannot be imported (it is broken); install pacs again" in result.stdout


def test_a_web_port_in_use_fails_unless_by_the_same_server(pacs, tmp_path):
    """With the keys to change."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        taken.settimeout(0)
        port = taken.getsockname()[1]
        found = checked(pacs, f"web.port={port}").stdout
    assert f"FAIL web: cannot listen on 127.0.0.1:{port} (Address already in use); change web.host or web.port" in found
    with serving(tmp_path / "running", {"web.enabled": True, "web.port": 0}) as archive:
        port = archive.web_port
        found = checked(pacs, f"web.port={port}").stdout
    assert f"ok   web: answers on http://127.0.0.1:{port}/healthz" in found


def test_a_running_server_that_is_not_ready_fails(pacs, tmp_path):
    """With the reasons of its /readyz."""
    with serving(tmp_path / "running", {"web.enabled": True, "web.port": 0}) as archive:
        port = f"web.port={archive.web_port}"
        assert "readiness" not in checked(pacs, port).stdout
        (tmp_path / "running" / "pacs.db").rename(tmp_path / "away")
        result = eventually_failing(lambda: checked(pacs, port))
        (tmp_path / "away").rename(tmp_path / "running" / "pacs.db")
    assert "FAIL readiness: the running server is not ready: database: the file of the index is gone" in result.stdout


def eventually_failing(check):
    """Return the first failed result."""
    results = []
    eventually(lambda: results.append(check()) or results[-1].exit_code)
    return results[-1]


def test_less_than_the_free_space_fails(pacs):
    """As instances are refused."""
    found = checked(pacs, f"limits.free_space={2**50}")
    assert found.exit_code == 1
    assert "less than limits.free_space: instances are refused; free some space" in found.stdout


def test_no_test_file_is_left(pacs, tmp_path):
    """Neither committed nor partial."""
    checked(pacs)
    assert [path for path in (tmp_path / "pacs-data" / "files").rglob("*") if path.is_file()] == []


def test_an_unusable_index_fails(pacs, tmp_path):
    """The other checks still run."""
    (tmp_path / "pacs.db").write_bytes(b"this is no database, and longer than a header of SQLite has to be" * 20)
    result = checked(pacs, "database.url=sqlite:///pacs.db")
    assert result.exit_code == 1
    assert ("FAIL", "index") in [(mark, said.partition(":")[0]) for mark, said in lines(result)]
    assert any(said.startswith("files: ") for _, said in lines(result))


def test_an_unusable_folder_fails(pacs, tmp_path):
    """There is a file with its name."""
    (tmp_path / "taken").write_text("")
    result = checked(pacs, "files.url=taken")
    assert result.exit_code == 1
    sentence = f"check that files.url = '{tmp_path}/taken' is a writable folder"
    assert ("FAIL", f"files: The file store cannot be used (File exists); {sentence}") in lines(result)


def test_an_unreachable_database_server_fails(pacs):
    """With the message of the driver and the key to check, without the password."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        result = checked(pacs, f"database.url=postgresql+psycopg://me:hush@127.0.0.1:{port}/pacs")
    (said,) = [said for mark, said in lines(result) if mark == "FAIL"]
    assert said.startswith("index: the index cannot be opened: ")
    assert "Connection refused" in said
    assert "check database.url" in said
    assert "hush" not in result.stdout


def test_a_port_in_use_fails(pacs):
    """If no C-ECHO is answered there."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = checked(pacs, f"server.port={port}", "limits.connect_seconds=0.2", "limits.negotiation_seconds=0.2")
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in result.stdout


def test_ipv6_addresses_are_written_in_brackets(pacs, tmp_path):
    """Free ones, ones in use, those of this server and of a peer."""
    needs_ipv6()
    found = checked(pacs, "server.host=::1", "web.host=::1", peers=[("GONE", "::1", free_port())]).stdout
    assert "ok   server: [::1]:0 is free to listen on" in found
    assert "ok   web: [::1]:0 is free to listen on" in found
    assert "warn peer GONE at [::1]:" in found
    with serving(tmp_path / "running", {"server.host": "::1"}) as running:
        port = running.port
        found = checked(pacs, "server.host=::1", f"server.port={port}", "web.host=::1", f"web.port={port}").stdout
    assert f"ok   server: answers C-ECHO on [::1]:{port}" in found
    assert f"FAIL web: cannot listen on [::1]:{port} (Address already in use)" in found


def test_a_port_in_use_by_the_same_server_passes(pacs, tmp_path):
    """`pacs check` can run beside the server."""
    with serving(tmp_path / "running") as running:
        result = checked(pacs, f"server.port={running.port}")
    assert result.exit_code == 0
    assert ("ok", f"server: answers C-ECHO on 127.0.0.1:{running.port}") in lines(result)


def test_a_peer_that_answers_passes(pacs, tmp_path):
    """It does not have this server as a move destination, so the values to enter there are printed."""
    with serving(tmp_path / "other") as other:
        result = checked(pacs, "server.ae_title=MINE", "server.port=104", peers=[("OTHER", "127.0.0.1", other.port)])
    assert result.exit_code == 0
    assert f"peer OTHER at 127.0.0.1:{other.port}: answers C-ECHO, but does not have this server" in result.stdout
    assert "    AE title MINE, the address of this host, port 104" in result.stdout


def test_a_peer_with_this_server_as_destination_passes(pacs, tmp_path):
    """The result says so."""
    us = {"peers": [{"ae_title": "PACS", "host": "127.0.0.1", "port": 104}]}
    with serving(tmp_path / "other", us) as other:
        result = checked(pacs, peers=[("OTHER", "127.0.0.1", other.port)])
    assert (
        "ok",
        f"peer OTHER at 127.0.0.1:{other.port}: answers C-ECHO and has this server as a move destination (C-MOVE)",
    ) in lines(result)


def test_a_peer_that_does_not_check_destinations_is_not_said_to_have_this_server(pacs, tmp_path):
    """dcmqrscp answers Success for any destination as long as nothing matches."""
    with serving(tmp_path / "other", watched=True) as other:
        other.faults.add(Fault("C-MOVE", status=0x0000))
        result = checked(pacs, peers=[("OTHER", "127.0.0.1", other.port)])
    assert ("ok", f"peer OTHER at 127.0.0.1:{other.port}: answers C-ECHO") in lines(result)


def test_a_peer_without_c_move_passes(pacs, tmp_path):
    """Nothing is said about destinations."""
    with storescp(tmp_path / "received") as receiver:
        result = checked(pacs, peers=[(receiver.ae_title, "127.0.0.1", receiver.port)])
    assert result.exit_code == 0
    assert ("ok", f"peer {receiver.ae_title} at 127.0.0.1:{receiver.port}: answers C-ECHO") in lines(result)


def test_a_peer_that_rejects_the_calling_title_fails(pacs, tmp_path):
    """With the values to enter there."""
    with serving(tmp_path / "other", {"access.callers": "peers"}) as other:
        result = checked(pacs, "server.ae_title=MINE", "server.port=104", peers=[("OTHER", "127.0.0.1", other.port)])
    assert result.exit_code == 1
    assert "the peer does not accept the calling AE title 'MINE'" in result.stdout
    assert "AE title MINE, " in result.stdout
    assert "port 104" in result.stdout


def test_a_peer_with_another_title_fails(pacs, tmp_path):
    """With the block to change here."""
    with serving(tmp_path / "other", {"access.called_ae": "ours"}) as other:
        result = checked(pacs, peers=[("WRONG", "127.0.0.1", other.port)])
    assert result.exit_code == 1
    assert "the peer does not accept the called AE title 'WRONG'" in result.stdout
    assert 'ae_title = "' in result.stdout


@pytest.mark.parametrize(("words", "mark", "status"), [([], "warn", 0), (["--strict"], "FAIL", 1)])
def test_a_peer_that_is_off_is_a_warning_unless_strict(pacs, words, mark, status):
    """Nothing listens on its port, or whoever listens does not answer."""
    with socket.socket() as reserved, socket.create_server(("127.0.0.1", 0)) as silent:
        reserved.bind(("127.0.0.1", 0))
        peers = [("GONE", "127.0.0.1", reserved.getsockname()[1]), ("SILENT", "127.0.0.1", silent.getsockname()[1])]
        result = checked(pacs, "limits.connect_seconds=0.5", peers=peers, words=words)
    assert result.exit_code == status
    found = dict(line.split(" peer ", 1)[::-1] for line in result.stdout.splitlines() if " peer " in line)
    assert set(found.values()) == {mark}
    assert len(found) == 2
    assert all("check host and port, and that the peer is running" in each for each in found)


def test_a_peer_with_an_unknown_host_fails(pacs):
    """Its entry is wrong, whether it is on or off."""
    result = checked(pacs, peers=[("WRONG", "no-such-host.invalid", 104)])
    assert result.exit_code == 1
    assert "FAIL peer WRONG at no-such-host.invalid:104: The peer cannot be reached: unknown host" in result.stdout


def test_live_only_sends_a_c_echo_to_the_server(pacs, tmp_path):
    """As the health check of a container."""
    with serving(tmp_path / "running") as running:
        port = running.port
        result = checked(pacs, f"server.port={port}", words=["--live"])
    assert result.exit_code == 0
    assert lines(result) == [("ok", f"server: answers C-ECHO on 127.0.0.1:{port}")]
    assert not (tmp_path / "pacs-data").exists()
    assert checked(pacs, f"server.port={port}", words=["--live"]).exit_code == 1


@pytest.mark.parametrize("setting", ["access.callers=peers", "access.called_ae=ours"])
def test_live_passes_if_the_server_rejects_it(pacs, tmp_path, setting):
    """A rejection is a response."""
    key, _, value = setting.partition("=")
    with serving(tmp_path / "running", {key: value}) as running:
        result = checked(pacs, f"server.port={running.port}", setting, words=["--live"])
    assert result.exit_code == 0


def test_an_expired_certificate_fails(pacs, tmp_path):
    """A valid one passes, with its end of validity."""
    authority = Authority(tmp_path)
    good, old = authority.sign("good", "localhost"), authority.sign("old", "localhost", until=datetime(2021, 1, 1))
    for pair, well, sentence in ((good, True, "is valid until"), (old, False, "certificate has expired")):
        settings = {"tls.enabled": "true", "tls.certificate": pair.certificate, "tls.key": pair.key}
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        line = next(each for each in pacs("check", *words).stdout.splitlines() if "certificate:" in each)
        assert line.startswith("ok") == well
        assert sentence in line


def test_settings_without_effect_fail(pacs):
    """Users that are ignored, and peers only without peers."""
    users = '[{"name": "alice"}]'
    shown = pacs("check", "--set", "access.callers=peers", env={"PACS_USERS": users}).stdout
    assert 'FAIL users: have no effect; set access.users = "optional"' in shown
    assert 'FAIL peers: access.callers is "peers" and [[peers]] is empty' in shown
