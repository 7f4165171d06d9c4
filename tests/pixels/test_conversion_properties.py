"""Conversions of data sets with random elements and pixels return the same data set when they are undone."""

import itertools

import numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pacs.dicom.syntaxes import DEFLATED_LITTLE, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from pacs.pixels.capabilities import ENCODED
from pacs.pixels.native_frames import NativeFrames, joined
from tests.dicom.test_syntaxes import read
from tests.pixels.converting import assert_in_order, converted, encoded
from tests.pixels.samples import native_sample, pixels_of

TEXTS = st.text("ABCabc 0123", max_size=12).map(str.strip)


def elements(keywords: dict[str, st.SearchStrategy]) -> st.SearchStrategy[dict]:
    """Return a strategy for some of these elements."""
    return st.fixed_dictionaries({}, optional=keywords)


SIMPLE = {
    "PatientComments": TEXTS,
    "InstanceNumber": st.integers(0, 9999),
    "ImagePositionPatient": st.lists(st.integers(-999, 999), min_size=3, max_size=3),
    "LossyImageCompression": st.sampled_from(["00", "01"]),
    "SmallestImagePixelValue": st.integers(0, 255),
    "RescaleSlope": st.integers(1, 9),
    "ICCProfile": st.binary(max_size=40).map(lambda value: value + bytes(len(value) % 2)),
    "PixelPaddingValue": st.integers(0, 255),
    "DataSetTrailingPadding": st.just(bytes(8)),
}
ITEMS = st.recursive(
    elements(SIMPLE),
    lambda inner: elements(SIMPLE | {"ReferencedImageSequence": st.lists(inner, max_size=2)}),
    max_leaves=5,
)
EXTRA = elements(SIMPLE | {"SharedFunctionalGroupsSequence": st.lists(ITEMS, max_size=2)})


def filled(data_set: Dataset, values: dict) -> Dataset:
    """Add elements to a data set; lists of dictionaries are items."""
    for keyword, value in values.items():
        is_sequence = keyword.endswith("Sequence")
        setattr(data_set, keyword, Sequence([filled(Dataset(), each) for each in value]) if is_sequence else value)
        if keyword in ("SmallestImagePixelValue", "PixelPaddingValue"):
            data_set[keyword].VR = "US"
    return data_set


@st.composite
def images(draw: st.DrawFn) -> Dataset:
    """Draw a native image of random size, bits, frames and pixels, with random other elements."""
    bits, samples = draw(st.sampled_from([(8, 1), (8, 3), (10, 1), (12, 1), (16, 1)]))
    is_signed = samples == 1 and draw(st.booleans())
    frames, size = draw(st.integers(1, 4)), (draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    data_set = native_sample("RGB" if samples == 3 else "MONOCHROME2", bits, is_signed)
    data_set.Rows, data_set.Columns = size
    data_set.NumberOfFrames = frames
    generator = numpy.random.default_rng(draw(st.integers(0, 1 << 32)))
    low, high = (-(1 << bits - 1), 1 << bits - 1) if is_signed else (0, 1 << bits)
    pixels = generator.integers(low, high, frames * size[0] * size[1] * samples)
    data = pixels.astype(f"<{'i' if is_signed else 'u'}{1 if bits == 8 else 2}").tobytes()
    data_set.PixelData = data + bytes(len(data) % 2)
    return filled(data_set, draw(EXTRA))


@given(images(), st.sampled_from(ENCODED), st.sampled_from(ENCODED))
@settings(max_examples=60, deadline=None)
def test_encoding_and_decoding_returns_the_data_set(data_set: Dataset, first: str, second: str):
    """Through two compressed transfer syntaxes, to the byte; only extremes of other colours may be missing."""
    if data_set.SamplesPerPixel == 3:
        data_set.pop("SmallestImagePixelValue", None)
    original = converted(encoded(data_set), EXPLICIT_LITTLE, EXPLICIT_LITTLE)
    canonical = converted(converted(original, EXPLICIT_LITTLE, EXPLICIT_BIG), EXPLICIT_BIG, EXPLICIT_LITTLE)
    steps = [EXPLICIT_LITTLE, first, second, EXPLICIT_LITTLE]
    data = original
    for source, target in itertools.pairwise(steps):
        data = converted(data, source, target)
        assert_in_order(read(data, target))
    assert converted(converted(data, EXPLICIT_LITTLE, EXPLICIT_BIG), EXPLICIT_BIG, EXPLICIT_LITTLE) == canonical


@given(images(), st.sampled_from([IMPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED_LITTLE]), st.sampled_from(ENCODED))
@settings(max_examples=60, deadline=None)
def test_every_native_syntax_is_encoded_from_and_decoded_into(data_set: Dataset, native: str, target: str):
    """The pixels are the same by way of each."""
    in_native = converted(encoded(data_set), EXPLICIT_LITTLE, native)
    compressed = converted(in_native, native, target)
    found = read(converted(converted(compressed, target, native), native, EXPLICIT_LITTLE), EXPLICIT_LITTLE)
    assert numpy.array_equal(pixels_of(found), pixels_of(data_set))
    assert found.PhotometricInterpretation == data_set.PhotometricInterpretation


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_frames_of_one_bit_are_packed_as_numpy_packs_them(frames: int, rows: int, columns: int, random):
    """And read again one by one."""
    bits = [numpy.array([random.getrandbits(1) for _ in range(rows * columns)]) for _ in range(frames)]
    padded = [numpy.packbits(each, bitorder="little").tobytes() for each in bits]
    packed = numpy.packbits(numpy.concatenate(bits), bitorder="little").tobytes()
    assert b"".join(joined(padded, rows * columns)) == packed
    native = NativeFrames(frames, rows * columns, lambda offset, length: packed[offset : offset + length])
    assert [native.read(number) for number in range(len(native))] == padded
