"""A pool of decoder processes, bounded in number, memory and time."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Self

from pacs.errors import OutOfResources, ServerStopping
from pacs.pixels.decoder import PROGRAM, Decoder, DecoderDied
from pacs.pixels.frame_job import FrameJob
from pacs.support.exhaustion import exhaustion
from pacs.support.threads import start_thread

IDLE_SECONDS = 60.0
"""Seconds after which a process without a job ends."""

ATTEMPTS = 3
"""How many processes may die one after the other before they begin a job, until the job fails."""

STOPPING = "The server is stopping"

Observer = Callable[[FrameJob, float, Exception | None], object]
"""Is called for each job that has ended, with its seconds in a decoder and its error; must not raise."""


class DecoderPool:
    """Runs frame jobs in other processes, so that no codestream can harm this one.

    Processes are started when they are needed, used again, and end when they are idle for a while. Each has a thread
    here, which takes jobs from the queue in the order of their submission.
    """

    def __init__(
        self, processes: int, observe: Observer = lambda *_: None, program: str = PROGRAM, idle: float = IDLE_SECONDS
    ) -> None:
        self.processes = processes
        self._observe, self._program, self._idle_seconds = observe, program, idle
        self._changed = threading.Condition()
        self._queue: deque[tuple[FrameJob, Future[bytes]]] = deque()
        self._threads: set[threading.Thread] = set()
        self._decoders: set[Decoder] = set()
        self._idle = 0
        """How many threads wait for a job."""
        self._is_closed = False

    def submit(self, job: FrameJob) -> "Future[bytes]":
        """Queue a job. The future raises as `codecs.run`, and UndecodablePixelData for a crash or a limit.

        Raises NotSupported and UndecodablePixelData as `FrameJob.check`, and OutOfResources.
        """
        job.check()
        future: Future[bytes] = Future()
        with self._changed:
            if self._is_closed:
                raise ServerStopping(STOPPING)
            if self._idle <= len(self._queue) and len(self._threads) < self.processes:
                self._add_thread()
            self._queue.append((job, future))
            self._changed.notify()
        future.add_done_callback(self._forget)
        return future

    def _forget(self, future: "Future[bytes]") -> None:
        """Remove a cancelled job from the queue, where its data would stay in memory until a process is free."""
        if future.cancelled():
            with self._changed:
                self._queue = deque(each for each in self._queue if each[1] is not future)

    def _add_thread(self) -> None:
        """Start a thread. Raises OutOfResources if there is no other one that could take the job."""
        try:
            self._threads.add(start_thread("pacs-decode", self._work))
        except OutOfResources:
            if not self._threads:
                raise

    def close(self) -> None:
        """End all processes. Jobs that have not ended fail with OutOfResources."""
        with self._changed:
            self._is_closed = True
            waiting = [future for _, future in self._queue]
            self._queue.clear()
            for decoder in self._decoders:
                decoder.kill()
            threads = tuple(self._threads)
            self._changed.notify_all()
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(ServerStopping(STOPPING))
        for thread in threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- in the threads -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Run jobs in one process after the other, until there is none for a while."""
        decoders = _RenewedDecoder(self._new_decoder)
        try:
            while self._run_next(decoders):
                pass
        finally:
            decoders.end()

    def _run_next(self, decoders: "_RenewedDecoder") -> bool:
        """Run the next job; return False when this thread is to end instead."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._queue or self._is_closed, self._idle_seconds)
            self._idle -= 1
            if not self._queue:
                self._threads.discard(threading.current_thread())
                return False
            job, future = self._queue.popleft()
        if future.set_running_or_notify_cancel():
            self._run(job, future, decoders)
        return True

    def _run(self, job: FrameJob, future: "Future[bytes]", decoders: "_RenewedDecoder") -> None:
        """Run a job and set the result of its future."""
        began = time.perf_counter()
        try:
            result = decoders.run(job)
        except Exception as error:
            self._observe(job, time.perf_counter() - began, error)
            future.set_exception(ServerStopping(STOPPING) if self._is_closed else exhaustion(error) or error)
        else:
            self._observe(job, time.perf_counter() - began, None)
            future.set_result(result)

    def _new_decoder(self) -> Decoder:
        """Start a process and wait until it is ready. Raises OutOfResources and DecoderDied."""
        decoder = Decoder(self._program)
        with self._changed:
            self._decoders = {each for each in self._decoders if not each.has_ended} | {decoder}
            if self._is_closed:
                decoder.kill()
        try:
            decoder.greet()
        except BaseException:
            decoder.end()
            raise
        return decoder


class _RenewedDecoder:
    """The process of one thread, which is replaced when it has ended."""

    def __init__(self, start: Callable[[], Decoder]) -> None:
        self._start = start
        self._decoder: Decoder | None = None

    def run(self, job: FrameJob) -> bytes:
        """Run a job in a process that lives. Raises as `Decoder.run`, and OutOfResources."""
        for _ in range(ATTEMPTS):
            try:
                if self._decoder is None or self._decoder.has_ended:
                    self._decoder = self._start()
                return self._decoder.run(job)
            except DecoderDied:
                continue
        raise OutOfResources("The decoder processes end at once; restart the server")

    def end(self) -> None:
        """End the process."""
        if self._decoder is not None:
            self._decoder.end()
