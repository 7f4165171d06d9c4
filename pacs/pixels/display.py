"""How an image is to be displayed, by its own attributes: modality, values of interest, palette (PS3.3 C.11, C.7.6)."""

import math
from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pydicom.dataset import Dataset

from pacs.dicom import dataset as data_sets
from pacs.dicom.dataset import Element, View
from pacs.errors import InvalidArgument, UndecodablePixelData
from pacs.pixels.display_elements import SHARED_GROUPS, DisplayElements
from pacs.pixels.image_pixel import ImagePixel
from pacs.pixels.palette import expanded
from pacs.pixels.rendering import FUNCTIONS, LookupTable, Rendering, Rescale, Window

AUTOMATIC = "auto"
"""The name of the window from the lowest to the highest value."""

_CENTER, _WIDTH, _EXPLANATIONS, _FUNCTION = 0x00281050, 0x00281051, 0x00281055, 0x00281056
_INTERCEPT, _SLOPE = 0x00281052, 0x00281053
_MODALITY_LUTS, _VOI_LUTS = 0x00283000, 0x00283010
_DESCRIPTOR, _LUT_EXPLANATION, _DATA = 0x00283002, 0x00283003, 0x00283006
_TRANSFORMATIONS, _FRAME_VOI_LUTS = 0x00289145, 0x00289132
_PADDING, _PADDING_LIMIT, _RELATIONSHIP, _SOP_CLASS = 0x00280120, 0x00280121, 0x00281040, 0x00080016
_PALETTES = tuple((0x00281101 + colour, 0x00281201 + colour, 0x00281221 + colour) for colour in range(3))
"""Descriptor, data and segmented data of red, green and blue."""

_ANGIOGRAPHY = ("1.2.840.10008.5.1.4.1.1.12.1", "1.2.840.10008.5.1.4.1.1.12.2")
"""X-Ray Angiographic and Radiofluoroscopic Image Storage."""


class Choice(NamedTuple):
    """One of the ways in which an image itself wants its values of interest to be displayed."""

    name: str
    """Its explanation, or ''."""
    voi: Window | LookupTable


