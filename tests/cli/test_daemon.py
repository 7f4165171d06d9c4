"""The server process: start, access control, drain, stop."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom import AE

from pacs import __version__
from pacs.dimse.scu import echo
from pacs.errors import AssociationRejected, ConfigurationError, DestinationUnreachable, SchemaMismatch
from pacs.observability.events import AssociationEnded, OperationFinished, ServerReady, WebReady
from pacs.testing import serving, study, write
from tests.programs import needs_ipv6, start

ROOT = Path(__file__).parents[2]
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
READY = re.compile(r"pacs is ready: AE title PACS on (?:127\.0\.0\.1|\[::1\]):(\d+)\n")


def ask(archive, calling="WS", called="PACS"):
    """Send a C-ECHO to a running archive."""
    echo("127.0.0.1", archive.port, calling_ae_title=calling, called_ae_title=called, timeout=10)


def ready_port(line):
    """Return the port in a ready line, in text or JSON; 0 for another line."""
    if line.startswith("{"):
        return json.loads(line)["port"]
    ready = READY.fullmatch(line)
    return int(ready[1]) if ready else 0


@contextmanager
def process(folder, *words, stderr=subprocess.PIPE, **options):
    """`pacs serve` as a process of its own, ready; the port is in `.port`. Killed at the end if it still runs.

    `options` are those of `Popen`.
    """
    command = [sys.executable, "-m", "pacs", "serve", "--port", "0", "--set", f"files.url={folder}/files"]
    command += ["--set", f"database.url=sqlite:///{folder}/pacs.db", "--set", "web.enabled=false", *words]
    with start(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True, **options) as serving:
        try:
            serving.port = ready_port(serving.stdout.readline())
            assert serving.port, serving.communicate(timeout=10)
            yield serving
        finally:
            serving.kill()


@contextmanager
def associated(port):
    """An open, idle association."""
    ae = AE("WS")
    ae.add_requested_context("1.2.840.10008.1.1")
    association = ae.associate("127.0.0.1", port)
    assert association.is_established
    try:
        yield association
    finally:
        association.abort()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_cleanly(tmp_path, number):
    """It prints the ready line, serves, and ends with status 0 and no further output."""
    with process(tmp_path) as server:
        echo("127.0.0.1", server.port, calling_ae_title="WS", called_ae_title="PACS", timeout=10)
        server.send_signal(number)
        out, err = server.communicate(timeout=20)
    assert (server.returncode, out) == (0, "")
    assert err.count("kind=C-ECHO") == 1
    assert "Traceback" not in err


def test_a_server_on_ipv6_writes_its_address_in_brackets(tmp_path):
    """In the ready line, and with each requestor in the log."""
    needs_ipv6()
    with process(tmp_path, "--host", "::1") as server:
        echo("::1", server.port, calling_ae_title="WS", called_ae_title="PACS", timeout=10)
        server.send_signal(signal.SIGTERM)
        err = server.communicate(timeout=60)[1]
    assert "address=[::1]:" in err


def test_ctrl_c_on_a_terminal_says_what_the_server_waits_for(tmp_path):
    """And that a second one stops it immediately; a collected log has no such line."""
    ours, theirs = os.openpty()
    words = ("--set", "limits.drain_seconds=3")
    with os.fdopen(ours) as screen, process(tmp_path, *words, stderr=theirs) as server:
        os.close(theirs)
        server.send_signal(signal.SIGINT)
        said = "up to 3 s for running operations; press Ctrl-C again to stop immediately"
        assert any(said in line for line in screen)
        assert server.wait(20) == 0


def test_on_a_terminal_the_server_says_once_that_it_is_ready(tmp_path):
    """In the sentence; where log or output go elsewhere, the log has it, too."""
    ours, theirs = os.openpty()
    words = [sys.executable, "-m", "pacs", "serve", "--port", "0", "--set", "web.port=0"]
    with os.fdopen(ours) as screen, start(words, cwd=tmp_path, stdout=theirs, stderr=theirs) as server:
        os.close(theirs)
        shown = [next(screen), next(screen)]
        server.send_signal(signal.SIGTERM)
        shown += until_closed(screen)
        assert server.wait(60) == 0
    assert shown[0].startswith("pacs is ready: ")
    assert shown[1].startswith("pacs serves ")
    assert any("stopped" in line for line in shown)
    assert not any("web ready" in line for line in shown)


def until_closed(screen):
    """Yield the lines of a terminal until no process has it any more, which Linux reports as an error."""
    with suppress(OSError):
        yield from screen


def test_the_log_has_no_patient_data(tmp_path):
    """Stores, conflicts, invalid values, queries and refusals: no name, ID or birth date."""
    (dataset,) = study("SECRET^NAME", patient_id="SECRETID", series=1, instances=1, PatientBirthDate="19121212")
    (other,) = study("SECRET^NAME", patient_id="SECRETID", series=1, instances=1, StudyDescription="SECRET")
    bad = Dataset()
    bad.update({"QueryRetrieveLevel": "STUDY", "PatientID": "SECRETID", "PatientName": "SECRET*"})
    bad.add_new("StudyDate", "LO", "SECRET")
    with process(tmp_path) as server:
        ae = AE("WS")
        for syntax in (dataset.SOPClassUID, FIND):
            ae.add_requested_context(syntax)
        association = ae.associate("127.0.0.1", server.port)
        statuses = [association.send_c_store(each).Status for each in (dataset, other)]
        statuses += [status.Status for status, _ in association.send_c_find(bad, FIND)]
        association.release()
        server.send_signal(signal.SIGTERM)
        _, err = server.communicate(timeout=20)
    assert (statuses[0], statuses[1] >> 12, statuses[2]) == (0, 0xC, 0xA900)
    assert err.count("kind=C-STORE") == 1
    assert "C-STORE=2" in err
    assert err.count("kind=C-FIND") == 1
    assert not re.search("SECRET|NAME|19121212", err)


def test_draining_is_bounded(tmp_path):
    """An association that does not end is aborted after the drain timeout."""
    with process(tmp_path, "--set", "limits.drain_seconds=0.5") as server, associated(server.port):
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=20)
    assert server.returncode == 0


def test_a_second_signal_stops_at_once(tmp_path):
    """Regardless of the drain timeout."""
    with process(tmp_path, "--set", "limits.drain_seconds=3600") as server, associated(server.port):
        server.send_signal(signal.SIGTERM)
        wait_until_nobody_listens(server.port)
        assert server.poll() is None
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=20)
    assert server.returncode == 0


def wait_until_nobody_listens(port):
    """Connect until it is refused."""
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return


def test_a_port_in_use_is_a_sentence_and_not_a_traceback(pacs):
    """With the address and the keys to change."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = pacs("serve", "--port", port)
        web = pacs("serve", "--port", 0, "--set", f"web.port={port}")
    assert (result.exit_code, web.exit_code) == (2, 2)
    assert f"pacs: cannot listen on 127.0.0.1:{port}" in result.stderr
    assert "check server.host, and choose a free server.port" in result.stderr
    assert f"pacs: cannot listen for HTTP on 127.0.0.1:{port}" in web.stderr
    assert "check web.host, choose a free web.port, or set web.enabled = false" in web.stderr


