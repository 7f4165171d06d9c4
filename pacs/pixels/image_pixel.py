"""The attributes that describe how pixel data is encoded (Image Pixel Module, PS3.3 C.7.6.3)."""

from dataclasses import dataclass

BITS_ALLOCATED = (1, 8, 16, 32, 64)
"""The values of Bits Allocated that are converted."""

SUBSAMPLED = ("YBR_FULL_422", "YBR_PARTIAL_422")
"""Photometric Interpretations whose native frames have Cb and Cr for each second pixel only."""


@dataclass(frozen=True, slots=True)
class ImagePixel:
    """How the pixels of one image are encoded. The names are those of the attributes."""

    rows: int
    columns: int
    samples_per_pixel: int
    photometric_interpretation: str
    planar_configuration: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    pixel_representation: int
    number_of_frames: int = 1
    overlays_in_pixels: bool = False
    """Whether unused bits hold overlays (PS3.5 8.1.2): they must not be overwritten by the sign."""

    @property
    def frame_bits(self) -> int:
        """The bits of one native frame. Frames of one bit a pixel follow each other without padding (PS3.5 8.1.1)."""
        samples = 2 if self.photometric_interpretation in SUBSAMPLED else self.samples_per_pixel
        return self.rows * self.columns * samples * self.bits_allocated

    @property
    def frame_size(self) -> int:
        """The bytes of one native frame, the last one padded with zero bits."""
        return (self.frame_bits + 7) // 8