class Display:
    """How the frames of one image are displayed. Values that are not valid count as missing."""

    def __init__(self, elements: DisplayElements, image: ImagePixel) -> None:
        self._elements = elements
        self._image = image
        self._view = View.of(elements.data_set())

    def choices(self, frame: int) -> list[Choice]:
        """Return the VOI LUTs and the windows of a frame, counted from 0; the first one is the default."""
        for view in self._views(frame, _FRAME_VOI_LUTS):
            if found := [*self._voi_luts(view, frame), *_windows(view)]:
                return found
        return []

    def rendering(self, frame: int, window: Window | str | None = None, quality: int = 90) -> Rendering:
        """Return how a frame, counted from 0, becomes a picture.

        `window` is a window of the caller, `AUTOMATIC`, or the number (from 1) or explanation of one of `choices`; the
        default is the first one, or the whole range of values. Raises InvalidArgument for an unknown one, and
        UndecodablePixelData for a palette that is missing.
        """
        if self._image.photometric_interpretation == "PALETTE COLOR":
            return Rendering(palette=tuple(self._palette(*tags) for tags in _PALETTES), quality=quality)
        if self._image.samples_per_pixel > 1:
            return Rendering(quality=quality)
        modality = self._modality(frame)
        voi = self._chosen(frame, window) or self._default(modality, window)
        return Rendering(modality, voi, padding=self._padding(), quality=quality)

    def _chosen(self, frame: int, window: Window | str | None) -> Window | LookupTable | None:
        if isinstance(window, Window):
            window.check()
            return window
        if window == AUTOMATIC:
            return None
        choices = self.choices(frame)
        if window is None:
            return choices[0].voi if choices else None
        for number, choice in enumerate(choices, 1):
            if window.casefold() in (str(number), choice.name.casefold()):
                return choice.voi
        raise InvalidArgument(f"the image has no window {window!r}: expected {_listed(choices)}")

    def _default(self, modality: Rescale | LookupTable, window: Window | str | None) -> Window | None:
        """Return all values of an image of few bits, such as a screen shot, which is meant to be seen as it is."""
        image = self._image
        if window == AUTOMATIC or modality != Rescale() or image.bits_stored > 8:
            return None
        width = 1 << image.bits_stored
        return Window(0 if image.pixel_representation else width / 2, width)

    def _views(self, frame: int, sequence: int) -> Iterator[View]:
        """Yield where an attribute may be, in this order: the groups of the frame, those of all, the data set."""
        groups = (self._elements.groups_of(frame), *_items(self._view, SHARED_GROUPS))
        for each in groups:
            for item in _items(View.of(each, self._view.terms), sequence):
                yield View.of(item, self._view.terms)
        yield self._view

    # --- modality ----------------------------------------------------------------------------------------------------

    def _modality(self, frame: int) -> Rescale | LookupTable:
        if self._is_for_quantification():
            return Rescale()
        for item in _items(self._view, _MODALITY_LUTS):
            if (table := _lut(View.of(item), is_signed=self._is_signed)) is not None:
                return table
        for view in self._views(frame, _TRANSFORMATIONS):
            intercept, slope = _numbers(view, _INTERCEPT), _numbers(view, _SLOPE)
            if intercept or slope:
                return Rescale(slope[0] if slope and slope[0] else 1.0, intercept[0] if intercept else 0.0)
        return Rescale()

    @property
    def _is_signed(self) -> bool:
        return bool(self._image.pixel_representation)

    def _is_for_quantification(self) -> bool:
        """Whether the modality transformation gives back linear values, and is no part of the display.

        Pixels of angiography that are not linear are meant to be seen as they are (PS3.3 C.8.7.1.1.2).
        """
        return _text(self._view, _SOP_CLASS) in _ANGIOGRAPHY and _text(self._view, _RELATIONSHIP) in ("LOG", "DISP")

    def _padding(self) -> tuple[int, int] | None:
        value = _numbers(self._view, _PADDING)
        if not value:
            return None
        limits = [self._stored(int(each)) for each in (value[0], *_numbers(self._view, _PADDING_LIMIT)[:1])]
        return min(limits), max(limits)

    def _stored(self, value: int) -> int:
        """Return a value with the sign of the pixels: some writers use the VR of the other sign."""
        bits = self._image.bits_stored
        value &= (1 << bits) - 1
        return value - (1 << bits) if self._is_signed and value >> (bits - 1) else value

    # --- values of interest ------------------------------------------------------------------------------------------

    def _voi_luts(self, view: View, frame: int) -> Iterator[Choice]:
        for item in _items(view, _VOI_LUTS):
            item_view = View.of(item, view.terms)
            if (table := _lut(item_view, is_signed=self._may_be_negative(frame))) is not None:
                yield Choice(_text(item_view, _LUT_EXPLANATION), table)

    def _may_be_negative(self, frame: int) -> bool:
        modality = self._modality(frame)
        if isinstance(modality, LookupTable):
            return False
        lowest, highest = (-1, 1) if self._is_signed else (0, 1)
        codes = 1 << self._image.bits_stored
        return min(lowest * codes * modality.slope, highest * codes * modality.slope) + modality.intercept < 0

    # --- palettes ----------------------------------------------------------------------------------------------------

    def _palette(self, descriptor: int, data: int, segmented: int) -> LookupTable:
        view = self._view
        expand: Callable[[list[int], int], list[int]] = lambda words, _: words  # noqa: E731
        if segmented in view.dataset and data not in view.dataset:
            data, expand = segmented, expanded
        table = _table(view, descriptor, data, is_signed=self._is_signed, expand=expand)
        if table is None:
            raise UndecodablePixelData("A palette of the image is missing or damaged", [descriptor, data])
        return table


