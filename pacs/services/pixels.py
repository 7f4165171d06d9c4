"""The data set of a stored instance in another transfer syntax, pixel data included."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain

from pacs.dicom.syntaxes import CHUNK
from pacs.errors import InstanceUnreadable
from pacs.files.store import ObjectStore
from pacs.index.writer import StoredInstance
from pacs.pixels.conversion import Conversion, Wait
from pacs.pixels.pool import DecoderPool

SPOOL_BYTES = 4 << 20
"""The largest spooled data set, in bytes, that is held in memory; a larger one is written to a temporary file."""


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
        pieces, held, size = self.pieces(), [], 0
        for piece in pieces:
            held.append(piece)
            size += len(piece)
            if size > SPOOL_BYTES:
                break
        else:
            yield from held
            return
        with self._files.create(0) as spool:
            for piece in chain(held, pieces):
                spool.write(piece)
            held.clear()
            yield from iter(partial(spool.body().read, CHUNK), b"")

    def close(self) -> None:
        """Cancel what has not been converted, and close the file."""
        self._open.close()


class PixelService:
    """Converts stored instances into other transfer syntaxes. The stored files do not change."""

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
            file = stack.enter_context(self._files.open(instance.file_key))
            if file.seek(0, os.SEEK_END) != instance.size:
                raise InstanceUnreadable("The size of the stored file has changed")
            file.seek(instance.data_offset)
            conversion = Conversion(file, instance.transfer_syntax, target, self._decoders, wait)
            stack.callback(conversion.close)
            return ConvertedDataSet(conversion, self._files, stack.pop_all())
