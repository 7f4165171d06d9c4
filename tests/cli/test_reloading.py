"""SIGHUP reloads the configuration; no association ends."""

import os
import signal
import subprocess
import time
from contextlib import contextmanager

import pytest

from pacs.archive import Archive
from pacs.config import from_settings
from pacs.dimse.scu import echo
from pacs.errors import AssociationRejected, CallerUnknown, ConfigurationError
from pacs.services.access import AssociationRequestor
from pacs.testing import serving
from tests.certificates import Authority
from tests.cli.test_daemon import associated, process
from tests.cli.test_workers import children
from tests.waiting import eventually

BASE = """
[access]
called_ae = "any"

[limits]
drain_seconds = 0.5

[log]
level = "INFO"
"""
PEERS_ONLY = BASE.replace('called_ae = "any"', 'callers = "peers"')
FRIEND = """
[[peers]]
ae_title = "FRIEND"
host = "127.0.0.1"
port = 11113
"""


@contextmanager
def configured(folder, text, *words):
    """Run `pacs serve` with a configuration file; `.reconfigure(text)` replaces it and waits for the reload."""
    file, log = folder / "config.toml", folder / "log"
    file.write_text(text)
    with log.open("w") as err, process(folder, "--config", str(file), *words, stderr=err) as server:

        def reconfigure(text, expected="configuration reloaded"):
            seen = log.read_text().count(expected)
            file.write_text(text)
            server.send_signal(signal.SIGHUP)
            assert eventually(lambda: log.read_text().count(expected) > seen)

        server.reconfigure, server.log = reconfigure, log
        yield server
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0


def ask(server, calling="STRANGER"):
    """Send a C-ECHO to the process."""
    echo("127.0.0.1", server.port, calling_ae_title=calling, called_ae_title="PACS", timeout=10)


def is_rejected(server, calling="STRANGER"):
    """Return whether an association is rejected."""
    try:
        ask(server, calling)
    except AssociationRejected:
        return True
    return False


@pytest.mark.parametrize("words", [(), ("--workers", "2")], ids=["one process", "two workers"])
def test_added_peers_and_rules_apply_at_once_and_associations_continue(tmp_path, words):
    """In all workers and in a replaced one."""
    with configured(tmp_path, BASE, *words) as server, associated(server.port) as running:
        ask(server)
        server.reconfigure(PEERS_ONLY)
        assert eventually(lambda: all(is_rejected(server) for _ in range(4)))
        assert "allow it with `pacs peers add STRANGER 127.0.0.1 PORT`" in server.log.read_text()
        server.reconfigure(PEERS_ONLY + FRIEND)
        assert eventually(lambda: not any(is_rejected(server, "FRIEND") for _ in range(4)))
        assert running.send_c_echo().Status == 0


def test_a_replaced_worker_has_the_reloaded_configuration(tmp_path):
    """Not that of the start."""
    with configured(tmp_path, BASE, "--workers", "2") as server:
        server.reconfigure(PEERS_ONLY)
        before = set(children(server))
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: len(set(children(server)) - before) == 2)
        assert eventually(lambda: all(is_rejected(server) for _ in range(4)))


def test_an_invalid_file_changes_nothing_and_the_log_says_why(tmp_path):
    """No TOML, an invalid value, a missing certificate."""
    with configured(tmp_path, PEERS_ONLY + FRIEND) as server:
        for bad, why in (
            ("[access", "is not TOML"),
            (BASE + "[limits.x]\n", "unknown key"),
            (BASE.replace("0.5", "-1"), "limits.drain_seconds = -1"),
            (BASE + '[tls]\nca = "nobody.pem"\n' + FRIEND + "tls = true\n", "cannot be read"),
        ):
            server.reconfigure(bad, expected="reload rejected, previous settings kept")
            assert eventually(lambda why=why: why in server.log.read_text())
            ask(server, "FRIEND")
            with pytest.raises(AssociationRejected):
                ask(server)


def test_keys_that_need_a_restart_are_named(tmp_path):
    """The others apply."""
    with configured(tmp_path, BASE) as server:
        server.reconfigure(PEERS_ONLY + '[server]\naliases = ["OTHER"]\n')
        assert "waits_for_restart=server.aliases" in server.log.read_text()
        with pytest.raises(AssociationRejected):
            ask(server)


