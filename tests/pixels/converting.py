"""Conversions in tests: with a pool that decodes in this process, and data sets with given fragments."""

import io
from concurrent.futures import Future
from contextlib import closing

from pydicom.dataset import Dataset

from pacs.dicom import part10
from pacs.pixels import codecs
from pacs.pixels.conversion import Conversion
from pacs.pixels.frame_job import FrameJob


class InProcessPool:
    """Does each job at once in this process, and counts those whose frames were not taken yet."""

    def __init__(self, processes: int = 2) -> None:
        self.processes = processes
        self.jobs: list[FrameJob] = []

    def submit(self, job: FrameJob) -> "Future[bytes]":
        """Do a job."""
        self.jobs.append(job)
        future: Future[bytes] = Future()
        try:
            future.set_result(codecs.run(job))
        except Exception as error:
            future.set_exception(error)
        return future


def converted(data: bytes, source: str, target: str) -> bytes:
    """Return a whole data set in another transfer syntax."""
    return converted_with_notices(data, source, target)[0]


def converted_with_notices(data: bytes, source: str, target: str) -> tuple[bytes, tuple[str, ...]]:
    """Return a whole data set in another transfer syntax, and what was changed beyond the encoding."""
    with closing(Conversion(io.BytesIO(data), source, target, InProcessPool())) as conversion:
        return b"".join(conversion), conversion.notices


def encoded(data_set: Dataset, transfer_syntax: str = "") -> bytes:
    """Return the bytes of a data set, without File Meta Information, as pydicom writes it."""
    if transfer_syntax:
        data_set.file_meta.TransferSyntaxUID = transfer_syntax
    file = io.BytesIO()
    data_set.save_as(file, enforce_file_format=True)
    file.seek(0)
    file.seek(part10.read_file_meta(file).data_offset)
    return file.read()
