"""Received data sets in memory: reads them within bounds, gives their values without raising, writes them without loss.

pydicom's `Dataset` has the elements. Its conversion of values is not used, because it raises, warns or replaces where a
value breaks the rules of its Value Representation, and received values must not change.
"""

import io
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeGuard

from pydicom import Dataset, Sequence
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag

from pacs.dicom import charset
from pacs.dicom.attributes import Attribute
from pacs.dicom.bounds import DEFAULT_BOUNDS, DataSetBounds
from pacs.dicom.charset import CUSTOMIZABLE, Terms
from pacs.dicom.elements import LONG_VRS, SHORT_VRS, Encoding, Source, Token, TokenKind, vr_of, walk
from pacs.dicom.query import Comparable
from pacs.dicom.values import BINARY_FLOATS, BINARY_INTEGERS, ONE_VALUE, comparable, name_groups, stripped
from pacs.errors import UndecodableDataSet

Element = DataElement | RawDataElement

CHARACTER_SET = 0x00080005
IMPLICIT_LITTLE, EXPLICIT_LITTLE = Encoding(implicit=True), Encoding()

AMBIGUOUS = {"US or SS": "US", "US or SS or OW": "OW", "US or OW": "OW", "OB or OW": "OW"}
"""The VR that is used for an attribute with several in PS3.6, where the data set does not state it."""
_WORDS = {
    "US": "H", "SS": "h", "AT": "H", "OW": "H", "UL": "L", "SL": "l", "FL": "f", "OL": "L", "OF": "L", "FD": "d",
    "OD": "Q", "SV": "q", "UV": "Q", "OV": "Q",
}  # fmt: skip
"""The struct format of one word of each binary VR: the unit of byte order."""


# --- reading -----------------------------------------------------------------------------------------------------


def read(data: bytes, encoding: Encoding, bounds: DataSetBounds = DEFAULT_BOUNDS) -> Dataset:
    """Return the data set that is encoded in `data`, with its values unchanged.

    Raises UndecodableDataSet for bytes that are not a data set in this encoding, or beyond `bounds`.
    """
    source = Source(io.BytesIO(data), encoding, bounds.inflated)
    builder = _Builder(source)
    for token in bounds.limited(walk(source, encoding, bounds.depth)):
        builder.take(token)
    return builder.data_set()


