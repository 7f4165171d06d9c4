"""What the index wants from an instance, and single attributes from a stored one.

The whole data set is walked through once, in constant memory and without reading its bulk: what is cut off, nested
too deep or in another transfer syntax than announced is found here, before anything is stored. Plain data sets take the
fast way (`pacs.dicom.fast_scan`); of others the elements that are wanted are given to pydicom.
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
from pacs.dicom.dataset import CHARACTER_SET
from pacs.dicom.elements import Encoding, Source, Token, TokenKind, encoding_of, walk
from pacs.dicom.fast_scan import BulkRule, FastScan, FastScanUnsupported
from pacs.dicom.levels import LEVELS, QueryLevel
from pacs.dicom.lru_cache import LRUCache
from pacs.dicom.values import is_uid
from pacs.errors import MissingUID

VALUE_LIMIT = 1 << 16
"""An element longer than this is bulk, and is not read."""

BULK = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010, 0x00420011, 0x54000100, 0x56000010, 0x56000020))
"""Pixel Data in its forms, encapsulated documents, waveforms and spectra: bulk whatever their length."""

BULK_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "OB or OW", "US or OW", "US or SS or OW", "UN", "UT", "UC"))
"""The VRs whose values are bulk when they are longer than `VALUE_LIMIT`."""

NOT_IN_A_DATA_SET = frozenset((0x0000, 0x0002))
"""The groups of command sets and of File Meta Information (PS3.7 E, PS3.10 7.1), which senders leave in data sets."""

SOP_CLASS_UID, SOP_INSTANCE_UID = 0x00080016, 0x00080018
STUDY_INSTANCE_UID, SERIES_INSTANCE_UID = 0x0020000D, 0x0020000E
UIDS = (SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID)

_ALWAYS_READ = frozenset((0x00080005, 0x00280103))
"""Specific Character Set and Pixel Representation: other values cannot be understood without them."""

_WANTED = frozenset(ATTRIBUTES) | frozenset(UIDS) | _ALWAYS_READ

_SEEN = frozenset((*UIDS, CHARACTER_SET))
_BULK = BulkRule(BULK, BULK_VRS, VALUE_LIMIT)

_Foreign = tuple[QueryLevel, bool, bytes, bytes]
"""Level, whether VRs are implicit, character set, and elements as they were sent, in another form than the kept one."""

_known_forms: LRUCache[_Foreign, bytes] = LRUCache(4096, 8 << 20)
"""Their kept form: a series repeats itself."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the index keeps of an instance. Texts are without padding; '' where patient ID or issuer is unknown."""

    patient_id: str
    issuer: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    kept: dict[QueryLevel, bytes]
    """The elements of each level, encoded by `pacs.dicom.row_elements`."""
    bulk_offset: int | None
    """Where the first bulk element begins, in bytes from the beginning of the data set; None if there is none or the
    data set is deflated."""
    intruders: tuple[tuple[int, int], ...] = ()
    """From where to where elements of `NOT_IN_A_DATA_SET` stand (checklist S4): to be left out when it is stored."""


def read_header(file: BinaryIO, transfer_syntax: str, bounds: DataSetBounds = DEFAULT_BOUNDS) -> Header:
    """The header of the data set at which `file` stands, which is read to its end.

    Raises UndecodableDataSet when it is no whole data set in this transfer syntax (PS3.5 section 7) or beyond `bounds`,
    MissingUID with the tags of the UIDs it lacks.
    """
    start = file.tell()
    try:
        return _plain_header(file, transfer_syntax, bounds)
    except FastScanUnsupported:
        file.seek(start)
        return general_header(file, transfer_syntax, bounds)


def general_header(file: BinaryIO, transfer_syntax: str, bounds: DataSetBounds = DEFAULT_BOUNDS) -> Header:
    """As `read_header`, by the way that is open to every data set; the fast one has to give the same."""
    scan = _Scan(file, transfer_syntax, _WANTED.__contains__, bounds)
    scan.run()
    uids = {tag: _uid(element.value) if (element := scan.elements.get(tag)) else "" for tag in UIDS}
    missing = [tag for tag, uid in uids.items() if not is_uid(uid)]
    if missing:
        rest = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise MissingUID(f"Missing or not valid: {keyword_for_tag(missing[0])}{rest}", missing)
    dataset = scan.dataset()
    levels = {level: row_elements.encode(row_elements.select(level, dataset)) for level in QueryLevel}
    return _header(uids, levels, scan.bulk_offset, tuple(scan.intruders))


def _header(
    uids: Mapping[int, str],
    levels: dict[QueryLevel, bytes],
    bulk_offset: int | None,
    intruders: tuple[tuple[int, int], ...] = (),
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
        intruders=intruders,
    )


