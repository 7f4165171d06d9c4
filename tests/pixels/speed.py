"""The speed of codecs: frames of one core and second, ours and those of pydicom's plugins, as a table of Markdown."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder, get_encoder

from pacs.pixels import capabilities, codecs
from tests.pixels.frames import attributes_of, frames_of
from tests.pixels.matrix import NAMES
from tests.pixels.samples import SYNTAXES, can_be_made, native_sample, pixels_of, sample

PICTURES = {"512 × 512 × 16 (12 stored)": ("MONOCHROME2", 12, 512), "1024 × 1024 × 8 × 3": ("RGB", 8, 1024)}


def tables(seconds: float) -> Iterator[str]:
    """Yield a table for each picture; each number is measured for so many seconds of CPU time."""
    for title, (photometric, bits, size) in PICTURES.items():
        pixels = {"PixelData": _noisy(native_sample(photometric, bits, size=(size, size)))}
        yield f"| {title} | ratio | decode: ours | others | encode: ours | others |"
        yield "|---|---|---|---|---|---|"
        for syntax in SYNTAXES:
            if can_be_made(syntax, photometric, bits):
                made = sample(syntax, photometric, bits=bits, size=(size, size), **pixels)
                yield f"| {NAMES[syntax]} | {' | '.join(_cells(made.compressed, made.native, syntax, seconds))} |"
        yield ""


def _noisy(dataset: Dataset) -> bytes:
    """Return its pixels with a little noise: smooth shades compress too well."""
    bits = dataset.BitsStored
    pixels = pixels_of(dataset).astype(int)
    noise = numpy.rint(numpy.random.default_rng(1).normal(0, (1 << bits) / 400, pixels.shape)).astype(int)
    return numpy.clip(pixels + noise, 0, (1 << bits) - 1).astype("<u2" if bits > 8 else "u1").tobytes()


def _cells(compressed: Dataset, native: Dataset, syntax: str, seconds: float) -> Iterator[str]:
    (frame,) = frames_of(compressed)
    yield f"{len(native.PixelData) / len(frame):.1f}"
    stored = attributes_of(compressed)
    yield _rate(lambda: codecs.decode(frame, syntax, stored), seconds)
    yield _of_plugins(
        lambda: get_decoder(syntax),
        lambda coder, plugin: coder.as_array(compressed, raw=True, decoding_plugin=plugin),
        seconds,
    )
    attributes = attributes_of(native)
    is_encoded = syntax in capabilities.ENCODED
    yield _rate(lambda: codecs.encode(native.PixelData, attributes, syntax), seconds) if is_encoded else "–"
    yield _of_plugins(
        lambda: get_encoder(syntax),
        lambda coder, plugin: coder.encode(native, index=0, encoding_plugin=plugin),
        seconds if is_encoded else 0,
    )


def _of_plugins(find: Callable[[], Any], run: Callable[[Any, str], object], seconds: float) -> str:
    try:
        coder = find()
    except NotImplementedError:
        return "–"
    measured = []
    for plugin in coder.available_plugins if seconds else ():
        try:
            measured.append(f"{plugin} {_rate(lambda plugin=plugin: run(coder, plugin), seconds)}")
        except (RuntimeError, NotImplementedError):
            measured.append(f"{plugin} fails")
    return ", ".join(measured) or "–"


def _rate(work: Callable[[], object], seconds: float) -> str:
    work()
    begin, count = time.process_time(), 0
    while (spent := time.process_time() - begin) < seconds or not count:
        work()
        count += 1
    return f"{count / spent:.0f}"
