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
from pacs.errors import NotSupported, PacsError
from pacs.pixels import plan
from pacs.pixels.capabilities import DECODED, ENCODED
from pacs.pixels.conversion import Conversion
from pacs.pixels.frame_job import FrameJob
from pacs.pixels.survey import survey
from pacs.pixels.transfer_syntaxes import RLE_LOSSLESS as RLE
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


def nested(tag: int, items: list[bytes]) -> bytes:
    """Return a sequence."""
    content = b"".join(pack("<HHL", 0xFFFE, 0xE000, len(each)) + each for each in items)
    return pack("<HH2sHL", tag >> 16, tag & 0xFFFF, b"SQ", 0, len(content)) + content


def image_item(side: int = 1) -> bytes:
    """Return the elements of an icon, which fills some bytes and claims `side` rows and columns."""
    numbers = {0x0002: 1, 0x0010: side, 0x0011: side, 0x0100: 8, 0x0101: 8, 0x0102: 7, 0x0103: 0}
    elements = {tag: pack("<HH2sHH", 0x0028, tag, b"US", 2, number) for tag, number in numbers.items()}
    elements[0x0004] = pack("<HH2sH", 0x0028, 0x0004, b"CS", 12) + b"MONOCHROME2 "
    fragment = pack("<LL56x", 1, 64) + b"\0\0"
    items = pack("<HHL", 0xFFFE, 0xE000, 0) + pack("<HHL", 0xFFFE, 0xE000, len(fragment)) + fragment
    pixel_data = pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + items + pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return b"".join(element for _, element in sorted(elements.items())) + pixel_data


def begun(data: bytes) -> Conversion:
    """Begin a conversion of a data set in RLE, whose frames become zeros."""
    return Conversion(io.BytesIO(data), RLE, EXPLICIT_LITTLE, ZeroPool())  # type: ignore[arg-type]


def test_images_within_a_removed_element_are_removed_too():
    """They would be a second Pixel Data of the whole image; this is an Extended Offset Table with items."""
    made = encoded(sample(RLE).compressed)
    at = made.index(pack("<HH2s", 0x7FE0, 0x0010, b"OB"))
    out = converted(made[:at] + nested(0x7FE00001, [image_item()]) + made[at:], RLE, EXPLICIT_LITTLE)
    assert out == converted(made, RLE, EXPLICIT_LITTLE)


def test_images_within_a_removed_signature_are_removed_too():
    """The signature was that of the compressed image."""
    made = signed(sample(RLE).compressed, [0x7FE00010])
    icon = sample(RLE, size=(16, 16)).compressed
    for element in [*icon.group_dataset(0x0028), icon["PixelData"]]:
        made.DigitalSignaturesSequence[0].add(element)
    assert converted(encoded(made), RLE, EXPLICIT_LITTLE).count(pack("<HH", 0x7FE0, 0x0010)) == 1


def test_images_that_are_small_together_become_no_more_than_one_value_may_have():
    """A file of some kilobytes would be sent as any number of gigabytes."""
    begun(nested(0x00091001, [image_item(16_000)] * 16)).close()
    with pytest.raises(NotSupported, match="4 GiB"):
        begun(nested(0x00091001, [image_item(16_000)] * 17))


def test_the_number_of_images_is_bounded(monkeypatch: pytest.MonkeyPatch):
    """Each is remembered with its frames and attributes."""
    monkeypatch.setattr(plan, "MOST_IMAGES", 3)
    begun(nested(0x00091001, [image_item()] * 3)).close()
    with pytest.raises(NotSupported, match="more than 3 images"):
        begun(nested(0x00091001, [image_item()] * 4))


def test_signatures_take_no_more_memory_than_in_the_file():
    """And their number is bounded."""
    tags = pack("<HH2sH", 0x0400, 0x0020, b"AT", 4092) + b"".join(pack("<HH", 9, each) for each in range(1023))
    data = nested(0x4FFE0001, [pack("<HH2sHH", 0x0400, 0x0005, b"US", 2, 1) + tags] * 1000)
    tracemalloc.start()
    for _ in survey(Source(io.BytesIO(data), Encoding()), Encoding()):
        pass
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1.5 * len(data)
    with pytest.raises(NotSupported, match="more than 10000 digital signatures"):
        begun(nested(0x4FFE0001, [b""] * 10_001))
