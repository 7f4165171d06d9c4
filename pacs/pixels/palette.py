"""Segmented palettes (PS3.3 C.7.9.2)."""

from pacs.errors import UndecodablePixelData

DISCRETE, LINEAR, INDIRECT = 0, 1, 2


def expanded(words: list[int], most: int) -> list[int]:
    """Return the entries of segmented palette data, at most so many. Raises UndecodablePixelData."""
    entries: list[int] = []
    starts: list[int] = []
    at = 0
    while at < len(words) and len(entries) < most:
        starts.append(at)
        at = _expand(words, at, entries, starts)
    return entries


def _expand(words: list[int], at: int, entries: list[int], starts: list[int]) -> int:
    """Add the entries of the segment at a position, and return the position of the next one."""
    try:
        kind, count = words[at], words[at + 1]
        if kind == DISCRETE:
            entries.extend(words[at + 2 : at + 2 + count])
            return at + 2 + count
        if kind == LINEAR:
            entries.extend(_line(entries[-1], words[at + 2], count))
            return at + 3
        if kind == INDIRECT:
            _repeat(words, starts.index(words[at + 2] | words[at + 3] << 16), count, entries, starts)
            return at + 4
    except (IndexError, ValueError) as error:
        raise UndecodablePixelData("A segmented palette of the image is damaged") from error
    raise UndecodablePixelData(f"A segmented palette of the image has a segment of the unknown type {kind}")


def _line(last: int, end: int, count: int) -> list[int]:
    """Return the entries of a line from the last entry, which it leaves out, to its end."""
    return [last + (2 * (end - last) * step + count) // (2 * count) for step in range(1, count + 1)]


def _repeat(words: list[int], first: int, count: int, entries: list[int], starts: list[int]) -> None:
    """Add the entries of earlier segments again. None of them repeats others in turn, so that this ends."""
    for start in starts[first : first + count]:
        if words[start] == INDIRECT:
            raise ValueError("an indirect segment repeats another one")
        _expand(words, start, entries, starts)
