"""Reads what the index needs from an instance, and single attributes of a stored instance.

The whole data set is walked through once, in constant memory and without reading bulk data. A data set that is
truncated, nested too deep or not in the announced transfer syntax is found here, before anything is stored. Plain data
sets take the fast path (`pacs.dicom.fast_scan`); of others the required elements become a pydicom data set.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from io import SEEK_END
from typing import BinaryIO

from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from pacs.dicom import row_elements
from pacs.dicom.attributes import ATTRIBUTES
from pacs.dicom.bounds import DEFAULT_BOUNDS, DataSetBounds
from pacs.dicom.dataset import AMBIGUOUS, CHARACTER_SET
from pacs.dicom.elements import CUT_OFF, DEFLATED_CUT_OFF, Encoding, Source, Token, TokenKind, encoding_of, walk
from pacs.dicom.fast_scan import BulkRule, FastScan, FastScanUnsupported
from pacs.dicom.levels import LEVELS, QueryLevel
from pacs.dicom.lru_cache import LRUCache
from pacs.dicom.values import is_uid
from pacs.errors import MissingUID, UndecodableDataSet

VALUE_LIMIT = 1 << 16
"""A longer element is bulk data, which is not read."""

BULK = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010, 0x00420011, 0x54000100, 0x56000010, 0x56000020))
"""Bulk data of any length: the forms of Pixel Data, encapsulated documents, waveforms and spectra."""

BULK_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "OB or OW", "US or OW", "US or SS or OW", "UN", "UT", "UC"))
"""The VRs whose values are bulk data when they are longer than `VALUE_LIMIT`."""

NOT_IN_A_DATA_SET = frozenset((0x0000, 0x0002))
"""The groups of command sets and of File Meta Information (PS3.7 E, PS3.10 7.1), which some data sets contain."""

SOP_CLASS_UID, SOP_INSTANCE_UID = 0x00080016, 0x00080018
STUDY_INSTANCE_UID, SERIES_INSTANCE_UID = 0x0020000D, 0x0020000E
PIXEL_DATA = 0x7FE00010
UIDS = (SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID)

_ALWAYS_READ = frozenset((0x00080005, 0x00280103))
"""Specific Character Set and Pixel Representation: the interpretation of other values depends on them."""

_WANTED = frozenset(ATTRIBUTES) | frozenset(UIDS) | _ALWAYS_READ

_FAST_SCAN_TAGS = frozenset((*UIDS, CHARACTER_SET))
_BULK = BulkRule(BULK, BULK_VRS, VALUE_LIMIT)

_ReceivedElements = tuple[QueryLevel, bool, bytes, bytes]
"""Level, whether VRs are implicit, character set, and the received elements, which are not in the encoding of rows."""

_row_elements_cache: LRUCache[_ReceivedElements, bytes] = LRUCache(4096, 8 << 20)
"""The row elements of received elements: the instances of a series often have the same."""


@dataclass(frozen=True, slots=True)
class Header:
    """The data of an instance that the index keeps. Texts have no padding; an unknown Patient ID or issuer is ''."""

    patient_id: str
    issuer: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    kept: dict[QueryLevel, bytes]
    """The encoded row elements of each level (`pacs.dicom.row_elements`)."""
    bulk_offset: int | None
    """The offset of the first bulk element in the data set, in bytes; None without one and in a deflated data set."""
    has_fragments: bool = False
    """Whether an element of the data set itself is encapsulated (PS3.5 A.4)."""
    misplaced: tuple[tuple[int, int], ...] = ()
    """The ranges with elements of `NOT_IN_A_DATA_SET`, which are not stored (docs/checklist.md S4): (start, end)."""


def read_header(file: BinaryIO, transfer_syntax: str, bounds: DataSetBounds = DEFAULT_BOUNDS) -> Header:
    """Read the data set at the position of `file` to its end and return its header.

    Raises UndecodableDataSet when it is not a complete data set in this transfer syntax (PS3.5 section 7) or beyond
    `bounds`, MissingUID with the tags of the missing UIDs.
    """
    start = file.tell()
    try:
        return _plain_header(file, transfer_syntax, bounds)
    except FastScanUnsupported:
        file.seek(start)
        return general_header(file, transfer_syntax, bounds)


def general_header(file: BinaryIO, transfer_syntax: str, bounds: DataSetBounds = DEFAULT_BOUNDS) -> Header:
    """Read a header as `read_header` does, by the general path; the fast path must give the same result."""
    scan = _Scan(file, transfer_syntax, _WANTED.__contains__, bounds)
    scan.run()
    uids = {tag: _uid(element.value) if (element := scan.elements.get(tag)) else "" for tag in UIDS}
    require_uids(uids)
    dataset = scan.dataset()
    levels = {level: row_elements.encode(row_elements.select(level, dataset)) for level in QueryLevel}
    return _header(uids, levels, scan.bulk_offset, scan.has_fragments, tuple(scan.misplaced))


def require_uids(uids: Mapping[int, str]) -> None:
    """Raise MissingUID, with the tags of those that are not valid, unless all UIDs are."""
    missing = [tag for tag, uid in uids.items() if not is_uid(uid)]
    if missing:
        names = [keyword_for_tag(tag) for tag in missing]
        rest = f"; also {', '.join(names[1:])}" if names[1:] else ""
        raise MissingUID(f"Missing or not valid: {names[0]}{rest}", missing)


def _header(
    uids: Mapping[int, str],
    levels: dict[QueryLevel, bytes],
    bulk_offset: int | None,
    has_fragments: bool,
    misplaced: tuple[tuple[int, int], ...] = (),
) -> Header:
    patient = row_elements.columns(QueryLevel.PATIENT, levels[QueryLevel.PATIENT])
    return Header(
        patient_id=str(patient["patient_id"] or ""),
        issuer=str(patient["issuer_of_patient_id"] or ""),
        study_instance_uid=uids[STUDY_INSTANCE_UID],
        series_instance_uid=uids[SERIES_INSTANCE_UID],
        sop_instance_uid=uids[SOP_INSTANCE_UID],
        sop_class_uid=uids[SOP_CLASS_UID],
        kept=levels,
        bulk_offset=bulk_offset,
        has_fragments=has_fragments,
        misplaced=misplaced,
    )


def _plain_header(file: BinaryIO, transfer_syntax: str, bounds: DataSetBounds) -> Header:
    """Return the header of a plain data set. Raises FastScanUnsupported."""
    start = file.tell()
    encoding = encoding_of(transfer_syntax)
    if not bounds.need_no_check_for(file.seek(0, SEEK_END) - start):
        raise FastScanUnsupported
    file.seek(start)
    plain = FastScan(file, encoding, _FAST_SCAN_TAGS, _BULK)
    uids = {tag: _uid(plain.values.get(tag)) for tag in UIDS}
    if not all(map(is_uid, uids.values())):
        raise FastScanUnsupported
    levels = {level: b"".join(elements) for level, elements in zip(LEVELS, plain.levels, strict=True)}
    if all(plain.is_row_form):
        return _header(uids, levels, plain.bulk_offset, plain.has_fragments)
    character_set = plain.values.get(CHARACTER_SET, b"")
    received = {
        level: (level, encoding.implicit, character_set, levels[level])
        for level in LEVELS
        if not plain.is_row_form[level]
    }
    for level, key in received.items():
        known = _row_elements_cache.get(key)
        if known is None:
            file.seek(start)
            return _cached(general_header(file, transfer_syntax, bounds), received)
        levels[level] = known
    return _header(uids, levels, plain.bulk_offset, plain.has_fragments)


def _cached(header: Header, received: dict[QueryLevel, _ReceivedElements]) -> Header:
    for level, key in received.items():
        _row_elements_cache.put(key, header.kept[level], len(key[-1]) + len(header.kept[level]))
    return header


def read_attributes(file: BinaryIO, transfer_syntax: str, tags: Collection[int]) -> Dataset:
    """Return the attributes with these tags of the data set at the position of `file`, those that it has.

    For a private tag, returns the elements with its group and last two digits in all blocks, with their creators, as
    another instance may have it in another block (PS3.5 7.8.1). Omits values beyond `VALUE_LIMIT`. Raises
    UndecodableDataSet.
    """
    private = {tag & 0xFFFF00FF for tag in tags if tag >> 16 & 1}
    groups = {tag >> 16 for tag in private}

    def wanted(tag: int) -> bool:
        if tag >> 16 in groups:
            return 0x10 <= tag & 0xFFFF <= 0xFF or tag & 0xFFFF00FF in private
        return tag in tags or tag in _ALWAYS_READ

    scan = _Scan(file, transfer_syntax, wanted, DEFAULT_BOUNDS)
    scan.run(until=max(max(tags, default=0) | (0xFFFF if private else 0), *_ALWAYS_READ))
    return scan.dataset()


def plain_uids(file: BinaryIO, transfer_syntax: str) -> dict[int, str] | None:
    """Return the UIDs of the plain data set at the position of `file`, once it is known to be whole.

    Return None for any other data set, and leave the position there.
    """
    start = file.tell()
    try:
        values = FastScan(file, encoding_of(transfer_syntax), frozenset(UIDS), _BULK).values
    except FastScanUnsupported:
        file.seek(start)
        return None
    return {tag: _uid(values.get(tag)) for tag in UIDS}


def is_cut_off(file: BinaryIO, transfer_syntax: str) -> bool:
    """Return whether the data set at the position of `file` ends in the middle of an element."""
    try:
        _Scan(file, transfer_syntax, frozenset[int]().__contains__, DEFAULT_BOUNDS).run()
    except UndecodableDataSet as error:
        return error.comment in (CUT_OFF, DEFLATED_CUT_OFF)
    return False


def _uid(value: object) -> str:
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else ""


class _Scan:
    """Walks through a data set and collects top-level elements."""

    def __init__(
        self, file: BinaryIO, transfer_syntax: str, wanted: Callable[[int], bool], bounds: DataSetBounds
    ) -> None:
        self.elements: dict[int, RawDataElement] = {}
        self.bulk_offset: int | None = None
        self.has_fragments = False
        self.misplaced: list[tuple[int, int]] = []
        self._encoding = encoding_of(transfer_syntax)
        self._bounds = bounds
        self._source = Source(file, self._encoding, bounds.inflated)
        self._wanted = wanted
        self._recording: tuple[Token, int] | None = None

    def run(self, until: int | None = None) -> None:
        """Walk to the end, or to the first element with a tag greater than `until`."""
        misplaced_start: int | None = None
        for token in self._bounds.limited(walk(self._source, self._encoding, self._bounds.depth)):
            if token.kind is TokenKind.SEQUENCE_END and token.depth == 1:
                self._end_recording(token)
            if token.depth or token.kind not in _BEGINNINGS:
                continue
            if until is not None and token.tag > until:
                return
            if misplaced_start is not None:
                self.misplaced.append((misplaced_start, token.start))
            misplaced_start = token.start if token.tag >> 16 in NOT_IN_A_DATA_SET else None
            self._element(token)
        if misplaced_start is not None:
            self.misplaced.append((misplaced_start, self._source.position))

    def dataset(self) -> Dataset:
        """Return the collected elements as a data set whose values pydicom has not converted."""
        dataset = Dataset({BaseTag(tag): element for tag, element in self.elements.items()})
        dataset.set_original_encoding(self._encoding.implicit, self._encoding.little)
        return dataset

    def _element(self, token: Token) -> None:
        if self.bulk_offset is None and not self._encoding.deflated and _is_bulk(token):
            self.bulk_offset = token.start
        self.has_fragments |= token.kind is TokenKind.ENCAPSULATED
        if not self._wanted(token.tag):
            return
        if token.kind is TokenKind.SEQUENCE:
            self._recording = token, self._source.position
            self._source.record(VALUE_LIMIT)
        elif token.kind is TokenKind.ELEMENT and token.length <= VALUE_LIMIT:
            self._collect(token, self._source.read(token.length), token.encoding)

    def _end_recording(self, end: Token) -> None:
        if self._recording is None:
            return
        token, start = self._recording
        self._recording = None
        value = self._source.recorded()
        if value is not None:
            self._collect(token._replace(vr="SQ"), value[: end.start - start], token.encoding)

    def _collect(self, token: Token, value: bytes, encoding: Encoding) -> None:
        vr = None if encoding.implicit and token.kind is TokenKind.ELEMENT else AMBIGUOUS.get(token.vr, token.vr)
        # An empty value is b"" and not None, which pydicom would convert in the stated character set.
        self.elements[token.tag] = RawDataElement(
            BaseTag(token.tag), vr, len(value), value, 0, encoding.implicit, encoding.little
        )


_BEGINNINGS = frozenset((TokenKind.ELEMENT, TokenKind.SEQUENCE, TokenKind.ENCAPSULATED))


def _is_bulk(token: Token) -> bool:
    """Whether an element is bulk data."""
    is_long = token.kind is TokenKind.ELEMENT and token.length > VALUE_LIMIT and token.vr in BULK_VRS
    return token.tag in BULK or token.kind is TokenKind.ENCAPSULATED or is_long
