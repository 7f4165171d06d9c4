"""The data set of an instance in a file or in memory, in its own transfer syntax or converted."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from pacs.client.sources import Instance
from pacs.dicom.syntaxes import CHUNK, even
from pacs.errors import InstanceUnreadable
from pacs.pixels.conversion import Conversion
from pacs.pixels.pool import DecoderPool


class InstanceData:
    """The data set of an instance in a transfer syntax: iterate it once for its pieces, and close it.

    A conversion begins at once; raises as `Conversion`, and InstanceUnreadable. Otherwise the file is opened when the
    iteration begins.
    """

    def __init__(self, instance: Instance, transfer_syntax: str, pool: DecoderPool) -> None:
        self.transfer_syntax = transfer_syntax
        self._instance = instance
        self._opened = ExitStack()
        self._conversion: Conversion | None = None
        if transfer_syntax != instance.transfer_syntax:
            self._conversion = self._begin(pool)

    def _begin(self, pool: DecoderPool) -> Conversion:
        with ExitStack() as stack:
            file = stack.enter_context(self._instance.open())
            begun = Conversion(file, self._instance.transfer_syntax, self.transfer_syntax, pool)
            stack.callback(begun.close)
            self._opened = stack.pop_all()
        return begun

    @property
    def notices(self) -> tuple[str, ...]:
        """One sentence for each removal or change beyond the encoding."""
        return self._conversion.notices if self._conversion is not None else ()

    @property
    def size_in_memory(self) -> int:
        """The bytes that are in memory at most."""
        return self._conversion.size_in_memory if self._conversion is not None else 0

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._conversion if self._conversion is not None else self._stored()
        except OSError as error:
            raise InstanceUnreadable(f"The file cannot be read: {error.strerror or error}") from error

    def _stored(self) -> Iterator[bytes]:
        file = self._opened.enter_context(self._instance.open())
        return even(iter(partial(file.read, CHUNK), b""), self.transfer_syntax)

    def close(self) -> None:
        """Cancel the conversion and close the file."""
        self._opened.close()
