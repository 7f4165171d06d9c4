"""A decoder process whose codec does what the data of a job says: the real program with another `run`."""

import ctypes
import os
import signal
import sys
import time

from pacs.errors import NotSupported, UndecodablePixelData
from pacs.pixels import decoder_process
from pacs.pixels.decoder_process import Run
from pacs.pixels.frame_job import FrameJob

SECONDS, STARVED = 1, 3
"""Limits of time for tests that do not take minutes."""


def run(job: FrameJob) -> bytes:
    """Do what `job.data` says."""
    what, _, argument = job.data.decode().partition(" ")
    return {
        "zeros": lambda: bytes(job.result.frame_size),
        "bytes": lambda: bytes(int(argument)),
        "pid": lambda: os.getpid().to_bytes(job.result.frame_size, "little"),
        "sleep": lambda: _sleep(float(argument), job),
        "loop": _loop,
        "ignore": lambda: _ignore(argument.split()),
        "crash": lambda: ctypes.string_at(0),
        "die": lambda: os.kill(os.getpid(), getattr(signal, argument)),
        "exit": lambda: os._exit(int(argument)),
        "allocate": lambda: bytes(bytearray(int(argument)))[:0],
        "print": lambda: _print(job),
        "damaged": lambda: _raise(UndecodablePixelData("The codestream is damaged")),
        "unsupported": lambda: _raise(NotSupported("It has 32 bits")),
        "error": lambda: _raise(ValueError("no marker")),
        "descriptors": lambda: len(os.listdir("/proc/self/fd")).to_bytes(job.result.frame_size, "little"),
        "secret": lambda: str(os.environ.get("PACS_SECRET")).encode(),
    }[what]()


def _sleep(seconds: float, job: FrameJob) -> bytes:
    time.sleep(seconds)
    return bytes(job.result.frame_size)


def _loop() -> bytes:
    while True:
        pass


def _ignore(signals: list[str]) -> bytes:
    for each in signals:
        signal.signal(getattr(signal, each), signal.SIG_IGN)
    return _loop()


def _print(job: FrameJob) -> bytes:
    os.write(1, b"a library prints")
    print("and so", file=sys.stderr, flush=True)
    os.read(0, 1)
    return bytes(job.result.frame_size)


def _raise(error: Exception) -> bytes:
    raise error


def _load() -> Run:
    decoder_process.SECONDS, decoder_process.STARVED = SECONDS, STARVED
    return run


if __name__ == "__main__":
    decoder_process.main(_load)
