"""Writes a data set in the DICOM JSON Model (PS3.18 F), element by element, in constant memory."""

import base64
import json
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pacs.dicom.dataset import CHARACTER_SET, in_order
from pacs.dicom.described import BINARY, Described
from pacs.dicom.elements import TokenKind
from pacs.dicom.values import BINARY_FLOATS, BINARY_INTEGERS

BulkDataURI = Callable[[int, int], str]
"""Returns the URI of a value by its offset in the data set and its length in bytes."""

_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def json_pieces(elements: Iterable[Described], uri: BulkDataURI) -> Iterator[str]:
    """Yield the text of one JSON object, a line for each element.

    Text is not in the character set of the data set, so Specific
    Character Set is ISO_IR 192. Values longer than `described.LONGEST` and encapsulated ones become bulk data.
    """
    writer = _Writer(uri)
    yield "{"
    for element in elements:
        yield from writer.pieces(element)
    yield from writer.ends()


class _Writer:
    def __init__(self, uri: BulkDataURI) -> None:
        self._uri = uri
        self._counts = [0]
        """The members of each open object and array."""
        self._fragments_at = 0
        self._last: tuple[int, ...] = ()
        """The path of the element before, if it was in the same item."""

    def pieces(self, element: Described) -> Iterator[str]:
        """Yield what a token adds."""
        token = element.token
        match token.kind:
            case TokenKind.ELEMENT if token.tag & 0xFFFF and element.path != self._last:  # not a second time
                self._last = element.path
                yield from self._member(element, json.dumps(self._leaf(element), ensure_ascii=False))
            case TokenKind.SEQUENCE:
                yield from self._member(element, '{"vr": "SQ"')
                self._counts.append(0)
            case TokenKind.ITEM:
                yield ', "Value": [{' if not self._counts[-1] else ", {"
                self._counts[-1] += 1
                self._counts.append(0)
                self._last = ()
            case TokenKind.ITEM_END | TokenKind.SEQUENCE_END:
                yield self._end()
            case TokenKind.ENCAPSULATED:
                self._fragments_at = element.offset
            case TokenKind.ENCAPSULATED_END:
                value = {"vr": "OB", "BulkDataURI": self._uri(self._fragments_at, element.offset - self._fragments_at)}
                yield from self._member(element, json.dumps(value))

    def ends(self) -> Iterator[str]:
        """Yield the ends of all that is open: more than the whole object if the data set is cut off."""
        while len(self._counts) > 1:
            yield self._end()
        yield "\n}\n"

    def _end(self) -> str:
        """Return the end of the innermost item or sequence; they alternate."""
        is_item, count = len(self._counts) % 2 == 1, self._counts.pop()
        if is_item:
            return f"\n{self._indent()}}}" if count else "}"
        return "]}" if count else "}"

    def _member(self, element: Described, value: str) -> Iterator[str]:
        yield f'{"," if self._counts[-1] else ""}\n{self._indent()}"{element.token.tag:08X}": {_printable(value)}'
        self._counts[-1] += 1

    def _indent(self) -> str:
        return "  " * len(self._counts)

    def _leaf(self, element: Described) -> dict[str, Any]:
        if element.token.tag == CHARACTER_SET:
            return {"vr": "CS", "Value": ["ISO_IR 192"]}
        if not element.is_whole:
            return {"vr": element.vr, "BulkDataURI": self._uri(element.offset, element.token.length)}
        if element.vr in BINARY:
            data = in_order(element.data, element.vr, element.token.encoding.little, True)
            return {"vr": element.vr} | ({"InlineBinary": base64.b64encode(data).decode()} if data else {})
        values = [_value(element.vr, each) for each in element.values()]
        return {"vr": element.vr} | ({"Value": values} if any(each is not None for each in values) else {})


def _value(vr: str, value: str | int | float) -> Any:
    """Return a value as PS3.18 F.2.3 says; a number that is none, or not finite, as text."""
    if vr == "AT":
        return f"{value:08X}"
    if value == "":
        return None
    if vr == "PN":
        return {name: text for name, text in zip(_GROUPS, str(value).split("="), strict=False) if text}
    if vr in ("IS", "DS") or vr in BINARY_FLOATS:
        return _number(vr, value)
    return value if vr in BINARY_INTEGERS else str(value)


def _number(vr: str, value: str | int | float) -> int | float | str:
    try:
        number = int(value) if vr == "IS" else float(value)
    except ValueError:
        return str(value)
    return number if math.isfinite(number) else str(value)


def _printable(text: str) -> str:
    """Escape unprintable characters, so that no terminal interprets them."""
    return (
        text if text.isprintable() else "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)
    )
