"""The pixel data of a stored instance: the data set in another transfer syntax, and single frames, also as pictures."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import BinaryIO

from pacs.dicom.syntaxes import CHUNK
from pacs.files.store import ObjectStore
from pacs.index.writer import StoredInstance
from pacs.pixels.conversion import Conversion
from pacs.pixels.frames import Frames
from pacs.pixels.pool import DecoderPool
from pacs.pixels.seekable import Wait, wait_without_limit
from pacs.services.stored_file import opened_data_set

SPOOL_BYTES = 4 << 20
"""The largest spooled data set, in bytes, that is held in memory; a larger one is written to a temporary file."""


CHECK_BYTES = 16 << 20
"""How many bytes are spooled between two checks of `limits.free_space`."""


@dataclass(frozen=True, slots=True)
class ConvertedDataSet:
    """The conversion of a stored instance, which has begun. Its file is open until `close`."""

    conversion: Conversion
    _files: ObjectStore
    _open: ExitStack

    @property
    def notices(self) -> tuple[str, ...]:
        """What changes beyond the encoding."""
        return self.conversion.notices

    @property
    def size_in_memory(self) -> int:
        """The bytes of frames in memory at most."""
        return self.conversion.size_in_memory

    def pieces(self) -> Iterator[bytes]:
        """Yield the converted data set, once, each piece as soon as it is there.

        Raises UndecodableDataSet, UndecodablePixelData, NotSupported, InstanceUnreadable, and what `wait` raises.
        """
        return iter(self.conversion)

    def spooled(self) -> Iterator[bytes]:
        """Yield the converted data set, once, after all of it was converted. Raises as `pieces`, StorageUnavailable.

        So an error comes before the first piece.
        """
        pieces, held, size = self.pieces(), deque[bytes](), 0
        for piece in pieces:
            held.append(piece)
            size += len(piece)
            if size > SPOOL_BYTES:
                break
        else:
            yield from held
            return
        with spooled(self._files, chain(_taken(held), pieces)) as file:
            yield from iter(partial(file.read, CHUNK), b"")

    def close(self) -> None:
        """Cancel what has not been converted, and close the file."""
        self._open.close()


def _taken(pieces: deque[bytes]) -> Iterator[bytes]:
    while pieces:
        yield pieces.popleft()


@contextmanager
def spooled(files: ObjectStore, pieces: Iterable[bytes]) -> Iterator[BinaryIO]:
    """Write pieces to a temporary file of the file store; yield a reader of it. Raises StorageUnavailable.

    Free space is checked while they are written too: few stored bytes may become gigabytes.
    """
    with files.create(0) as spool:
        checked = 0
        for piece in pieces:
            if spool.size - checked >= CHECK_BYTES:
                files.require_free()
                checked = spool.size
            spool.write(piece)
        with closing(spool.body()) as file:
            yield file


class PixelService:
    """Converts stored instances into other transfer syntaxes, and renders frames. The stored files do not change."""

    def __init__(self, files: ObjectStore, decoders: DecoderPool) -> None:
        self._files = files
        self._decoders = decoders

    @property
    def at_once(self) -> int:
        """The number of conversions that keep all decoder processes busy, also while one instance is sent."""
        return self._decoders.processes + 1

    def convert(self, instance: StoredInstance, target: str, wait: Wait) -> ConvertedDataSet:
        """Begin the conversion of an instance. `wait` waits for each frame.

        Raises NotSupported when it cannot be converted into `target`, UndecodableDataSet, UndecodablePixelData,
        OutOfResources, and InstanceUnreadable when the file is missing or has another size.
        """
        with ExitStack() as stack:
            file = stack.enter_context(opened_data_set(self._files, instance))
            conversion = Conversion(
                file, instance.transfer_syntax, target, self._decoders, wait, spool=partial(spooled, self._files)
            )
            stack.callback(conversion.close)
            return ConvertedDataSet(conversion, self._files, stack.pop_all())

    @contextmanager
    def frames(self, instance: StoredInstance, wait: Wait = wait_without_limit) -> Iterator[Frames]:
        """Open the frames of an instance; each is read, decoded or rendered when it is asked for.

        Raises as `Frames`, InstanceUnreadable and StorageUnavailable.
        """
        with ExitStack() as stack:
            file = stack.enter_context(opened_data_set(self._files, instance))
            spool = partial(spooled, self._files)
            frames = Frames(file, instance.transfer_syntax, self._decoders, wait, spool=spool)
            stack.callback(frames.close)
            yield frames
