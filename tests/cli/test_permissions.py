"""The daemon and its commands as a user who lacks a right: each says which, where, and what to do."""

import os
import subprocess
from pathlib import Path

import pytest

from pacs import client
from pacs.testing import study, write
from tests.certificates import Authority
from tests.crash import limits
from tests.crash.client import associated
from tests.crash.load import Instance, Ledger, eventually, uid
from tests.crash.servers import Site

DATASETS = study(series=1, instances=3)


@pytest.fixture
def site(pacs, tmp_path):
    """An archive of another user, with three instances."""
    limits.as_user()
    write(DATASETS, tmp_path / "in")
    with limits.users_folder() as folder:
        site = Site(folder, settings=("web.enabled=false", "limits.free_space=0"), log=tmp_path / "log")
        assert pacs("import", tmp_path / "in", *site.command()[3:]).exit_code == 0
        for each in folder.rglob("*"):
            os.chown(each, limits.USER, limits.USER)
        yield site


def run(prefix, site, *words):
    """Run a command as the other user."""
    command = [*prefix, *site.command(*words)]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=30, check=False)


def forbid(path, mode=0o555):
    """Give a path to root, with a mode that lets others at most read."""
    os.chown(path, 0, 0)
    path.chmod(mode)


def private(folder):
    """Return a file that only root may read."""
    (folder / "private").write_text("")
    (folder / "private").chmod(0o600)
    return folder / "private"


# --- at the start ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("files", "pacs: The folder of the file store is not writable; check that files.url = '{folder}/files' is a"),
        pytest.param(
            "files/incoming",
            "pacs: The folder 'incoming' of the file store is not writable; check that files.url = '",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_folder_without_the_right_to_write_ends_the_start_and_fails_the_check(site, name, expected):
    """With the folder and the key; the status is that of a missing resource."""
    (site.folder / name).mkdir(exist_ok=True)
    forbid(site.folder / name)
    served = run(limits.as_user(), site, "serve")
    assert (served.returncode, served.stdout) == (1, "")
    assert served.stderr.startswith(expected.format(folder=site.folder))
    checked = run(limits.as_user(), site, "check")
    assert checked.returncode == 1
    assert f"FAIL files: {expected.split(': ', 1)[1].split(';')[0]}" in checked.stdout


@pytest.mark.parametrize("name", ["pacs.db", pytest.param(".", marks=pytest.mark.long)])
def test_an_index_without_the_right_to_write_ends_the_start(site, name):
    """The file, or the folder, in which SQLite needs further files."""
    forbid(site.folder / name, 0o444 if name != "." else 0o555)
    served = run(limits.as_user(), site, "serve")
    assert (served.returncode, served.stdout) == (1, "")
    assert served.stderr.startswith("pacs: ")
    assert len(served.stderr.splitlines()) == 1


def test_files_named_by_the_configuration_are_named_with_their_key(site):
    """The audit log, and the key of the certificate."""
    path = private(site.folder.parent)
    signed = Authority(site.folder.parent).sign("pacs", "localhost")
    Path(signed.key).chmod(0o600)
    tls = ("tls.enabled=true", "tls.port=0", f"tls.certificate={signed.certificate}", f"tls.key={signed.key}")
    for words, expected in (
        (("--set", f"audit.file={path}"), f"pacs: audit.file = '{path}': cannot write (Permission denied)"),
        ([part for each in tls for part in ("--set", each)], f"tls.key = '{signed.key}': cannot be read (Permission"),
    ):
        served = run(limits.as_user(), site, "serve", *words)
        assert (served.returncode, served.stdout) == (2, "")
        assert expected in served.stderr


def test_a_port_that_needs_a_right_is_refused_with_how_to_get_it(site):
    """By the server and by `pacs check`."""
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 104:
        pytest.skip("this system lets everyone listen on port 104")
    why = "cannot listen on 127.0.0.1:104 (Permission denied); a port below 1024 needs a right: choose another"
    served = run(limits.as_user(), site, "serve", "--set", "server.port=104")
    assert (served.returncode, served.stdout) == (2, "")
    assert why in served.stderr
    assert why in run(limits.as_user(), site, "check", "--set", "server.port=104").stdout


@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_files_and_folders_that_may_not_be_read_are_not_skipped(site, mode):
    """By `pacs store` and `pacs import`: the good file is stored, the others are failures with their reason."""
    good, secret, inner = write(study("OTHER", patient_id="P2", series=1, instances=3), site.folder.parent / "out")
    (folder := good.parent / "below").mkdir()
    inner.rename(folder / inner.name)
    forbid(secret, 0o000)
    forbid(folder, mode)
    with client.receiving(site.folder.parent / "in") as receiver:
        stored = run(limits.as_user(), site, "store", f"X@127.0.0.1:{receiver.port}", str(good.parent))
        assert len(receiver.arrived) == 1
    assert stored.returncode == 3
    assert "2 failed: The file cannot be read: Permission denied" in stored.stderr
    imported = run(limits.as_user(), site, "import", str(good.parent))
    assert imported.returncode == 3
    assert "2 refused: The file cannot be read (Permission denied)" in imported.stderr


def test_a_file_of_another_user_that_all_may_read_is_named_at_the_start(site):
    """The server cannot make it private, and serves."""
    log = site.folder.parent / "audit"
    log.touch()
    log.chmod(0o666)
    server = Site(site.folder, settings=(*site.settings, f"audit.file={log}"), log=site.log).start(*limits.as_user())
    assert server.stop() == 0
    assert f"'{log}' contains patient data, belongs to another user, and may be read by all" in site.log.read_text()
    assert "run `chmod o-rwx` on it as its owner" in site.log.read_text()


# --- while it runs -----------------------------------------------------------------------------------------------


def test_a_running_server_refuses_or_skips_what_it_may_not_touch(site):
    """An hour folder without the right to write: A700. One unreadable file: the others of its study are sent."""
    server, ledger = site.start(*limits.as_user()), Ledger()
    try:
        (hour,) = {path.parent for path in site.files.glob("2*/*/*/*/*.dcm")}
        with associated(server.port) as client:
            instance = Instance(uid("forbidden", 1), uid("study", "forbidden"), 9000)
            forbid(hour)
            refused = client.store(instance.uid, ledger.begin(instance))
            assert refused.status in (0x0000, 0xA700)  # a new hour has a new folder
            if refused.status:
                assert refused.text(0x0902) == "The file store cannot be used (Permission denied)"
            os.chown(hour, limits.USER, limits.USER)
            hour.chmod(0o750)
            assert eventually(lambda: client.store(instance.uid, instance.data).status == 0)
        forbidden = min(hour.glob("*.dcm"))
        forbid(forbidden, 0)
        with associated(server.port, retrieves=True) as client:
            assert len(client.get(DATASETS[0].StudyInstanceUID)) == 2
        assert server.stop() == 0
    finally:
        server.kill()
    log = site.log.read_text()
    assert "The stored file cannot be read (Permission denied)" in log
    assert "status=0xB000" in log
    assert "Traceback" not in log
