"""Conversions in tests, with a pool that decodes in this process, and instances with unusual elements."""

import io
from concurrent.futures import Future
from contextlib import closing
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pacs.dicom import part10
from pacs.pixels import codecs
from pacs.pixels.conversion import Conversion
from pacs.pixels.frame_job import FrameJob
from tests.pixels.samples import native_sample, pixels_of


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


def changed(data_set: Dataset, **attributes: Any) -> Dataset:
    """Return a data set with attributes of other values; None removes one, (VR, value) sets its VR too."""
    for keyword, value in attributes.items():
        if value is None:
            delattr(data_set, keyword)
        elif isinstance(value, tuple):
            data_set.add_new(keyword, *value)
        else:
            setattr(data_set, keyword, value)
    return data_set


def assert_in_order(data_set: Dataset) -> None:
    """Assert that the elements were written in the order of their tags."""
    tags = [int(tag) for tag in data_set._dict]
    assert tags == sorted(tags)


def overlaid() -> Dataset:
    """A native image of 12 bits with an overlay in bit 15."""
    data_set = native_sample()
    pixels = pixels_of(data_set).astype("<u2")
    pixels[0, ::3] |= 0x8000
    data_set.PixelData = pixels.tobytes()
    data_set.add_new(0x60000010, "US", 48)
    data_set.add_new(0x60000011, "US", 64)
    data_set.add_new(0x60000050, "SS", [1, 1])
    data_set.add_new(0x60000100, "US", 16)
    data_set.add_new(0x60000102, "US", 15)
    return data_set


def with_icon(made: Dataset, icon: Dataset) -> Dataset:
    """Return an instance with an image in its Icon Image Sequence."""
    item = Dataset()
    for element in [*icon.group_dataset(0x0028), icon["PixelData"]]:
        item.add(element)
    made.IconImageSequence = Sequence([item])
    return made


def signed(made: Dataset, *tag_lists: list[int]) -> Dataset:
    """Return an instance with one digital signature for each list of tags."""
    made.MACParametersSequence = Sequence([_mac(number, tags) for number, tags in enumerate(tag_lists)])
    made.DigitalSignaturesSequence = Sequence([_signature(number) for number in range(len(tag_lists))])
    return made


def _mac(number: int, tags: list[int]) -> Dataset:
    return changed(Dataset(), MACIDNumber=number, MACAlgorithm="SHA256", DataElementsSigned=tags)


def _signature(number: int) -> Dataset:
    return changed(Dataset(), MACIDNumber=number, DigitalSignatureUID="1.2.3", Signature=b"1234")