def test_a_default_web_port_in_use_does_not_stop_the_server(tmp_path):
    """It runs without HTTP, and the log says so."""
    with ExitStack() as stack:
        with suppress(OSError):  # another process has it
            stack.enter_context(socket.create_server(("127.0.0.1", 8080)))
        words = ("--set", "web.enabled=true", "--set", "web.port=8080")
        with process(tmp_path, *words) as server:
            echo("127.0.0.1", server.port, calling_ae_title="WS", called_ae_title="PACS", timeout=10)
            server.send_signal(signal.SIGTERM)
            _, err = server.communicate(timeout=20)
    assert "the server runs without HTTP; check web.host, choose a free web.port" in err


def test_object_storage_is_refused(pacs):
    """The value is valid, but not supported yet: exit status 2."""
    result = pacs("serve", "--set", "files.url=s3://bucket/prefix")
    assert result.exit_code == 2
    assert "object storage is not supported yet" in result.stderr


def test_an_echo_is_published(pacs_server):
    """As an operation and an association, with both AE titles."""
    heard = []
    pacs_server.events.subscribe(heard.append)
    ask(pacs_server)
    pacs_server.drain()
    (operation,) = (each for each in heard if isinstance(each, OperationFinished))
    assert (operation.kind, operation.status, operation.calling_ae_title) == ("C-ECHO", 0, "WS")
    (ended,) = (each for each in heard if isinstance(each, AssociationEnded))
    assert ended.association == operation.association
    assert ended.counts == {"C-ECHO": 1}


