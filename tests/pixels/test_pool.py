"""The pool of decoder processes: what a job can do to it, and what it cannot."""

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pacs import settings
from pacs.config import Config
from pacs.dicom.syntaxes import EXPLICIT_LITTLE
from pacs.errors import NotSupported, OutOfResources, ServerStopping, UndecodablePixelData
from pacs.observability.events import FrameConverted
from pacs.pixels import decoder, decoder_process
from pacs.pixels.decoder import probe
from pacs.pixels.frame_job import FrameJob
from pacs.pixels.image_pixel import ImagePixel
from pacs.pixels.pool import DecoderPool
from pacs.testing import serving
from tests.decoders import decoders, is_alive
from tests.pixels import misbehaving
from tests.waiting import eventually

RLE = "1.2.840.10008.1.2.5"
PIXEL = ImagePixel(4, 4, 1, "MONOCHROME2", 0, 16, 12, 11, 0)
MISBEHAVING = "tests.pixels.misbehaving"


def job(what: str, pixel: ImagePixel = PIXEL, target: str = EXPLICIT_LITTLE) -> FrameJob:
    """Return a job that makes the decoder process do `what`."""
    return FrameJob(what.encode(), RLE, pixel, target, pixel)


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    """A pool of two processes."""
    with DecoderPool(2, program=MISBEHAVING) as pool:
        yield pool


def pid(pool: DecoderPool) -> int:
    """Return the process that takes the next job."""
    return int.from_bytes(pool.submit(job("pid")).result(60), "little")


def children() -> list[int]:
    """Return the decoder processes of this process."""
    return decoders(os.getpid())


# --- results ------------------------------------------------------------------------------------------------------


def test_a_frame_comes_back_complete(pool):
    """However large it is compared with the buffers of the socket."""
    large = replace(PIXEL, rows=3000, columns=1000)
    assert pool.submit(job("zeros", large)).result(60) == bytes(6_000_000)


def test_a_process_is_used_again(pool):
    """A process takes one job after the other."""
    assert pid(pool) == pid(pool)


def test_as_many_processes_as_there_are_jobs_at_once_and_no_more_than_the_bound(pool):
    """Six jobs at once start the two processes of the pool."""
    futures = [pool.submit(job("sleep 0.3")) for _ in range(6)]
    eventually(lambda: len(children()) == 2)
    assert [each.result(60) for each in futures] == [bytes(32)] * 6
    assert len(children()) == 2


@pytest.mark.parametrize(
    ("what", "error", "comment"),
    [
        ("damaged", UndecodablePixelData, "The codestream is damaged"),
        ("unsupported", NotSupported, "It has 32 bits"),
        ("error", UndecodablePixelData, "A frame cannot be converted (ValueError)"),
    ],
)
def test_an_error_of_the_codec_is_the_error_of_the_job_and_the_process_goes_on(pool, what, error, comment):
    """The caller gets the error with its sentence."""
    before = pid(pool)
    failed = pool.submit(job(what)).exception(60)
    assert (type(failed), str(failed)) == (error, comment)
    assert pid(pool) == before


def test_what_a_library_prints_is_not_taken_for_a_reply(pool):
    """Standard input, output and error of the process are /dev/null."""
    assert pool.submit(job("print")).result(60) == bytes(32)


# --- a job that must not go on ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "comment"),
    [
        ("crash", "The decoder of a frame crashed (SIGSEGV)"),
        ("die SIGABRT", "The decoder of a frame crashed (SIGABRT)"),
        ("die SIGKILL", "The decoder of a frame was killed (SIGKILL)"),
        ("exit 3", "The decoder of a frame crashed (exit status 3)"),
        ("exit 0", "The decoder of a frame crashed (exit status 0)"),
        ("bytes 33", "A frame became 33 bytes, expected 32"),
        ("bytes 1000000", "A frame became 1000000 bytes, expected 32"),
        ("bytes 31", "A frame became 31 bytes, expected 32"),
        ("allocate 1000000000", "A frame needs more than 128 MiB of memory"),
    ],
)
def test_a_job_that_crashes_or_exceeds_a_limit_fails_alone(pool, what, comment):
    """Its error says what happened, and the next job has another process."""
    failed = pool.submit(job(what)).exception(60)
    assert (type(failed), str(failed)) == (UndecodablePixelData, comment)
    assert pool.submit(job("zeros")).result(60) == bytes(32)