class _Builder:
    """Builds nested data sets from the tokens of a walk."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._open: list[tuple[dict[BaseTag, Element], Encoding]] = [({}, EXPLICIT_LITTLE)]
        self._items: list[list[Dataset]] = []

    def take(self, token: Token) -> None:
        """Add the next token."""
        elements, _ = self._open[-1]
        match token.kind:
            case TokenKind.ELEMENT:
                value = self._source.read(token.length)
                element = raw(token.tag, AMBIGUOUS.get(token.vr, token.vr), value, token.encoding)
                elements[element.tag] = element
            case TokenKind.SEQUENCE:
                self._items.append([])
            case TokenKind.ITEM:
                self._open.append(({}, token.encoding))
            case TokenKind.ITEM_END:
                self._items[-1].append(self.data_set())
                self._open.pop()
            case TokenKind.SEQUENCE_END:
                tag = BaseTag(token.tag)
                elements[tag] = DataElement(tag, "SQ", Sequence(self._items.pop()))
            case _:
                raise UndecodableDataSet("encapsulated data", (token.tag,))

    def data_set(self) -> Dataset:
        """Return the innermost open data set with its elements so far."""
        elements, encoding = self._open[-1]
        return labelled(Dataset(elements), encoding, self._terms())

    def _terms(self) -> Terms:
        stated = (elements.get(BaseTag(CHARACTER_SET)) for elements, _ in reversed(self._open))
        found = next((element for element in stated if element is not None), None)
        return charset.parse(_ascii(found)) if found is not None else ()


def labelled(dataset: Dataset, encoding: Encoding, terms: Terms) -> Dataset:
    """Set the encoding in which pydicom reads the values of a data set, and return it."""
    codecs = [charset.python_codec(term) for term in terms] or ["utf_8"]
    dataset.set_original_encoding(encoding.implicit, encoding.little, codecs)
    return dataset


def raw(tag: int, vr: str, value: bytes, encoding: Encoding = EXPLICIT_LITTLE) -> RawDataElement:
    """Return an element with an encoded value."""
    return RawDataElement(BaseTag(tag), vr, len(value), value, 0, encoding.implicit, encoding.little)


def items_of(vr: str, value: bytes, encoding: Encoding) -> tuple[Dataset, ...]:
    """Return the items of an encoded sequence; none when it is damaged, as stored data sets were checked before."""
    if vr == "UN":  # PS3.5 6.2.2: within UN items are in Implicit VR Little Endian
        encoding = IMPLICIT_LITTLE
    head = struct.pack("<HH" if encoding.little else ">HH", 0x0040, 0x0275)
    head += b"" if encoding.implicit else b"SQ\0\0"
    head += struct.pack("<L" if encoding.little else ">L", len(value))
    try:
        found = read(head + value, encoding)
    except UndecodableDataSet:
        return ()
    # An element that is raw here is no sequence (`walk`).
    return tuple(item for each in found.values() if not isinstance(each, RawDataElement) for item in items(each))


# --- views -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class View:
    """A data set and the character set of its text: its own or that of the enclosing data set."""

    dataset: Dataset
    terms: Terms

    @classmethod
    def of(cls, dataset: Dataset, inherited: Terms = ()) -> "View":
        """Return the view of a data set; without a character set of its own it gets the `inherited` one."""
        stated = dataset.get_item(CHARACTER_SET) if CHARACTER_SET in dataset else None
        return cls(dataset, charset.parse(_ascii(stated)) if stated is not None else inherited)

    def element(self, attribute: Attribute) -> Element | None:
        """Return the element of an attribute, None when it is absent; find a private one by its creator."""
        tag = self._private_tag(attribute) if attribute.creator else attribute.tag
        if tag is None or tag not in self.dataset:
            return None
        found: Element = self.dataset.get_item(tag)
        if isinstance(found, RawDataElement) and vr(found) == "UN":
            return found._replace(VR=attribute.vr)
        return found

    def _private_tag(self, attribute: Attribute) -> int | None:
        """Return the tag of a private attribute here: its creator may have reserved another block (PS3.5 7.8.1)."""
        group = attribute.tag & 0xFFFF0000
        for block in range(0x10, 0x100):
            reserved = self.dataset.get_item(group | block) if (group | block) in self.dataset else None
            if reserved is not None and self.text(reserved).strip(" \0") == attribute.creator:
                return group | block << 8 | attribute.tag & 0xFF
        return None

    def text(self, element: Element) -> str:
        """Return the text of an element, its values joined by backslashes."""
        if not isinstance(element, RawDataElement):
            return "\\".join(str(value) for value in _converted(element))
        value = element.value or b""
        return charset.decode(value, self.terms) if vr(element) in CUSTOMIZABLE else value.decode("latin_1")

    def texts(self, attribute: Attribute) -> tuple[str, ...]:
        """Return the values of an attribute as text, without those that are empty or padding only."""
        element = self.element(attribute)
        if element is None or vr(element) == "SQ":
            return ()
        if vr(element) in BINARY_INTEGERS or vr(element) in BINARY_FLOATS:
            return tuple(str(number) for number in numbers(element))
        text = self.text(element)
        values = [text] if attribute.vr in ONE_VALUE else text.split("\\")
        return tuple(value for value in values if stripped(attribute.vr, value))

    def values(self, attribute: Attribute) -> tuple[Comparable | None, ...]:
        """Return the comparable form of each non-empty value, None for one that breaks the rules of its VR."""
        return tuple(comparable(attribute.vr, text) for text in self.texts(attribute))

    def names(self, attribute: Attribute) -> tuple[tuple[str, ...], ...]:
        """Return the folded component groups of each name in an attribute of VR PN, without empty names."""
        return tuple(groups for text in self.texts(attribute) if (groups := name_groups(text)))

    def items(self, attribute: Attribute) -> tuple["View", ...]:
        """Return the items of a sequence, none when it is absent."""
        element = self.element(attribute)
        if element is None:
            return ()
        return tuple(View.of(item, self.terms) for item in items(element))

    def all_texts(self) -> Iterator[str]:
        """Yield every text that depends on the character set, those in sequences included."""
        for element in self.dataset.values():
            if vr(element) in CUSTOMIZABLE:
                yield self.text(element)
            elif vr(element) == "SQ":
                for item in items(element):
                    yield from View.of(item, self.terms).all_texts()


def vr(element: Element) -> str:
    """Return the VR of an element: the declared one; where it is missing or UN, that of PS3.6, or UN."""
    declared = str(element.VR) if element.VR else "UN"
    if declared not in SHORT_VRS and declared not in LONG_VRS:
        declared = AMBIGUOUS.get(declared, "UN")
    if declared != "UN":
        return declared
    return dictionary_vr(element.tag)


def dictionary_vr(tag: int) -> str:
    """Return the VR of a tag in PS3.6, one where it has several; UN for an unknown tag."""
    known = vr_of(tag)
    return AMBIGUOUS.get(known, known)


def is_plain(element: Element) -> TypeGuard[RawDataElement]:
    """Whether an element is encoded in Explicit VR Little Endian."""
    return isinstance(element, RawDataElement) and not element.is_implicit_VR and element.is_little_endian


def items(element: Element) -> tuple[Dataset, ...]:
    """Return the items of a sequence element; none for any other element."""
    if not isinstance(element, RawDataElement):
        return tuple(element.value or ()) if element.VR == "SQ" else ()
    if vr(element) != "SQ":
        return ()
    return items_of(element.VR or "SQ", element.value or b"", _encoding(element))


def numbers(element: Element) -> tuple[int | float, ...]:
    """Return the values of a binary element, without an incomplete word at the end. A value of AT is one number."""
    if not isinstance(element, RawDataElement):
        return tuple(value for value in _converted(element) if isinstance(value, (int, float)))
    found = _unpacked(element.value or b"", vr(element), element.is_little_endian)
    if vr(element) != "AT":
        return found
    return tuple(int(high) << 16 | int(low) for high, low in zip(found[::2], found[1::2], strict=False))


def packed(vr: str, values: Iterable[int | float]) -> bytes:
    """Return the value of a binary element in little endian. Raises struct.error, OverflowError if one is too large."""
    if vr == "AT":
        values = [half for tag in values for half in (int(tag) >> 16, int(tag) & 0xFFFF)]
    return b"".join(struct.pack("<" + _WORDS[vr], value) for value in values)


def _unpacked(value: bytes, vr: str, little: bool) -> tuple[int | float, ...]:
    word = struct.Struct(("<" if little else ">") + _WORDS[vr])
    whole = len(value) - len(value) % word.size
    return tuple(number for (number,) in word.iter_unpack(value[:whole]))


def _encoding(element: RawDataElement) -> Encoding:
    return Encoding(element.is_implicit_VR, element.is_little_endian)


def _ascii(element: Element) -> str:
    if isinstance(element, RawDataElement):
        return (element.value or b"").decode("latin_1")
    return "\\".join(str(value) for value in _converted(element))


def _converted(element: DataElement) -> list[object]:
    """Return the values of an element that pydicom has converted, or that was made with a Python value."""
    if element.value is None:
        return []
    if isinstance(element.value, bytes):
        return [element.value.decode("latin_1")]
    return list(element.value) if element.VM > 1 else [element.value]


# --- writing -----------------------------------------------------------------------------------------------------


def write(view: View, encoding: Encoding, terms: Terms | None = None, longest: int | None = None) -> bytes:
    """Encode the data set in a native encoding, with defined lengths of sequences and without group lengths.

    With `terms` all text is encoded in that character set and (0008,0005) is omitted everywhere; without, text does not
    change. An element whose value is longer than `longest` bytes is omitted. Raises UnicodeEncodeError for a text that
    the character set cannot encode.
    """
    return _Writer(encoding, terms, longest).data_set(view)


@dataclass(frozen=True, slots=True)
class _Writer:
    encoding: Encoding
    terms: Terms | None
    longest: int | None

    def data_set(self, view: View) -> bytes:
        out = bytearray()
        for tag in sorted(view.dataset.keys()):
            if tag.element and (self.terms is None or tag != CHARACTER_SET):
                out += self._element(view, view.dataset.get_item(tag))
        return bytes(out)

    def _element(self, view: View, element: Element) -> bytes:
        name, value = vr(element), self._value(view, element)
        if value is None:
            return b""
        if len(value) % 2:
            value = self._of_even_length(name, value)
        if self.longest is not None and len(value) > self.longest:
            return b""
        return element_head(self.encoding, element.tag, name, len(value)) + value

    def _of_even_length(self, name: str, value: bytes) -> bytes:
        """Return a value with padding; text in another character set without the padding that it no longer needs.

        Otherwise a value of full length would become longer than its VR allows.
        """
        if self.terms is not None and name in CUSTOMIZABLE and value[-1:] in (b" ", b"\0"):
            return value[:-1]
        return value + (b"\0" if name in ("UI", "OB", "UN") else b" ")

    def _value(self, view: View, element: Element) -> bytes | None:
        """Return the encoded value; None for a converted value that cannot be encoded in its VR."""
        name = vr(element)
        if name == "SQ":
            return b"".join(self._item(View.of(item, view.terms)) for item in items(element))
        if name in CUSTOMIZABLE and (self.terms is not None or not isinstance(element, RawDataElement)):
            return charset.encode(view.text(element), view.terms if self.terms is None else self.terms)
        if isinstance(element, RawDataElement):
            return in_order(element.value or b"", name, element.is_little_endian, self.encoding.little)
        return _pydicom_value(element, self.encoding)

    def _item(self, view: View) -> bytes:
        content = self.data_set(view)
        return struct.pack("<HHL" if self.encoding.little else ">HHL", 0xFFFE, 0xE000, len(content)) + content


def element_head(encoding: Encoding, tag: int, name: str, length: int) -> bytes:
    """Return the encoded tag, VR and length of an element (PS3.5 7.1)."""
    order = "<" if encoding.little else ">"
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if encoding.implicit:
        return head + struct.pack(order + "L", length)
    if name in SHORT_VRS and length <= 0xFFFE:
        return head + name.encode() + struct.pack(order + "H", length)
    long_name = name if name in LONG_VRS else "UN"  # PS3.5 6.2.2: for a value that is too long for a 16 bit length
    return head + long_name.encode() + struct.pack(order + "HL", 0, length)


def in_order(value: bytes, vr: str, was_little: bool, little: bool) -> bytes:
    """Return a value with its words in another byte order."""
    if was_little == little or vr not in _WORDS:
        return value
    size = struct.calcsize("<" + _WORDS[vr])
    whole = len(value) - len(value) % size
    return b"".join(value[at : at + size][::-1] for at in range(0, whole, size)) + value[whole:]


def _pydicom_value(element: DataElement, encoding: Encoding) -> bytes | None:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = encoding.little, True
    try:
        write_data_element(buffer, element)
    except (ValueError, TypeError, AttributeError, OverflowError, NotImplementedError, struct.error):
        return None
    return buffer.getvalue()[8:]
