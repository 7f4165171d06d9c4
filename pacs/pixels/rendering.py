"""How a frame is displayed (PS3.3 C.11, C.7.6.3): the transformations of its values, as plain data for a frame job."""

import base64
from dataclasses import dataclass
from typing import Any, Self

from pacs.errors import InvalidArgument

PNG, JPEG, RAW = "image/png", "image/jpeg", "application/octet-stream"
"""The forms of a rendered frame; `RAW` is one byte for each sample, row by row."""

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
"""The values of VOI LUT Function (0028,1056)."""


@dataclass(frozen=True, slots=True)
class Rescale:
    """Rescale Slope and Intercept (PS3.3 C.11.1.1.2)."""

    slope: float = 1.0
    intercept: float = 0.0


@dataclass(frozen=True, slots=True)
class LookupTable:
    """A lookup table, of the modality, the values of interest or one colour of a palette (PS3.3 C.11.1.1.1)."""

    first: int
    """The input value of the first entry; lower ones have this entry too, higher ones than the last have the last."""
    bits: int
    """The outputs are from 0 to 2**bits - 1."""
    words: bytes
    """The entries, 16 bits each in little endian."""


@dataclass(frozen=True, slots=True)
class Window:
    """Window Center, Window Width and VOI LUT Function (PS3.3 C.11.2.1.2, C.11.2.1.3)."""

    center: float
    width: float
    function: str = FUNCTIONS[0]

    def check(self) -> None:
        """Raise InvalidArgument for a function or a width that the standard does not have."""
        if self.function not in FUNCTIONS:
            raise InvalidArgument(f"there is no VOI LUT function {self.function!r}: expected {', '.join(FUNCTIONS)}")
        if not (abs(self.center) < 1e300 and self.width < 1e300):
            raise InvalidArgument("the window has no finite center and width")
        if not (self.width >= 1 if self.function == "LINEAR" else self.width > 0):
            least = "1 or more; use LINEAR_EXACT for less" if self.function == "LINEAR" else "greater than 0"
            raise InvalidArgument(f"the window width is {self.width:g}, but must be {least}")


@dataclass(frozen=True, slots=True)
class Rendering:
    """How the stored values of a frame become samples of 8 bits."""

    modality: Rescale | LookupTable = Rescale()
    voi: Window | LookupTable | None = None
    """None: from the lowest to the highest value of the frame, padding excepted."""
    palette: tuple[LookupTable, ...] = ()
    """Red, green and blue of PALETTE COLOR."""
    padding: tuple[int, int] | None = None
    """The lowest and highest stored value of padding (PS3.3 C.7.5.1.1.2)."""
    quality: int = 90
    """Of JPEG, from 1 to 100."""

    def encoded(self) -> list[Any]:
        """Return lists, texts and numbers for `decoded`."""
        palette = list(map(_encoded, self.palette))
        return [_encoded(self.modality), self.voi and _encoded(self.voi), palette, self.padding, self.quality]

    @classmethod
    def decoded(cls, encoded: list[Any]) -> Self:
        """Return the rendering that was `encoded`."""
        modality, voi, palette, padding, quality = encoded
        tables = tuple(map(_table, palette))
        window = voi and (Window(*voi) if isinstance(voi[2], str) and voi[2] in FUNCTIONS else _table(voi))
        limits = (padding[0], padding[1]) if padding else None
        return cls(Rescale(*modality) if len(modality) == 2 else _table(modality), window, tables, limits, quality)


def _encoded(stage: Rescale | LookupTable | Window) -> list[Any]:
    match stage:
        case Rescale(slope, intercept):
            return [slope, intercept]
        case Window(center, width, function):
            return [center, width, function]
        case LookupTable(first, bits, words):
            return [first, bits, base64.b64encode(words).decode()]


def _table(encoded: list[Any]) -> LookupTable:
    first, bits, words = encoded
    return LookupTable(first, bits, base64.b64decode(words))