def test_an_encoded_frame_may_have_any_size_up_to_a_bound(pool):
    """Twice the native frame and 64 KiB."""
    assert pool.submit(job("bytes 50", target=RLE)).result(60) == bytes(50)
    assert isinstance(pool.submit(job("bytes 66000", target=RLE)).exception(60), UndecodablePixelData)
    assert isinstance(pool.submit(job("bytes 0", target=RLE)).exception(60), UndecodablePixelData)


@pytest.mark.parametrize("what", ["loop", "sleep 600", "ignore SIGXCPU SIGALRM"])
def test_a_job_that_does_not_end_is_ended(pool, monkeypatch, what):
    """Whether it uses CPU time, or only waits, or ignores the signals of the kernel."""
    monkeypatch.setattr(decoder_process, "SECONDS", misbehaving.SECONDS)
    monkeypatch.setattr(decoder_process, "STARVED", misbehaving.STARVED)
    monkeypatch.setattr(decoder, "END_SECONDS", 1)
    failed = pool.submit(job(what)).exception(60)
    assert (type(failed), str(failed)) == (UndecodablePixelData, "A frame took its decoder more than 1 s")
    assert pool.submit(job("zeros")).result(60) == bytes(32)


@pytest.mark.parametrize(
    ("pixel", "error"),
    [
        (replace(PIXEL, rows=40_000, columns=40_000), NotSupported),
        (replace(PIXEL, rows=0), UndecodablePixelData),
        (replace(PIXEL, bits_allocated=7), UndecodablePixelData),
    ],
)
def test_a_frame_that_is_too_large_or_cannot_exist_starts_no_process(pool, pixel, error):
    """It is refused before."""
    with pytest.raises(error):
        pool.submit(job("zeros", pixel))
    assert children() == []


# --- processes that die -------------------------------------------------------------------------------------------


def test_a_process_that_died_while_it_was_idle_costs_no_job(pool):
    """The job is given to another process."""
    before = pid(pool)
    os.kill(before, signal.SIGKILL)
    assert pid(pool) != before


def test_a_process_ignores_the_signals_that_stop_a_server(pool):
    """They reach all processes of a service while its operations drain."""
    before = pid(pool)
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(before, each)
    assert pid(pool) == before


def test_a_process_is_killed_before_the_server_when_the_system_is_out_of_memory(pool):
    """The kernel kills the one with the highest score."""
    assert Path(f"/proc/{pid(pool)}/oom_score_adj").read_text() == "1000\n"


def test_a_process_inherits_neither_descriptors_nor_passwords(pool, monkeypatch, tmp_path):
    """It handles what strangers sent."""
    monkeypatch.setenv("PACS_SECRET", "password")
    with (tmp_path / "file").open("w") as inherited:
        os.set_inheritable(inherited.fileno(), True)
        count = int.from_bytes(pool.submit(job("descriptors")).result(60), "little")
    assert count == 5  # three of /dev/null, the socket, and that of the listing
    assert pool.submit(job("secret", target=RLE)).result(60) == b"None"


def test_a_process_imports_nothing_from_the_working_directory(tmp_path, monkeypatch):
    """Where an interactive Python looks first, and where received files may be."""
    for name in ("numpy", "struct", "imagecodecs"):
        (tmp_path / f"{name}.py").write_text("import os; os._exit(1)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", ".", *sys.path])
    probe()


def test_idle_processes_end():
    """And start again when they are needed."""
    with DecoderPool(1, program=MISBEHAVING, idle=0.1) as pool:
        first = pid(pool)
        eventually(lambda: not is_alive(first))
        assert pid(pool) != first


