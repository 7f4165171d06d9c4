"""Pictures on a terminal: by the protocol that it understands, else with half-block characters."""

import base64
import fcntl
import shutil
import struct
import sys
import termios
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from enum import Enum
from itertools import groupby, repeat

DEFAULT_SIZE = (800, 600)
"""The pixels of a terminal that does not tell them."""

KITTY_CHUNK = 4096
"""The longest piece of data in one escape sequence of the kitty graphics protocol."""

LEVELS = 6
"""Shades of each colour in a cube of colours."""


class Protocol(Enum):
    """How a terminal shows pictures."""

    KITTY = "kitty graphics"
    ITERM = "iTerm2 inline images"
    SIXEL = "sixel"
    BLOCKS = "half-block characters"


def protocol_of(environment: Mapping[str, str], encoding: str) -> Protocol | None:
    """Return the protocol of the terminal; None for one that shows no pictures."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "TMUX" in environment or term.startswith(("screen", "tmux")):  # they pass no pictures on
        return _blocks(term, encoding)
    if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty"):
        return Protocol.KITTY
    if program in ("iTerm.app", "WezTerm", "mintty") or environment.get("LC_TERMINAL") == "iTerm2":
        return Protocol.ITERM
    if term.startswith(("foot", "mlterm", "contour", "yaft")):
        return Protocol.SIXEL
    return _blocks(term, encoding)


def _blocks(term: str, encoding: str) -> Protocol | None:
    is_plain = term in ("", "dumb") or encoding.lower().replace("-", "") != "utf8"
    return None if is_plain else Protocol.BLOCKS


def size_of(protocol: Protocol) -> tuple[int, int]:
    """Return the columns and rows of pixels that fit on the terminal, with room for two lines of text."""
    columns, lines = shutil.get_terminal_size()
    if protocol is Protocol.BLOCKS:
        return columns, 2 * max(1, lines - 2)
    with suppress(OSError, ValueError):
        packed = fcntl.ioctl(sys.stdout.fileno(), termios.TIOCGWINSZ, bytes(8))
        rows, _, width, height = struct.unpack("HHHH", packed)
        if width and height and rows > 2:
            return width, height * (rows - 2) // rows
    return DEFAULT_SIZE


def in_kitty(png: bytes) -> str:
    """Return a PNG in the escape sequences of the kitty graphics protocol."""
    data = base64.b64encode(png).decode()
    pieces = [data[at : at + KITTY_CHUNK] for at in range(0, len(data), KITTY_CHUNK)]
    heads = ["a=T,f=100,q=2,m=1", *["m=1"] * (len(pieces) - 1)]
    heads[-1] = heads[-1].replace("m=1", "m=0")
    return "".join(f"\x1b_G{head};{piece}\x1b\\" for head, piece in zip(heads, pieces, strict=True)) + "\n"


def in_iterm(png: bytes) -> str:
    """Return a PNG in the escape sequence of iTerm2."""
    return f"\x1b]1337;File=inline=1;size={len(png)}:{base64.b64encode(png).decode()}\a\n"


Colour = tuple[int, int, int]
Rows = list[list[Colour]]


def rows_of(raw: bytes, columns: int, samples: int) -> Rows:
    """Return the colours of samples of 8 bits, of which each pixel has one or three."""
    red, green, blue = (raw[colour % samples :: samples] for colour in range(3))
    pixels = list(zip(red, green, blue, strict=True))
    return [pixels[at : at + columns] for at in range(0, len(pixels), columns)]


# --- characters -----------------------------------------------------------------------------------------------------


def in_blocks(rows: Rows, *, has_all_colours: bool) -> str:
    """Return a picture as characters whose upper and lower halves are two pixels."""
    code = _true_colour if has_all_colours else _indexed_colour
    lines = zip(rows[::2], [*rows[1::2], None], strict=False)
    return "".join(f"{_line(upper, lower, code)}\x1b[0m\n" for upper, lower in lines)


def _line(upper: list[Colour], lower: list[Colour] | None, code: Callable[[Colour], str]) -> str:
    """Return one line of characters; equal neighbours share an escape sequence."""
    pairs: Iterable[tuple[Colour, Colour | None]] = zip(upper, lower or repeat(None), strict=False)
    return "".join(_cells(*pair, len(list(those)), code) for pair, those in groupby(pairs))


def _cells(upper: Colour, lower: Colour | None, count: int, code: Callable[[Colour], str]) -> str:
    background = f"48;{code(lower)}" if lower else "49"
    return f"\x1b[38;{code(upper)};{background}m" + "▀" * count


def _true_colour(colour: Colour) -> str:
    return "2;" + ";".join(map(str, colour))


def _indexed_colour(colour: Colour) -> str:
    """Return the nearest of 256 colours: a shade of grey, or one of a cube."""
    if len(set(colour)) == 1:
        shade = (colour[0] - 3) // 10
        return f"5;{16 if shade < 0 else 231 if shade > 23 else 232 + shade}"
    return f"5;{16 + _in_cube(colour)}"


def _in_cube(colour: Colour) -> int:
    red, green, blue = (each * (LEVELS - 1) // 255 for each in colour)
    return LEVELS * LEVELS * red + LEVELS * green + blue


# --- sixels ---------------------------------------------------------------------------------------------------------

GREYS = 40
"""Shades of grey in the palette of sixels, behind the colours of a cube."""


def in_sixels(rows: Rows) -> str:
    """Return a picture as sixels."""
    indices = [[_index(each) for each in row] for row in rows]
    used = sorted({each for row in indices for each in row})
    palette = "".join(f"#{index};2;{';'.join(map(str, _percentages(index)))}" for index in used)
    bands = (_band(indices[at : at + 6]) for at in range(0, len(indices), 6))
    return f'\x1bPq"1;1;{len(rows[0])};{len(rows)}{palette}' + "-".join(bands) + "\x1b\\\n"


def _index(colour: Colour) -> int:
    return LEVELS**3 + colour[0] * (GREYS - 1) // 255 if len(set(colour)) == 1 else _in_cube(colour)


def _percentages(index: int) -> list[int]:
    if index >= LEVELS**3:
        return [100 * (index - LEVELS**3) // (GREYS - 1)] * 3
    return [100 * each // (LEVELS - 1) for each in (index // LEVELS**2, index // LEVELS % LEVELS, index % LEVELS)]


def _band(rows: list[list[int]]) -> str:
    """Return six rows: for each colour the bits of every column."""
    bits: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        for column, index in enumerate(row):
            bits.setdefault(index, [0] * len(row))[column] |= 1 << number
    return "$".join(f"#{index}{_runs(columns)}" for index, columns in sorted(bits.items()))


def _runs(columns: list[int]) -> str:
    return "".join(f"!{len(list(those))}{chr(63 + value)}" for value, those in groupby(columns))
