"""A decoder process as the server sees it: started, given one job after the other, killed when it must not go on."""

import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pacs
from pacs.dicom.syntaxes import NATIVE
from pacs.errors import OutOfResources, UndecodablePixelData
from pacs.pixels.decoder_process import BEGUN, JOB, REPLIES, REPLY, cpu_limit, time_limit
from pacs.pixels.frame_job import FrameJob

PROGRAM = "pacs.pixels.decoder_process"

START_SECONDS = 120
"""Seconds for a process to start, on a machine that is busy with other things."""

BUFFER = 2**20
"""Bytes of the socket buffers, so that a frame costs few changes between the processes."""

END_SECONDS = 10
"""Seconds for a process to end that has closed its end of the socket: the kernel may have to free gigabytes."""

TOO_LONG = (-signal.SIGXCPU, -signal.SIGALRM)
"""The statuses of a process that the kernel ended because a job took too long."""

KILLED = (-signal.SIGKILL, -signal.SIGTERM)
"""The statuses of a process that someone ended, such as an operator, or the system when it is out of memory."""

MOST_COMMENT = 4096
"""The longest comment of an error, in bytes."""

INHERITED = ("PYTHON", "LD_", "DYLD_", "LC_", "LANG", "TMPDIR")
"""How the environment variables begin that a decoder process inherits: it needs no others, which may hold passwords."""

ENVIRONMENT = {
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),  # processes are the threads
    "MALLOC_ARENA_MAX": "1",  # each arena reserves 64 MiB of the address space, which is limited
}


class DecoderDied(Exception):
    """A decoder process died before it began a job, which another one may do."""


class Decoder:
    """A decoder process. It runs one job at a time, until `has_ended`."""

    def __init__(self, program: str = PROGRAM) -> None:
        """Start a process. `program` is its module. Raises OutOfResources."""
        self.has_ended = False
        try:
            self._channel, other_end = socket.socketpair()
        except OSError as error:
            raise _cannot_start(error.strerror) from error
        try:
            with other_end:
                for each in (self._channel, other_end):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
                self._process = _start(program, other_end)
        except OSError as error:
            self._channel.close()
            raise _cannot_start(error.strerror) from error

    def greet(self) -> None:
        """Wait until the process is ready. Raises DecoderDied, and OutOfResources with the reason that it gives."""
        try:
            self._wait_at_most(START_SECONDS)
            self._reply(0)
        except _ConnectionEnded as error:
            raise DecoderDied(self._how_it_ended()) from error

    def run(self, job: FrameJob) -> bytes:
        """Return the converted frame of a job. Raises as `codecs.run`, DecoderDied, and UndecodablePixelData when the
        process crashes or exceeds a limit.
        """
        self._begin(job)
        try:
            self._wait_at_most(time_limit(job) + 2)  # by then the kernel has ended it
            return self._reply(*_sizes(job))
        except _ConnectionEnded as error:
            raise UndecodablePixelData(_sentence(self._how_it_ended(), job)) from error
        except MemoryError:  # here, not in the process, whose reply is not read to its end
            self.end()
            raise

    def _begin(self, job: FrameJob) -> None:
        """Send a job and wait until the process has all of it. Raises DecoderDied."""
        head = job.head
        try:
            self._wait_at_most(START_SECONDS)
            self._channel.sendall(JOB.pack(len(head), len(job.data)) + head)
            self._channel.sendall(job.data)
            self._receive(len(BEGUN))
        except (_ConnectionEnded, OSError) as error:
            raise DecoderDied(self._how_it_ended()) from error

    def _reply(self, least: int, most: int = 0) -> bytes:
        """Return what the process replies, of `least` to `most` bytes, or raise the error that it replies."""
        kind, length = REPLY.unpack(self._receive(REPLY.size))
        error = REPLIES[kind] if kind < len(REPLIES) else None
        if error is not None and length <= MOST_COMMENT:
            raise error(self._receive(length).decode(errors="replace"))
        if not least <= length <= most:
            self.end()
            raise UndecodablePixelData(f"A frame became {length} bytes, expected {most}")
        return self._receive(length)

    def _wait_at_most(self, seconds: int) -> None:
        """Set how long each `_receive` and each send waits. The socket itself stays a blocking one."""
        for each in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._channel.setsockopt(socket.SOL_SOCKET, each, struct.pack("ll", seconds, 0))

    def _receive(self, count: int) -> bytes:
        """Return `count` bytes, which the kernel collects. Raises _ConnectionEnded, also when they come too late."""
        try:
            received = self._channel.recv(count, socket.MSG_WAITALL)
        except OSError as error:
            raise _ConnectionEnded from error
        if len(received) < count:
            raise _ConnectionEnded
        return received

    def _how_it_ended(self) -> int | None:
        """Wait for the process, which has ended or is late, and return its status; None if it had to be killed."""
        try:
            return self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.end()

    def kill(self) -> None:
        """Kill the process; safe to call from another thread than that of `run`, which then raises."""
        self._process.kill()

    def end(self) -> None:
        """Kill the process and release what belongs to it."""
        self.has_ended = True
        self._process.kill()
        self._process.wait()
        self._channel.close()


def probe(program: str = PROGRAM) -> None:
    """Start a decoder process and end it. Raises OutOfResources when none can be started."""
    decoder = Decoder(program)
    try:
        decoder.greet()
    except DecoderDied as error:
        raise _cannot_start("it ends while it starts") from error
    finally:
        decoder.end()


class _ConnectionEnded(Exception):
    """The process closed its end of the socket, or did not reply in time."""


def _start(program: str, standard_input: socket.socket) -> "subprocess.Popen[bytes]":
    inherited = {key: value for key, value in os.environ.items() if key.startswith(INHERITED)}
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-P", "-m", program],
        stdin=standard_input.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=inherited | ENVIRONMENT | {"PYTHONPATH": _module_path()},
        start_new_session=True,  # Ctrl-C on a terminal is for the server
    )


def _module_path() -> str:
    """Return where the process finds its modules: as this one does, but never in the working directory.

    An interactive Python has '' in its path, and the working directory may hold received files, such as numpy.py.
    """
    own = str(Path(pacs.__file__).parents[1])
    return os.pathsep.join(dict.fromkeys([*filter(os.path.isabs, sys.path), own]))


def _cannot_start(why: str | None) -> OutOfResources:
    return OutOfResources(f"The server cannot start a decoder process ({why})")


def _sizes(job: FrameJob) -> tuple[int, int]:
    """Return the least and the most bytes of a converted frame."""
    size = job.result.frame_size
    return (size, size) if job.target in NATIVE else (1, 2 * size + 2**16)


def _sentence(status: int | None, job: FrameJob) -> str:
    """Return what happened to a process that ended with a status while it ran a job."""
    if status is None or status in TOO_LONG:
        return f"A frame took its decoder more than {cpu_limit(job)} s"
    return f"The decoder of a frame {'crashed' if status not in KILLED else 'was killed'} ({_name(status)})"


def _name(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"
