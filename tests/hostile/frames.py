"""Thousands of damaged frames in every transfer syntax, converted by a real pool of decoder processes.

A frame is treated as a conversion treats it: its header is read here, and then a decoder process gets it. Whatever is
in it, the future ends in time with a frame of the right size or an error of this project, and this process goes on.
"""

import os
import random
import re
import resource
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path

from pacs.dicom.syntaxes import EXPLICIT_LITTLE
from pacs.errors import NotSupported, UndecodablePixelData
from pacs.pixels import capabilities, frame_header
from pacs.pixels.decoder_process import memory_limit, time_limit
from pacs.pixels.frame_job import FrameJob
from pacs.pixels.image_pixel import ImagePixel
from pacs.pixels.pool import DecoderPool
from pacs.pixels.transfer_syntaxes import JPEG_BASELINE, JPEG_EXTENDED, JPEG_XL_RECOMPRESSION
from tests.decoders import decoders
from tests.pixels.frames import attributes_of, frames_of
from tests.pixels.samples import SYNTAXES, sample

NATIVE = EXPLICIT_LITTLE
SOURCES = (*SYNTAXES, NATIVE)
"""The transfer syntaxes of the frames; native ones are encoded."""

HEAD = 1 << 20
"""Bytes in which a conversion looks for the header of a frame."""

LOSSY_JPEG = (JPEG_BASELINE, JPEG_EXTENDED, JPEG_XL_RECOMPRESSION)
"""They have no more than 8 or 12 bits."""

BATCH = 64
"""The number of jobs in the queue at a time."""

HEADER = 96
"""Bytes at the beginning of a frame that are changed more often than others."""


@dataclass(frozen=True)
class Valid:
    """A frame in order, and the attributes of its instance."""

    data: bytes
    syntax: str
    stored: ImagePixel


@cache
def valid_frames(syntax: str) -> tuple[Valid, ...]:
    """Return frames in a transfer syntax: with and without colours, small and less small, with few and many bits."""
    compressed = syntax if syntax != NATIVE else SYNTAXES[0]
    variants = [
        sample(compressed),
        sample(compressed, bits=8),
        sample(compressed, "RGB"),
        sample(compressed, size=(200, 130)),
        *([sample(compressed, bits=16)] if compressed not in LOSSY_JPEG else []),
    ]
    if syntax == NATIVE:
        natives = [each.native for each in variants]
        return tuple(Valid(bytes(each.PixelData), NATIVE, attributes_of(each)) for each in natives)
    return tuple(Valid(frames_of(each.compressed)[0], syntax, attributes_of(each.compressed)) for each in variants)


# --- mutations -----------------------------------------------------------------------------------------------------

NUMBERS = (0, 1, 2, 7, 8, 12, 15, 16, 17, 31, 32, 63, 64, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF)


def _place(chance: random.Random, data: bytearray) -> int:
    """Return a random position, in one of two cases within the header."""
    return chance.randrange(min(len(data), HEADER) if chance.random() < 0.5 else len(data))


def _flip(chance: random.Random, data: bytearray) -> None:
    data[_place(chance, data)] ^= 1 << chance.randrange(8)


def _set(chance: random.Random, data: bytearray) -> None:
    data[_place(chance, data)] = chance.choice((0, 0xFF, chance.randrange(256)))


def _number(chance: random.Random, data: bytearray) -> None:
    """Write a number where there may be a length, a size or a count."""
    at, width = _place(chance, data), chance.choice((1, 2, 4))
    number = chance.choice(NUMBERS) & ((1 << 8 * width) - 1)
    data[at : at + width] = number.to_bytes(width, chance.choice(("big", "little")))


def _cut(chance: random.Random, data: bytearray) -> None:
    """Cut off the end, in one of two cases all but the last two bytes, where many codestreams have their end."""
    end = bytes(data[-2:]) if chance.random() < 0.5 else b""
    del data[_place(chance, data) :]
    data += end


def _remove(chance: random.Random, data: bytearray) -> None:
    at = _place(chance, data)
    del data[at : at + chance.choice((1, 2, 4, 30, 300))]


def _repeat(chance: random.Random, data: bytearray) -> None:
    at = _place(chance, data)
    data[at:at] = data[at : at + chance.choice((1, 8, 40, 400))] * chance.choice((1, 2, 50))


def _move(chance: random.Random, data: bytearray) -> None:
    """Swap two pieces."""
    first, second = sorted((_place(chance, data), _place(chance, data)))
    size = chance.choice((2, 16, 100))
    data[first : first + size], data[second : second + size] = (
        data[second : second + size],
        data[first : first + size],
    )


def _random_tail(chance: random.Random, data: bytearray) -> None:
    at = _place(chance, data)
    data[at:-2] = chance.randbytes(max(0, len(data) - 2 - at))