def _plain_header(file: BinaryIO, transfer_syntax: str, bounds: DataSetBounds) -> Header:
    """The header of a plain data set. Raises Unusual."""
    start = file.tell()
    encoding = encoding_of(transfer_syntax)
    if not bounds.need_no_check_for(file.seek(0, SEEK_END) - start):
        raise FastScanUnsupported
    file.seek(start)
    plain = FastScan(file, encoding, _SEEN, _BULK)
    uids = {tag: _uid(plain.values.get(tag)) for tag in UIDS}
    if not all(map(is_uid, uids.values())):
        raise FastScanUnsupported
    levels = {level: b"".join(elements) for level, elements in zip(LEVELS, plain.levels, strict=True)}
    if all(plain.is_kept_form):
        return _header(uids, levels, plain.bulk_offset)
    character_set = plain.values.get(CHARACTER_SET, b"")
    foreign = {
        level: (level, encoding.implicit, character_set, levels[level])
        for level in LEVELS
        if not plain.is_kept_form[level]
    }
    for level, key in foreign.items():
        known = _known_forms.get(key)
        if known is None:
            file.seek(start)
            return _remembered(general_header(file, transfer_syntax, bounds), foreign)
        levels[level] = known
    return _header(uids, levels, plain.bulk_offset)


def _remembered(header: Header, foreign: dict[QueryLevel, _Foreign]) -> Header:
    for level, key in foreign.items():
        _known_forms.put(key, header.kept[level], len(key[-1]) + len(header.kept[level]))
    return header


def read_attributes(file: BinaryIO, transfer_syntax: str, tags: Collection[int]) -> Dataset:
    """The attributes with these tags of the data set at which `file` stands, as far as it has them.

    Of private attributes those of the same group and last two digits are given, each block with its creator, as
    another instance may have them in another block (PS3.5 7.8.1). Values beyond `VALUE_LIMIT` are left out. Raises
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


def _uid(value: object) -> str:
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else ""


class _Scan:
    """One way through a data set, collecting the wanted top-level elements."""

    def __init__(
        self, file: BinaryIO, transfer_syntax: str, wanted: Callable[[int], bool], bounds: DataSetBounds
    ) -> None:
        self.elements: dict[int, RawDataElement] = {}
        self.bulk_offset: int | None = None
        self.intruders: list[tuple[int, int]] = []
        self._encoding = encoding_of(transfer_syntax)
        self._bounds = bounds
        self._source = Source(file, self._encoding, bounds.inflated)
        self._wanted = wanted
        self._recording: tuple[Token, int] | None = None

    def run(self, until: int | None = None) -> None:
        """Walk to the end, or to the first element beyond the tag `until`."""
        intruder: int | None = None
        for token in self._bounds.limited(walk(self._source, self._encoding, self._bounds.depth)):
            if token.kind is TokenKind.SEQUENCE_END and token.depth == 1:
                self._end_recording(token)
            if token.depth or token.kind not in _BEGINNINGS:
                continue
            if until is not None and token.tag > until:
                return
            if intruder is not None:
                self.intruders.append((intruder, token.start))
            intruder = token.start if token.tag >> 16 in NOT_IN_A_DATA_SET else None
            self._element(token)
        if intruder is not None:
            self.intruders.append((intruder, self._source.position))

    def dataset(self) -> Dataset:
        """The elements collected, as pydicom has them before it converts their values."""
        dataset = Dataset({BaseTag(tag): element for tag, element in self.elements.items()})
        dataset.set_original_encoding(self._encoding.implicit, self._encoding.little)
        return dataset

    def _element(self, token: Token) -> None:
        if self.bulk_offset is None and not self._encoding.deflated and _is_bulk(token):
            self.bulk_offset = token.start
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
        vr = None if encoding.implicit and token.kind is TokenKind.ELEMENT else token.vr
        # Never None for an empty value: pydicom would convert it, in whatever the character set is said to be.
        self.elements[token.tag] = RawDataElement(
            BaseTag(token.tag), vr, len(value), value, 0, encoding.implicit, encoding.little
        )


_BEGINNINGS = frozenset((TokenKind.ELEMENT, TokenKind.SEQUENCE, TokenKind.ENCAPSULATED))


def _is_bulk(token: Token) -> bool:
    """Whether an element holds what a reader of attributes never wants to read."""
    is_long = token.kind is TokenKind.ELEMENT and token.length > VALUE_LIMIT and token.vr in BULK_VRS
    return token.tag in BULK or token.kind is TokenKind.ENCAPSULATED or is_long
