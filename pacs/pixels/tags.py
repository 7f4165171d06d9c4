"""Tags that the conversion of pixel data reads or changes."""

SAMPLES, PHOTOMETRIC, PLANAR, NUMBER_OF_FRAMES = 0x00280002, 0x00280004, 0x00280006, 0x00280008
ROWS, COLUMNS = 0x00280010, 0x00280011
ALLOCATED, STORED, HIGH_BIT, REPRESENTATION = 0x00280100, 0x00280101, 0x00280102, 0x00280103
LOSSY, LOSSY_RATIO, LOSSY_METHOD = 0x00282110, 0x00282112, 0x00282114

DESCRIBING = (
    SAMPLES, PHOTOMETRIC, PLANAR, NUMBER_OF_FRAMES, ROWS, COLUMNS, ALLOCATED, STORED, HIGH_BIT, REPRESENTATION,
    LOSSY, LOSSY_RATIO, LOSSY_METHOD,
)  # fmt: skip
"""The attributes that describe pixel data, in order."""

EXTREMES = (0x00280106, 0x00280107, 0x00280108, 0x00280109, 0x00280110, 0x00280111)
"""Smallest and Largest Pixel Value of the image, its series and its plane."""

EXTENDED_OFFSET_TABLE, FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA = 0x7FE00001, 0x7FE00008, 0x7FE00009
PIXEL_DATA = 0x7FE00010

OFFSET_TABLES = (EXTENDED_OFFSET_TABLE, 0x7FE00002, 0x7FE00003)
"""Extended Offset Table, its lengths, and Encapsulated Pixel Data Value Total Length."""

SIGNATURES, MAC_PARAMETERS = 0xFFFAFFFA, 0x4FFE0001
"""Digital Signatures Sequence and MAC Parameters Sequence."""

MAC_ID, DATA_ELEMENTS_SIGNED = 0x04000005, 0x04000020

OVERLAY_BIT_POSITION, OVERLAY_DATA = 0x0102, 0x3000
"""Elements of the overlay groups, 6000 to 60FE."""


def is_overlay(tag: int) -> bool:
    """Return whether an element belongs to an overlay and says where its bits are."""
    return 0x6000 <= tag >> 16 <= 0x60FF and tag & 0xFFFF in (OVERLAY_BIT_POSITION, OVERLAY_DATA)
