"""The program of a decoder process: convert the frames that arrive on standard input, a socket, until it is closed.

The protocol, after one reply to the start: the server sends a job as `JOB` and its two parts; the process sends
`BEGUN` once it has all of it, and then a reply: `REPLY` and its text or the converted frame. It is used by
`pacs.pixels.decoder`.
"""

import ctypes
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress

from pacs.errors import NotSupported, OutOfResources, PacsError, UndecodablePixelData
from pacs.pixels.frame_job import FrameJob

JOB = struct.Struct("<LL")
"""The lengths of the head and the data of a job."""
BEGUN = b"\x01"
REPLY = struct.Struct("<BQ")
"""The index of the reply in `REPLIES`, and its length."""
REPLIES: tuple[type[PacsError] | None, ...] = (None, UndecodablePixelData, NotSupported, OutOfResources)
"""The class of the error that a reply is the comment of; None for a converted frame."""

SPARE_MEMORY = 128 * 2**20
"""Bytes that every job may allocate, whatever its frame, among them for libraries that are loaded when used."""
MEMORY_FACTOR = 16
"""How many times the size of its frame a job may allocate besides: some codecs hold floating point planes."""
SECONDS, SECONDS_OF_MIB = 10, 1
"""The limit of CPU time of a job, and what each mebibyte of its frame adds."""
STARVED = 6
"""How many times its CPU time a job may take on a machine that is busy with other things."""

MOST_GROWTH = 512 * 2**20
"""Bytes of growth of its address space after which a process ends between two jobs: some decoders leak on errors."""

PR_SET_PDEATHSIG = 1
"""The option of prctl(2) for the signal at the end of the parent."""

Run = Callable[[FrameJob], bytes]


def memory_limit(job: FrameJob) -> int:
    """Return how many bytes a job may allocate."""
    return SPARE_MEMORY + MEMORY_FACTOR * max(job.stored.frame_size, job.result.frame_size)


def cpu_limit(job: FrameJob) -> int:
    """Return how many seconds of CPU time a job may use."""
    return SECONDS + SECONDS_OF_MIB * (max(job.stored.frame_size, job.result.frame_size) >> 20)


def time_limit(job: FrameJob) -> int:
    """Return how many seconds a job may take."""
    return STARVED * cpu_limit(job)


def main(load: Callable[[], Run]) -> None:
    """Serve jobs with the function that `load` returns, until the server closes its end or is gone."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they reach all processes while the server drains
        signal.signal(each, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold images of patients
    _prefer_when_out_of_memory()
    _end_with_the_server()
    channel = _own_channel()
    try:
        run = load()
    except Exception as error:
        _reply(channel, OutOfResources(f"The codecs cannot be imported ({error}); install pacs again"))
        return
    _reply(channel, b"")
    grown = _address_space() + MOST_GROWTH
    while _address_space() < grown and (job := _receive(channel)) is not None:
        channel.sendall(BEGUN)
        _reply(channel, _converted(run, job))


def _prefer_when_out_of_memory() -> None:
    """Let a system that is out of memory kill this process before the server."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _end_with_the_server() -> None:
    """Let the kernel kill this process when the thread that started it is gone, also in the middle of a job."""
    with suppress(OSError, AttributeError):  # not on Linux: there the end of the socket and the limits remain
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _own_channel() -> socket.socket:
    """Return the socket that is standard input; libraries that read or print reach nothing but /dev/null."""
    channel = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    for each in (0, 1, 2):
        os.dup2(null, each)
    os.close(null)
    return channel


def _receive(channel: socket.socket) -> FrameJob | None:
    """Return the next job, None if there will be none."""
    try:
        sizes = channel.recv(JOB.size, socket.MSG_WAITALL)
        if len(sizes) < JOB.size:
            return None
        head, data = (channel.recv(each, socket.MSG_WAITALL) for each in JOB.unpack(sizes))
        return FrameJob.from_head(head, data)
    except (ConnectionError, ValueError):  # the server ended within a job
        return None


def _converted(run: Run, job: FrameJob) -> bytes | PacsError:
    """Return the converted frame, or the error to reply."""
    _limit(job)
    try:
        return run(job)
    except (UndecodablePixelData, NotSupported) as error:
        return error
    except MemoryError:
        return UndecodablePixelData(f"A frame needs more than {memory_limit(job) >> 20} MiB of memory")
    except Exception as error:
        return UndecodablePixelData(f"A frame cannot be converted ({type(error).__name__})")
    finally:
        _unlimit()


def _limit(job: FrameJob) -> None:
    """Make the kernel end this process, or refuse it memory, at the limits of a job; also when the server is gone."""
    signal.setitimer(signal.ITIMER_REAL, time_limit(job))
    used = resource.getrusage(resource.RUSAGE_SELF)
    _set_soft(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + cpu_limit(job))
    if present := _address_space():
        _set_soft(resource.RLIMIT_AS, present + memory_limit(job))


def _unlimit() -> None:
    """Lift the limits of the job that has ended."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    _set_soft(resource.RLIMIT_CPU, resource.RLIM_INFINITY)
    if _address_space():
        _set_soft(resource.RLIMIT_AS, resource.RLIM_INFINITY)


def _set_soft(limit: int, value: int) -> None:
    """Set the soft limit, at most to the hard limit."""
    _, hard = resource.getrlimit(limit)
    if hard != resource.RLIM_INFINITY and not 0 <= value <= hard:
        value = hard
    resource.setrlimit(limit, (value, hard))


def _address_space() -> int:
    """Return the size of the address space of this process, 0 where the system does not limit it."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _reply(channel: socket.socket, result: bytes | PacsError) -> None:
    """Send a converted frame or an error."""
    kind = REPLIES.index(type(result)) if isinstance(result, PacsError) else 0
    content = result.comment.encode() if isinstance(result, PacsError) else memoryview(result).cast("B")
    channel.sendall(REPLY.pack(kind, len(content)))
    channel.sendall(content)


def _load_codecs() -> Run:
    from pacs.pixels import codecs

    return codecs.run


if __name__ == "__main__":
    main(_load_codecs)
