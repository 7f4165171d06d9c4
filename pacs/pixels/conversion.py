"""Convert a data set from one transfer syntax into another, pixel data included."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import BinaryIO

from pacs.pixels.pool import DecoderPool

Wait = Callable[[Future[bytes]], object]
"""Returns when a future is done; may raise, for example Cancelled. It must be called before each `Future.result`."""


def wait_without_limit(future: Future[bytes]) -> None:
    """Wait until a future is done."""
    wait((future,))


class Conversion:
    """A conversion that has begun: iterate it once for the pieces of the converted data set, and close it.

    Creating it reads everything before the pixel data and submits the first frames, so that several conversions can
    be begun ahead. Raises NotSupported when the instance cannot be converted into `target`, UndecodableDataSet, and
    UndecodablePixelData; iterating it raises the last two, and what `wait` raises.
    """

    def __init__(
        self, data: BinaryIO, source: str, target: str, pool: DecoderPool, wait: Wait = wait_without_limit
    ) -> None:
        raise NotImplementedError(data, source, target, pool, wait)

    @property
    def notices(self) -> tuple[str, ...]:
        """What was removed or changed beyond the encoding, such as digital signatures over pixel data."""
        raise NotImplementedError

    @property
    def size_in_memory(self) -> int:
        """The bytes of all frames that are in memory at most, or will be once they are decoded."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[bytes]:
        raise NotImplementedError

    def close(self) -> None:
        """Cancel what has not begun. Does not close `data`."""
        raise NotImplementedError
