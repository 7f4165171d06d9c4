"""A PostgreSQL server with default durability, on a socket in a folder of its own."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import PATIENCE, NotRunning

DEBIAN = Path("/usr/lib/postgresql")
SETTINGS = ("listen_addresses=", "max_connections=200", "shared_buffers=512MB", "max_wal_size=4GB")


def programs() -> Path | None:
    """Return the folder with the programs of the newest version, None if there is none."""
    versions = (path for path in DEBIAN.glob("*/bin") if (path / "initdb").exists())
    return max(versions, key=lambda path: float(path.parent.name), default=None)


@contextmanager
def postgres(parent: Path) -> Iterator[str]:
    """Yield the URL of an empty UTF-8 database with the schema of the archive. Raises NotRunning."""
    found = programs()
    if found is None:
        raise NotRunning("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir=parent))
    user = _user()
    if user is not None:
        shutil.chown(folder, user)
    initdb = ("-D", folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C")
    subprocess.run(_as(user, found / "initdb", *initdb), check=True, capture_output=True, cwd="/", timeout=PATIENCE)
    with _server(found, folder, user):
        url = f"postgresql+psycopg://postgres@/postgres?host={folder}"
        _upgrade(url)
        yield url


@contextmanager
def _server(found: Path, folder: Path, user: str | None) -> Iterator[None]:
    settings = [part for each in (*SETTINGS, f"unix_socket_directories={folder}") for part in ("-c", each)]
    with (folder / "output.log").open("wb") as log:
        command = _as(user, found / "postgres", "-D", folder / "data", *settings)
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", start_new_session=True)
    try:
        for _ in range(PATIENCE * 20):
            if server.poll() is not None:
                raise NotRunning(f"PostgreSQL does not start: {(folder / 'output.log').read_text()[-500:]}")
            if subprocess.run([found / "pg_isready", "-q", "-h", folder], check=False).returncode == 0:
                break
            time.sleep(0.05)
        yield
    finally:
        server.send_signal(signal.SIGINT)  # its "fast shutdown"
        server.wait(PATIENCE)


def _upgrade(url: str) -> None:
    from pacs.index import schema
    from pacs.index.database import Index

    index = Index(url)
    schema.upgrade(index)
    index.close()


def _user() -> str | None:
    """Return the user for the server, which refuses to run as root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _as(user: str | None, *command: object) -> list[str]:
    if user is None:
        return [str(part) for part in command]
    entry = pwd.getpwnam(user)
    prefix = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    return [*prefix, *map(str, command)]
