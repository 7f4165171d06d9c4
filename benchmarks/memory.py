"""Memory growth of a server while it receives an instance of 2 GB, native, deflated and encapsulated."""

import random
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from benchmarks import client, data, processes, wire
from benchmarks.bench import Bench, Better, Line, Row
from benchmarks.client import Association
from benchmarks.peers import System
from pacs import testing
from pacs.conformance.checks.wire import COMMAND, EXPLICIT, LAST, fragment

PIXEL_DATA = struct.pack("<HH2sxx", 0x7FE0, 0x0010, b"OW")
ENCAPSULATED = struct.pack("<HH2sxxL", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0)
DELIMITER = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)

NOISE = random.Random(3).randbytes(1 << 20)
"""A mebibyte of incompressible data."""


def memory(bench: Bench) -> Iterator[Row]:
    """Measure one C-STORE of each kind: growth of the resident memory, and the rate."""
    mebibytes = bench.of(1900, 16)  # 2 GB, and below the 2 GiB to which a deflated data set may inflate here
    with bench.systems("pacs", "pacs-postgres") as systems:
        for system in systems:  # what is imported and allocated once is no growth
            client.store(system.port, system.ae_title, [data.images("512 kB", 10)])
        for key, title, syntax, encoded in KINDS:
            name = f"C-STORE of {mebibytes} MiB, {title}"
            lines = [
                Line(f"memory.{key}", f"{name}: memory", "MB more", Better.LESS),
                Line(f"memory.{key}.rate", f"{name}: rate", "MB/s", Better.MORE),
            ]
            once = replace(bench, runs=1)
            yield from once.interleave(lines, systems, partial(_measure_growth, syntax, encoded, mebibytes))


def _measure_growth(syntax: str, encoded: "Pieces", mebibytes: int, system: System, _run: int) -> tuple[float, float]:
    """Store a data set; return the growth of the server in megabytes, and megabytes per second."""
    before = processes.resident_megabytes(system.pid)
    processes.forget_peak(system.pid)
    began, size = time.perf_counter(), 0
    with Association(system.port, system.ae_title, [(wire.CT_IMAGE_STORAGE, [syntax])]) as association:
        context, longest = association.accepted[0], association.longest_pdu
        association.send(fragment(context, COMMAND | LAST, wire.store_command(_uid(syntax), 1)))
        for piece in encoded(mebibytes):
            size += len(piece)
            for at in range(0, len(piece), longest - 6):
                association.send(fragment(context, 0, piece[at : at + longest - 6]))
        association.send(fragment(context, LAST, b""))
        association.expect_success()
    seconds = time.perf_counter() - began
    return max(0.0, processes.peak_megabytes(system.pid) - before), size / seconds / 1e6


def _uid(syntax: str) -> str:
    return testing.uid(f"memory/{syntax}")


def _head(syntax: str) -> bytes:
    """Return the data set up to Pixel Data."""
    dataset = testing.study(series=1, instances=1, SOPInstanceUID=_uid(syntax))[0]
    del dataset.PixelData
    return data.encode(dataset)


def _native(mebibytes: int, syntax: str = EXPLICIT) -> Iterator[bytes]:
    yield _head(syntax) + PIXEL_DATA + struct.pack("<L", mebibytes << 20)
    for _ in range(mebibytes):
        yield NOISE


def _deflated(mebibytes: int) -> Iterator[bytes]:
    """Yield the native data set, deflated in stored blocks, so that it has the same size on the wire."""
    deflate = zlib.compressobj(level=0, wbits=-zlib.MAX_WBITS)
    for piece in _native(mebibytes, wire.DEFLATED_LITTLE):
        yield deflate.compress(piece)
    rest = deflate.flush()
    yield rest + b"\0" * (len(rest) % 2)


def _encapsulated(mebibytes: int) -> Iterator[bytes]:
    """Yield a data set with encapsulated pixel data, a fragment for each mebibyte."""
    yield _head(wire.JPEG_BASELINE) + ENCAPSULATED
    for _ in range(mebibytes):
        yield struct.pack("<HHL", 0xFFFE, 0xE000, len(NOISE)) + NOISE
    yield DELIMITER


Pieces = Callable[[int], Iterator[bytes]]

KINDS: tuple[tuple[str, str, str, Pieces], ...] = (
    ("native", "native", EXPLICIT, _native),
    ("deflated", "deflated", wire.DEFLATED_LITTLE, _deflated),
    ("encapsulated", "encapsulated, undefined length", wire.JPEG_BASELINE, _encapsulated),
)
"""The kinds of instances: key, title, transfer syntax and generator of the bytes."""