def _append(chance: random.Random, data: bytearray) -> None:
    data += chance.randbytes(chance.choice((1, 2, 1000)))


def _double(_: random.Random, data: bytearray) -> None:
    data += bytes(data)


def _marker(chance: random.Random, data: bytearray) -> None:
    """Insert a marker segment of JPEG or JPEG 2000."""
    at = _place(chance, data)
    data[at:at] = bytes((0xFF, chance.randrange(0x4F, 0xFF))) + chance.choice((b"", b"\0\4\0\0", chance.randbytes(20)))


WAYS = (_flip, _flip, _set, _number, _number, _cut, _remove, _repeat, _move, _random_tail, _append, _double, _marker)


def mutated(chance: random.Random, valid: bytes) -> bytes:
    """Return a frame after one to eight random changes."""
    data = bytearray(valid)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        if len(data) > 2:
            chance.choice(WAYS)(chance, data)
    return bytes(data)


def made(syntax: str, number: int, seed: object = "frames") -> Valid:
    """Return the damaged frame of this number, the same for the same seed.

    In one of four cases the attributes are damaged too: they agree with the damaged header, so that the frame reaches
    the decoder, or are random.
    """
    chance = random.Random(f"{seed}/{syntax}/{number}")
    valid = chance.choice(valid_frames(syntax))
    data, stored = mutated(chance, valid.data), valid.stored
    if chance.random() < 0.15:
        stored = _agreeing(stored, syntax, data)
    elif chance.random() < 0.1:
        stored = _random_attributes(chance, stored)
    return Valid(data, syntax, stored)


def _agreeing(stored: ImagePixel, syntax: str, data: bytes) -> ImagePixel:
    """Return attributes that agree with the header of a frame, if it has one that says something."""
    try:
        header = frame_header.read_frame_header(syntax, data)
    except (UndecodablePixelData, NotSupported):
        return stored
    bits = header.precision or stored.bits_stored
    return replace(
        stored,
        rows=header.rows or stored.rows,
        columns=header.columns or stored.columns,
        samples_per_pixel=min(header.components, 4) or stored.samples_per_pixel,
        bits_allocated=next((each for each in (8, 16, 32) if bits <= each), 64),
        bits_stored=bits,
        high_bit=bits - 1,
    )


def _random_attributes(chance: random.Random, stored: ImagePixel) -> ImagePixel:
    allocated = chance.choice((1, 8, 16, 32, 64))
    bits = chance.randint(1, allocated)
    return replace(
        stored,
        rows=chance.choice((stored.rows, 1, 65535)),
        bits_allocated=allocated,
        bits_stored=bits,
        high_bit=bits - 1,
        pixel_representation=chance.randrange(2),
        planar_configuration=chance.randrange(2),
        photometric_interpretation=chance.choice((stored.photometric_interpretation, "RGB", "YBR_FULL_422")),
        samples_per_pixel=chance.choice((1, 3)),
    )


# --- conversions ---------------------------------------------------------------------------------------------------


@dataclass
class Totals:
    """What became of the frames of one transfer syntax."""

    name: str
    results: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """What must not be: an error of another class, a frame of another size, or a job that took too long."""
    slowest: float = 0.0
    """The longest time of one job, in seconds."""
    decoder_memory: float = 0.0
    """The largest resident memory of a decoder process, in mebibytes."""
    allowed_memory: float = 0.0
    """What the largest job may allocate, in mebibytes."""
    seconds: float = 0.0

    @property
    def tried(self) -> int:
        """The number of frames."""
        return self.results.total()