def test_readiness_is_published_with_the_actual_port(tmp_path):
    """Port 0 becomes the port that was chosen."""
    from pacs.archive import Archive
    from pacs.config import from_settings

    heard = []
    settings = {"server.port": 0, "database.url": f"sqlite:///{tmp_path}/x.db", "files.url": str(tmp_path / "files")}
    settings |= {"web.enabled": True, "web.port": 0}
    with Archive(from_settings(settings)) as archive:
        archive.events.subscribe(heard.append)
        archive.start()
        own = {"version": __version__, "database": "sqlite", "workers": 1}
        dicom = ServerReady(ae_title="PACS", host="127.0.0.1", port=archive.port, **own)
        assert heard == [dicom, WebReady(host="127.0.0.1", port=archive.web_port)]
        assert 0 not in (archive.port, archive.web_port)


def test_stored_instances_survive_a_restart(tmp_path):
    """In index and files."""
    (path,) = write(study(series=1, instances=1), tmp_path / "in")
    with serving(tmp_path / "pacs") as archive:
        archive.storage.import_file(path)
    with serving(tmp_path / "pacs") as archive:
        (found,) = archive.maintenance.instances({"PatientID": "P1"})
        assert archive.files.size(found.file_key) == found.size


def test_a_partial_file_is_removed_at_the_start(tmp_path):
    """It was left by an unclean stop in the folder of incoming files."""
    with serving(tmp_path / "pacs"):
        pass
    stray = tmp_path / "pacs" / "files" / "incoming" / "stray"
    stray.write_bytes(b"half")
    with serving(tmp_path / "pacs"):
        assert not stray.exists()


def test_a_closed_archive_can_be_closed_again(tmp_path):
    """Also one that was never started."""
    with serving(tmp_path / "pacs") as archive:
        archive.close()
    with pytest.raises(DestinationUnreachable):
        echo("127.0.0.1", 1, calling_ae_title="WS", called_ae_title="PACS", timeout=5)


# --- access control ----------------------------------------------------------------------------------------------

WS = {"ae_title": "WS", "host": "127.0.0.1", "port": 104}


def rejected(archive, **titles):
    """Return result, source and reason of a rejected association."""
    with pytest.raises(AssociationRejected) as refused:
        ask(archive, **titles)
    return refused.value.result, refused.value.source, refused.value.reason


def test_anyone_may_call_by_any_title_by_default(pacs_server):
    """The defaults of `access`."""
    ask(pacs_server, calling="STRANGER", called="WHOEVER")


def test_only_peers_may_call_if_configured(tmp_path):
    """Others are rejected with 1/1/3, calling AE title not recognized."""
    with serving(tmp_path, {"access.callers": "peers", "peers": [WS]}) as archive:
        ask(archive, calling="WS")
        assert rejected(archive, calling="STRANGER") == (1, 1, 3)


def test_only_titles_of_the_server_may_be_called_if_configured(tmp_path):
    """Others are rejected with 1/1/7, called AE title not recognized."""
    with serving(tmp_path, {"access.called_ae": "ours"}) as archive:
        ask(archive, called="PACS")
        assert rejected(archive, called="OTHER") == (1, 1, 7)


def test_the_title_of_the_server_is_configured(tmp_path):
    """`server.ae_title`."""
    with serving(tmp_path, {"access.called_ae": "ours", "server.ae_title": "ARCHIVE"}) as archive:
        ask(archive, called="ARCHIVE")
        assert rejected(archive, called="PACS") == (1, 1, 7)


def test_serving_validates_settings_like_the_command(tmp_path):
    """`pacs.testing` raises the same error."""
    with pytest.raises(ConfigurationError, match="did you mean"), serving(tmp_path, {"server.prot": 1}):
        pass


def test_a_server_database_without_a_schema_is_an_error(postgres_server, tmp_path):
    """The message names `pacs db upgrade`."""
    from pacs.archive import Archive
    from pacs.config import from_settings

    url = postgres_server.set(database="postgres").render_as_string(hide_password=False)
    with (
        Archive(from_settings({"database.url": url})) as archive,
        pytest.raises(SchemaMismatch, match="pacs db upgrade"),
    ):
        archive.open()
