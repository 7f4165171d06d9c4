"""A pool of decoder processes, bounded in number, memory and time."""

from concurrent.futures import Future
from typing import Self

from pacs.pixels.frame_job import FrameJob


class DecoderPool:
    """Runs frame jobs in other processes, so that no codestream can harm this one.

    Processes are started when they are needed, used again, and end when they are idle for a while.
    """

    def __init__(self, processes: int) -> None:
        self.processes = processes

    def submit(self, job: FrameJob) -> "Future[bytes]":
        """Queue a job. The future raises as `codecs.run`, and UndecodablePixelData for a crash or a limit."""
        raise NotImplementedError(job)

    def close(self) -> None:
        """End all processes. Jobs that have not ended fail with OutOfResources."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