class Trial:
    """Converts frames in a pool, and counts what becomes of them."""

    def __init__(self, totals: Totals) -> None:
        self.totals = totals

    def run(self, pool: DecoderPool, frames: Iterable[tuple[str, Valid, str]]) -> None:
        """Convert frames, given with their names and targets."""
        began, left = time.monotonic(), iter(frames)
        while batch := list(islice(left, BATCH)):
            self._finish([(name, *self._submitted(pool, frame, target)) for name, frame, target in batch])
        self.totals.seconds += time.monotonic() - began

    def _submitted(self, pool: DecoderPool, frame: Valid, target: str) -> tuple[FrameJob | None, "Future[bytes]"]:
        """Submit a frame as a conversion does; return its job, if there is one, and its future."""
        job, future = None, Future[bytes]()
        try:
            native = frame.stored
            if frame.syntax != NATIVE:
                header = frame_header.read_frame_header(frame.syntax, frame.data[:HEAD])
                native = capabilities.decoded(frame.syntax, frame.stored, header)
            result = native if target == NATIVE else capabilities.encoded(native, target)
            job = FrameJob(frame.data, frame.syntax, frame.stored, target, result)
            return job, pool.submit(job)
        except Exception as error:
            future.set_exception(error)
            return job, future

    def _finish(self, submitted: list[tuple[str, FrameJob | None, "Future[bytes]"]]) -> None:
        for name, job, future in submitted:
            error = future.exception(timeout=600)
            if error is None and job is not None:
                self._check_result(name, job, future.result())
            elif isinstance(error, UndecodablePixelData | NotSupported):
                self.totals.results[_kind(str(error)) if job is not None else "refused"] += 1
            else:
                self.totals.results["wrong"] += 1
                self.totals.wrong.append(f"{name}: {error!r}")

    def _check_result(self, name: str, job: FrameJob, result: bytes) -> None:
        self.totals.results["converted"] += 1
        if job.target == NATIVE and len(result) != job.result.frame_size:
            self.totals.wrong.append(f"{name}: {len(result)} bytes")

    def observe(self, job: FrameJob, seconds: float, _error: Exception | None) -> None:
        """Note how long a job took, and the memory of the processes; it is called by the pool."""
        self.totals.slowest = max(self.totals.slowest, seconds)
        self.totals.allowed_memory = max(self.totals.allowed_memory, memory_limit(job) / 2**20)
        self.totals.decoder_memory = max(self.totals.decoder_memory, *map(peak_memory, decoders(os.getpid())), 0)
        if seconds > time_limit(job) + 10:
            self.totals.wrong.append(f"a job of {job.source} took {seconds:.0f} s")


def _kind(comment: str) -> str:
    """Return what became of a frame, by the sentence of its error."""
    for pattern, kind in KINDS.items():
        if re.match(pattern, comment):
            return kind
    return "damaged"


KINDS = {
    "The decoder of a frame crashed": "crashed",
    "The decoder of a frame was killed": "killed",
    "A frame took its decoder more than": "too long",
    "A frame needs more than": "too much memory",
}
"""What becomes of frames, by the beginning of the sentence; "damaged" is what a codec says of all others.

Frames are "refused" before, because of their headers.
"""


def target_of(frame: Valid, number: int) -> str:
    """Return the transfer syntax to convert a frame into: native, or now and then, and always from it, a codec's."""
    if frame.syntax == NATIVE or number % 8 == 0:
        return capabilities.ENCODED[number // 8 % len(capabilities.ENCODED)]
    return NATIVE


def damaged(syntax: str, count: int, seed: object = "frames") -> Iterator[tuple[str, Valid, str]]:
    """Yield damaged frames with names and targets."""
    for number in range(count):
        frame = made(syntax, number, seed)
        yield f"{syntax} {number}", frame, target_of(frame, number)


def run(syntax: str, count: int, seed: object = "frames", processes: int = 2) -> Totals:
    """Convert damaged frames in a transfer syntax."""
    trial = Trial(Totals(syntax))
    with DecoderPool(processes, trial.observe) as pool:
        trial.run(pool, damaged(syntax, count, seed))
    return trial.totals


def memory() -> float:
    """Return the resident memory of this process, in mebibytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def peak_memory(process: int) -> float:
    """Return the most resident memory that a process had, in mebibytes; 0 if it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0


# --- the program ---------------------------------------------------------------------------------------------------


COLUMNS = ("converted", "refused", "damaged", "crashed", "too long", "too much memory")


def table(every: Iterable[Totals]) -> str:
    """Return the totals as a table."""
    lines = [
        f"| transfer syntax | frames | {' | '.join(COLUMNS)} | wrong | slowest |",
        "| --- | ---: |" + " ---: |" * (len(COLUMNS) + 2),
    ]
    for each in every:
        found = " | ".join(f"{each.results[column]:,}" for column in COLUMNS)
        lines.append(f"| {each.name} | {each.tried:,} | {found} | {len(each.wrong):,} | {each.slowest:.1f} s |")
    return "\n".join(lines)


def main(each: int, seed: str, chosen: Iterable[str]) -> int:
    """Convert damaged frames in every chosen transfer syntax and print the totals; return the exit status."""
    before, every = memory(), []
    for syntax in chosen or SOURCES:
        totals = run(syntax, each, seed)
        every.append(totals)
        print(f"{syntax}: {dict(totals.results)}, {totals.seconds:.0f} s, slowest {totals.slowest:.1f} s", flush=True)
        print(*totals.wrong[:20], sep="\n", flush=True)
    largest = max(each.decoder_memory for each in every)
    print(table(every))
    print(f"\nmemory: this process grew by {memory() - before:.0f} MiB, the largest decoder had {largest:.0f} MiB")
    return 1 if any(each.wrong for each in every) else 0
