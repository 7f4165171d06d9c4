"""Damaged data sets are converted or refused with an error of this project, whatever is damaged.

Frames are not decoded here: tests/pixels/test_pool.py and tests/hostile have damaged frames.
"""

import io
import random
import tracemalloc
from concurrent.futures import Future
from contextlib import closing
from struct import pack

import pytest

from pacs.dicom.elements import Encoding, Source
from pacs.dicom.syntaxes import EXPLICIT_LITTLE, NATIVE
from pacs.errors import PacsError
from pacs.pixels.capabilities import DECODED, ENCODED
from pacs.pixels.conversion import Conversion
from pacs.pixels.frame_job import FrameJob
from pacs.pixels.survey import survey
from tests.pixels.converting import InProcessPool, converted, encoded, signed, with_icon
from tests.pixels.samples import native_sample, sample

HEAD = 2500
"""The bytes in which most is damaged: elements, offset tables and the first frame."""

MOST = 1 << 27
"""The bytes of a converted data set that are looked at: a damaged one may claim many frames."""


class ZeroPool(InProcessPool):
    """Returns zeros for each frame."""

    def submit(self, job: FrameJob) -> "Future[bytes]":
        """Check a job, and do no more."""
        job.check()
        future: Future[bytes] = Future()
        future.set_result(bytes(min(job.result.frame_size, MOST)))
        return future


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Return data with one to four bytes changed, or parts removed, inserted or repeated."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(min(len(changed), chance.choice([HEAD, len(data)])))
        source = chance.randrange(len(changed))
        match chance.randrange(4):
            case 0 | 1:
                changed[at] = chance.choice([0, 1, 254, 255, chance.randrange(256)])
            case 2:
                del changed[at : at + chance.choice([1, 2, 8, 100])]
            case _:
                changed[at:at] = changed[source : source + chance.choice([1, 8, 40, 200])]
    return bytes(changed)


def instance(source: str) -> bytes:
    """Return an instance with several frames, an icon and digital signatures in a transfer syntax."""
    if source in NATIVE:
        return converted(encoded(native_sample(frames=3)), EXPLICIT_LITTLE, source)
    icon = sample(source, size=(16, 16)).compressed
    return encoded(signed(with_icon(sample(source, frames=3).compressed, icon), [0x7FE00010], [0x00100010]))


@pytest.mark.parametrize("source", [*DECODED, *NATIVE])
def test_a_damaged_data_set_is_converted_or_refused(source: str, pytestconfig: pytest.Config):
    """Nothing else is raised, and nothing runs without end."""
    chance, data = random.Random(source), instance(source)
    outcomes = set()
    for _ in range(5_000 if pytestconfig.getoption("--long") else 80):
        target = chance.choice([*NATIVE, *ENCODED])
        outcomes.add(_outcome(damaged(data, chance), source, target))
    assert len(outcomes) > 1


def _outcome(data: bytes, source: str, target: str) -> str:
    length = 0
    try:
        with closing(Conversion(io.BytesIO(data), source, target, ZeroPool())) as conversion:  # type: ignore[arg-type]
            for piece in conversion:
                length += len(piece)
                if length > MOST:
                    break
    except PacsError as error:
        return type(error).__name__
    return "converted"


@pytest.mark.parametrize(
    "element",
    [
        pack("<HH2sH", 0x0009, 0x1010, b"LO", 0),
        pack("<HH2sH", 0x0028, 0x0010, b"US", 0),
        pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0),
    ],
    ids=["private", "Rows", "Pixel Data"],
)
def test_memory_does_not_grow_with_the_number_of_elements(element: bytes):
    """Only those are remembered that describe pixels, and no more of each than its place."""
    count = 20_000
    data = io.BytesIO(element * count)
    tracemalloc.start()
    levels = list(survey(Source(data, Encoding()), Encoding()))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(levels) == 1
    assert most < 40 * count + 100_000


def test_elements_of_every_tag_are_not_remembered():
    """Millions of different ones cost nothing."""
    data = io.BytesIO(b"".join(pack("<HH2sH", 0x0009, number, b"LO", 0) for number in range(1, 20_000)))
    tracemalloc.start()
    (level,) = survey(Source(data, Encoding()), Encoding())
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not level.values
    assert most < 100_000