def _listed(choices: list[Choice]) -> str:
    """Return how the choices can be named."""
    named = [f"{number} ({each.name})" if each.name else str(number) for number, each in enumerate(choices, 1)]
    return f"CENTER,WIDTH or one of {', '.join([AUTOMATIC, *named[:20]])}" if named else f"CENTER,WIDTH or {AUTOMATIC}"


def _windows(view: View) -> Iterator[Choice]:
    explanations = _texts(view, _EXPLANATIONS)
    function = _text(view, _FUNCTION).upper() or FUNCTIONS[0]
    pairs = zip(_numbers(view, _CENTER), _numbers(view, _WIDTH), strict=False)
    for number, (center, width) in enumerate(pairs):
        window = Window(center, width, function if function in FUNCTIONS else FUNCTIONS[0])
        try:
            window.check()
        except InvalidArgument:
            continue
        yield Choice(explanations[number] if number < len(explanations) else "", window)


def _lut(item: View, *, is_signed: bool) -> LookupTable | None:
    return _table(item, _DESCRIPTOR, _DATA, is_signed=is_signed)


def _table(
    view: View,
    descriptor: int,
    data: int,
    *,
    is_signed: bool,
    expand: Callable[[list[int], int], list[int]] = lambda words, _: words,
) -> LookupTable | None:
    """Return a lookup table (PS3.3 C.11.1.1.1, C.7.6.3.1.5); None if it is missing or impossible."""
    described = [int(each) for each in _numbers(view, descriptor)]
    if len(described) < 3 or data not in view.dataset:
        return None
    count, first, bits = described[0] & 0xFFFF or 1 << 16, described[1], described[2]
    words = expand(_words(view.dataset.get_item(data), count, bits), count)[:count]
    if not words:
        return None
    if first >= 1 << 15 and is_signed:
        first -= 1 << 16
    longest = max(words).bit_length()
    if longest > bits or not 0 < bits <= 16 or (bits == 16 and longest <= 8):  # some writers name the bits of a word
        bits = 8 if longest <= 8 else max(longest, min(bits, 16))
    return LookupTable(first, bits, array("H", words).tobytes())


def _words(element: Element, count: int, bits: int) -> list[int]:
    """Return the entries: words of 16 bits, or for at most 8 bits also bytes."""
    raw = getattr(element, "value", None)
    if isinstance(raw, bytes) and bits <= 8 and len(raw) - count in (0, 1) and len(raw) > 1:
        return list(data_sets.in_order(raw, "OW", bool(element.is_little_endian), True))  # type: ignore[union-attr]
    as_words = element._replace(VR="OW") if data_sets.vr(element) != "US" else element  # type: ignore[union-attr]
    return [int(each) & 0xFFFF for each in data_sets.numbers(as_words)]


# --- values of elements ---------------------------------------------------------------------------------------------


def _items(view: View, tag: int) -> tuple[Dataset, ...]:
    return data_sets.items(view.dataset.get_item(tag)) if tag in view.dataset else ()


def _texts(view: View, tag: int) -> list[str]:
    if tag not in view.dataset:
        return []
    return [each.strip(" \0") for each in view.text(view.dataset.get_item(tag)).split("\\")]


def _text(view: View, tag: int) -> str:
    return next(iter(_texts(view, tag)), "")


def _numbers(view: View, tag: int) -> list[float]:
    """Return the numbers of an element; none if one of them is not valid."""
    if tag not in view.dataset:
        return []
    element = view.dataset.get_item(tag)
    if data_sets.vr(element) in ("US", "SS", "UL", "SL", "FL", "FD"):
        found = [float(each) for each in data_sets.numbers(element)]
    else:
        try:
            found = [float(each) for each in _texts(view, tag) if each]
        except ValueError:
            return []
    return found if all(map(math.isfinite, found)) else []
