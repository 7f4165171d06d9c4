"""Memory growth of a server while it receives an instance of 2 GB, native, deflated and encapsulated."""

import random
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

from benchmarks import client, data, processes, wire
from benchmarks.bench import Archive, Bench, Better, Line, Row
from benchmarks.client import Association
from benchmarks.peers import System
from pacs import testing
from pacs.conformance.checks.wire import COMMAND, EXPLICIT, LAST, fragment

ENCAPSULATED = struct.pack("<HH2sxxL", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0)
DELIMITER = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)

NOISE = random.Random(3).randbytes(1 << 20)
"""A mebibyte of incompressible data."""


def memory(bench: Bench) -> Iterator[Row]:
    """Measure one C-STORE of each kind: growth of the resident memory, and the rate."""
    mebibytes = bench.of(1900, 16)  # 2 GB, and below the 2 GiB to which a deflated data set may inflate here
    with bench.archives("pacs", "pacs-postgres") as archives:
        for key, title, syntax, encoded in KINDS:
            name = f"C-STORE of {mebibytes} MiB, {title}"
            lines = [
                Line(f"memory.{key}", f"{name}: memory", "MB more", Better.LESS),
                Line(f"memory.{key}.rate", f"{name}: rate", "MB/s", Better.MORE),
            ]
            once = replace(bench, runs=1)
            yield from once.interleave(lines, archives, partial(_measure_growth, syntax, encoded, mebibytes))


def _measure_growth(syntax: str, encoded: "Pieces", mebibytes: int, archive: Archive, _run: int) -> tuple[float, float]:
    """Store a data set; return the growth of the server in megabytes, and megabytes per second."""
    system = archive.once("warm", _warm)
    before = processes.resident_megabytes(system.pid)
    processes.forget_peak(system.pid)
    began = time.perf_counter()
    size = store_pieces(system, _uid(syntax), encoded(mebibytes), syntax)
    seconds = time.perf_counter() - began
    return max(0.0, processes.peak_megabytes(system.pid) - before), size / seconds / 1e6


def _warm(system: System) -> System:
    """Store some images: what is imported and allocated once is no growth."""
    client.store(system.port, system.ae_title, [data.images("512 kB", 10)])
    return system


def store_pieces(system: System, uid: str, pieces: Iterable[bytes], syntax: str = EXPLICIT) -> int:
    """Store a data set that comes in pieces, and return its length. Raises RequestFailed."""
    size = 0
    with Association(system.port, system.ae_title, [(wire.CT_IMAGE_STORAGE, [syntax])]) as association:
        context, longest = association.accepted[0], association.longest_pdu
        association.send(fragment(context, COMMAND | LAST, wire.store_command(uid, 1)))
        for piece in pieces:
            size += len(piece)
            for at in range(0, len(piece), longest - 6):
                association.send(fragment(context, 0, piece[at : at + longest - 6]))
        association.send(fragment(context, LAST, b""))
        association.expect_success()
    return size


def _uid(syntax: str) -> str:
    return testing.uid(f"memory/{syntax}")


def head(uid: str, study: str = testing.uid("memory")) -> bytes:
    """Return a data set up to Pixel Data."""
    dataset = testing.study(series=1, instances=1, SOPInstanceUID=uid, StudyInstanceUID=study)[0]
    del dataset.PixelData
    return data.encode(dataset)


def pixel_data(length: int) -> bytes:
    """Return the tag, VR and length of Pixel Data."""
    return struct.pack("<HH2sxxL", 0x7FE0, 0x0010, b"OW", length)


def _native(mebibytes: int, syntax: str = EXPLICIT) -> Iterator[bytes]:
    yield head(_uid(syntax)) + pixel_data(mebibytes << 20)
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
    yield head(_uid(wire.JPEG_BASELINE)) + ENCAPSULATED
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
