"""External programs in tests: DCMTK's tools, and PixelMed on a JVM."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import END_WITH_PARENT, free_port

PATIENCE = 45
"""Seconds a program may take before the test gives it up: less than a test may, so that it is said which it was."""

JARS = Path("/usr/share/java")
PIXELMED = ("pixelmed", "commons-codec", "commons-net", "slf4j-api", "slf4j-nop", "vecmath", "hsqldb", "jmdns")


def missing(what: str) -> None:
    """Skip the test, or fail it with CI=true, because a program is not installed."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is not installed, and CI=true says it must be")
    pytest.skip(f"{what} is not installed")


def needs(program: str) -> str:
    """Return the path of `program`; without it skip the test, or fail it with CI=true."""
    found = shutil.which(program)
    if found is None:
        missing(program)
    return str(found)


def needs_ipv6() -> None:
    """Skip the test on a machine without IPv6 on its loopback interface."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine cannot listen on ::1 ({error.strerror})")


def run(program: str, *arguments: object, check: bool = True, **environment: object) -> str:
    """Run a program to its end and return its output; with `check` its exit status must be 0."""
    try:
        finished = subprocess.run(
            [needs(program), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
            env=os.environ | {"TCP_NODELAY": "1"} | {name: str(value) for name, value in environment.items()},
        )
    except subprocess.TimeoutExpired as error:
        pytest.fail(
            f"{program} did not end within {PATIENCE} s; it said:\n{(error.output or b'').decode('utf-8', 'replace')}"
        )
    output = finished.stdout.decode("utf-8", "replace")
    assert not check or finished.returncode == 0, output
    return output


def start(command: Sequence[object], **options: Any) -> "subprocess.Popen[Any]":
    """Start a program that must not outlive the test process; `options` are those of `Popen`."""
    return subprocess.Popen([*END_WITH_PARENT, *map(str, command)], **options)


@contextmanager
def running(command: Sequence[object], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program for the `with` block; its output goes to a file."""
    with log.open("wb") as out:
        process = start(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()  # Orthanc needs more than a second for a clean stop
        process.wait(PATIENCE)


@dataclass(frozen=True)
class Storescp:
    """A running storescp of DCMTK: its AE title, port, folder and log."""

    ae_title: str
    port: int
    folder: Path
    log: Path

    def files(self) -> list[Path]:
        """Return the received files, sorted by name."""
        return sorted(path for path in self.folder.iterdir() if path.is_file())


@contextmanager
def storescp(folder: Path, ae_title: str = "STORE_SCP", *options: object, port: int = 0) -> Iterator[Storescp]:
    """Run `storescp -d` (bit preserving, every transfer syntax) for the `with` block, on a free port if none is given.

    `options` replace `+xa +B`.
    """
    program = needs("storescp")
    folder.mkdir(parents=True)
    log = folder.with_suffix(".log")
    port = port or free_port()
    chosen = options or ("+xa", "+B")
    with log.open("wb") as out:
        process = start(
            [program, "-d", "-aet", ae_title, *map(str, chosen), "-od", str(folder), str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for_port(port)
        yield Storescp(ae_title, port, folder, log)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def wait_for_port(port: int) -> None:
    """Wait until something listens on `port`; fail the test if nothing does."""
    for _ in range(PATIENCE * 50):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    pytest.fail(f"nothing listens on port {port}")


def pixelmed(source: Path, arguments: Sequence[object]) -> str:
    """Run a Java source file with PixelMed, which must succeed, and return its output."""
    finished = run_pixelmed(source, arguments)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def run_pixelmed(source: Path, arguments: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """Run a Java source file with PixelMed."""
    java = needs("java")
    if not (JARS / "pixelmed.jar").exists():
        missing("libpixelmed-java")
    classes = os.pathsep.join(str(JARS / f"{jar}.jar") for jar in PIXELMED)
    command = [java, "-cp", classes, str(source), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", timeout=PATIENCE, check=False
    )