def test_a_cancelled_job_releases_its_data_at_once():
    """Otherwise requestors that give up fill the memory while the processes work on something long."""
    with DecoderPool(1, program=MISBEHAVING) as pool:
        running = pool.submit(job("sleep 60"))
        eventually(running.running)
        waiting = job("zeros")
        references = sys.getrefcount(waiting)
        futures = [pool.submit(waiting) for _ in range(3)]
        assert all(each.cancel() for each in futures)
        assert sys.getrefcount(waiting) == references
        assert not running.done()


def test_closing_ends_all_processes_and_fails_what_runs_and_waits():
    """The pool is empty afterwards, and takes no job."""
    pool = DecoderPool(1, program=MISBEHAVING)
    running, waiting = pool.submit(job("sleep 60")), pool.submit(job("zeros"))
    eventually(lambda: running.running() and children())
    pool.close()
    assert [type(each.exception(60)) for each in (running, waiting)] == [ServerStopping] * 2
    assert children() == []
    with pytest.raises(ServerStopping):
        pool.submit(job("zeros"))
    pool.close()


def test_without_descriptors_a_job_is_refused_and_the_next_one_is_run(pool):
    """As a server is at the limit of its open files."""
    taken = []
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        failed = pool.submit(job("zeros")).exception(60)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for each in taken:
            os.close(each)
    assert (type(failed), str(failed)) == (
        OutOfResources,
        "The server cannot start a decoder process (Too many open files)",
    )
    assert pool.submit(job("zeros")).result(60) == bytes(32)


def test_without_memory_for_the_result_a_job_is_refused_and_the_next_one_is_run(pool):
    """In this process; those of the decoders are limited by themselves."""
    pid(pool)
    before = resource.getrlimit(resource.RLIMIT_AS)
    present = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (present + 100 * 2**20, before[1]))
    try:
        failed = pool.submit(job("zeros", replace(PIXEL, rows=20_000, columns=6000))).exception(60)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert (type(failed), str(failed)) == (OutOfResources, "The server is out of memory")
    assert pool.submit(job("zeros")).result(60) == bytes(32)


def test_processes_that_end_at_once_are_not_started_for_ever():
    """As after an upgrade whose modules do not fit the running server."""
    with DecoderPool(1, program="tests.pixels.no_such_module") as pool:
        failed = pool.submit(job("zeros")).exception(60)
    assert (type(failed), str(failed)) == (OutOfResources, "The decoder processes end at once; restart the server")


def test_a_process_that_cannot_load_its_codecs_says_so():
    """The error names the module that is missing."""
    with DecoderPool(1, program="tests.pixels.unloadable") as pool:
        failed = pool.submit(job("zeros")).exception(60)
    assert type(failed) is OutOfResources
    assert "No module named 'imagecodecs'" in str(failed)


# --- in the archive -----------------------------------------------------------------------------------------------


def test_an_archive_starts_decoders_when_they_are_needed_and_ends_them_when_it_stops(tmp_path):
    """It has one pool, and publishes what becomes of each frame."""
    events = []
    with serving(tmp_path, {"limits.decoders": 3}) as archive:
        assert archive.decoders.processes == 3
        assert children() == []
        archive.events.subscribe(events.append)
        assert isinstance(archive.decoders.submit(job("no RLE")).exception(60), UndecodablePixelData)
        assert len(children()) == 1
    assert children() == []
    (frame,) = (each for each in events if isinstance(each, FrameConverted))
    assert (frame.transfer_syntax, frame.target, frame.result) == (RLE, EXPLICIT_LITTLE, "UndecodablePixelData")


@pytest.mark.parametrize(("workers", "chosen", "each"), [(1, 4, 4), (4, 4, 1), (4, 5, 2), (3, 1, 1)])
def test_workers_share_the_number_of_decoders(workers, chosen, each):
    """Every worker has one at least."""
    assert settings.decoders(Config(limits={"decoders": chosen}), workers) == each


def test_by_default_there_is_a_decoder_for_each_core():
    """Of those that the process may use, which a container may restrict."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert settings.decoders(Config(), 1) == 1
    finally:
        os.sched_setaffinity(0, before)
    assert settings.decoders(Config(), 1) == len(before)