def test_the_log_level_is_changed(tmp_path):
    """An accepted association is logged at DEBUG."""
    with configured(tmp_path, BASE) as server:
        ask(server)
        assert "association accepted" not in server.log.read_text()
        server.reconfigure(BASE.replace("INFO", "DEBUG"))
        ask(server)
        assert eventually(lambda: "association accepted" in server.log.read_text())


def test_a_reload_does_not_remove_the_access_control_of_an_open_listener(tmp_path):
    """The old address with the new rules would be invalid."""
    paths = {
        "files.url": str(tmp_path / "files"),
        "database.url": f"sqlite:///{tmp_path}/pacs.db",
        "web.enabled": False,
    }
    wide = {"server.host": "0.0.0.0", "access.callers": "peers"}
    with Archive(from_settings(paths | wide)) as archive:
        with pytest.raises(ConfigurationError, match="accepts connections from the network"):
            archive.reload(from_settings(paths))
        assert archive.config.access.callers == "peers"
        with pytest.raises(CallerUnknown):
            archive.access.admit(AssociationRequestor(ae_title="STRANGER", called_ae_title="PACS", address="10.0.0.1"))


def test_a_reload_is_done_completely_or_not_at_all(tmp_path):
    """The audit log cannot be opened: the peers do not change either."""
    (tmp_path / "audit").mkdir()
    with serving(tmp_path, {"audit.file": str(tmp_path / "audit" / "log")}) as archive:
        os.rename(tmp_path / "audit", tmp_path / "elsewhere")
        access = archive.config.access.model_copy(update={"callers": "peers"})
        with pytest.raises(ConfigurationError):
            archive.reload(archive.config.model_copy(update={"access": access}))
        echo("127.0.0.1", archive.port, calling_ae_title="STRANGER", called_ae_title="PACS", timeout=10)


def test_limits_apply_to_new_associations(tmp_path):
    """Running associations beyond a lower limit continue."""
    with serving(tmp_path) as archive, associated(archive.port) as one, associated(archive.port) as two:
        limits = archive.config.limits.model_copy(update={"associations": 2})
        archive.reload(archive.config.model_copy(update={"limits": limits}))
        with pytest.raises(AssociationRejected) as refused:
            echo("127.0.0.1", archive.port, calling_ae_title="WS", called_ae_title="PACS", timeout=10)
        assert (refused.value.result, refused.value.source, refused.value.reason) == (2, 3, 2)
        assert (one.send_c_echo().Status, two.send_c_echo().Status) == (0, 0)


def test_a_renewed_certificate_is_used_after_a_reload(tmp_path):
    """In the same files."""
    authority = Authority(tmp_path)
    first, second = authority.sign("pacs", "localhost"), authority.sign("renewed", "localhost")
    settings = {"tls.enabled": True, "tls.port": 0, "tls.certificate": first.certificate, "tls.key": first.key}
    with serving(tmp_path / "pacs", settings) as archive:
        assert certificate_of(archive) == first.fingerprint
        os.replace(second.certificate, first.certificate)
        os.replace(second.key, first.key)
        archive.reload(archive.config)
        assert certificate_of(archive) == second.fingerprint


def certificate_of(archive):
    """Return the fingerprint of the certificate that the server presents."""
    asked = f"openssl s_client -connect 127.0.0.1:{archive.secure_port} </dev/null 2>/dev/null"
    asked += " | openssl x509 -noout -fingerprint -sha256"
    shown = subprocess.run(["sh", "-c", asked], capture_output=True, text=True, timeout=30, check=True).stdout
    return shown.rpartition("=")[2].strip().replace(":", "").lower()


@pytest.mark.parametrize("words", [(), ("--workers", "2")], ids=["one process", "two workers"])
def test_a_burst_of_reloads_hides_no_signal_to_stop(tmp_path, words):
    """SIGTERM stops the server although SIGHUPs by the thousand fill the socket that wakes its main thread."""
    with configured(tmp_path, BASE, *words) as server:
        for _ in range(1500):  # one after the other, as signals that are not yet delivered become one
            server.send_signal(signal.SIGHUP)
            time.sleep(0.0005)
    assert "Traceback" not in server.log.read_text()
