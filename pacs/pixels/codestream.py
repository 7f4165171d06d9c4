"""Headers of compressed frames: their size, precision and colour, read before anything is decoded."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Codestream:
    """The header of a compressed frame; None or 0 for what a transfer syntax does not say."""

    rows: int
    columns: int
    components: int
    precision: int
    """Bits of a sample."""
    is_signed: bool | None = None
    is_lossy: bool | None = None
    is_ycbcr: bool | None = None
    """Whether the samples are YCbCr, by markers, component identifiers and subsampling."""


def read_codestream(transfer_syntax: str, head: bytes) -> Codestream:
    """Read the header of a frame from its first bytes.

    Raises UndecodablePixelData when there is none.
    """
    raise NotImplementedError(transfer_syntax, head)
