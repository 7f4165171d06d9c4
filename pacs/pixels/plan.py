"""Decides what a conversion changes: the frames that are converted, and the elements that describe them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pacs.dicom.syntaxes import EXPLICIT_LITTLE, is_native
from pacs.errors import NoPixelData, NotSupported, UndecodablePixelData
from pacs.pixels import capabilities
from pacs.pixels.attributes import changes, is_lossy, lossy_changes
from pacs.pixels.edits import Edits
from pacs.pixels.encapsulation import EncapsulatedFrames
from pacs.pixels.frame_job import FrameJob
from pacs.pixels.frames_in_flight import MOST_BYTES, NamedJob
from pacs.pixels.image_pixel import ImagePixel
from pacs.pixels.native_frames import NativeFrames
from pacs.pixels.stored_frames import StoredFrames, check_pixels, native_length, stored_frames
from pacs.pixels.survey import PixelElement, SurveyedDataSet
from pacs.pixels.tags import (
    DOUBLE_FLOAT_PIXEL_DATA,
    FLOAT_PIXEL_DATA,
    MAC_PARAMETERS,
    OFFSET_TABLES,
    PIXEL_DATA,
    SIGNATURES,
)
from pacs.pixels.target_names import name_of

LONGEST_VALUE = 0xFFFFFFFE
"""The longest value with a defined length (PS3.5 7.1.1)."""

MOST_IMAGES = 10_000
"""The most images in one instance that are converted, its icons among them: each is remembered."""

_SIGNATURES_REMOVED = "Digital signatures over changed elements were removed"


@dataclass(frozen=True, slots=True)
class Image:
    """The pixel data of one data set, and what becomes of it."""

    frames: EncapsulatedFrames | NativeFrames
    source: str
    stored: ImagePixel
    target: str
    result: ImagePixel

    def __len__(self) -> int:
        """Return the number of frames that are converted."""
        return self.stored.number_of_frames

    def jobs(self) -> Iterator[NamedJob]:
        """Yield the jobs of all frames; each frame is read when its turn comes."""
        for number in range(len(self)):
            job = FrameJob(self.frames.read(number), self.source, self.stored, self.target, self.result)
            yield NamedJob(job, f"Frame {number + 1} of {len(self)}: " if len(self) > 1 else "")

    @property
    def length(self) -> int:
        """The bytes of the value when it is native, without padding."""
        return native_length(self.result)

    def size_in_memory(self, most: int) -> int:
        """Return the bytes of the first frames, stored and converted, at most so many, as many as a window has."""
        total = 0
        for number in range(min(most, len(self))):
            total += self.frames.size(number) + self.result.frame_size
            if total >= MOST_BYTES:
                break
        return total


class Plan:
    """What a conversion changes, decided for one data set after the other."""

    def __init__(self, source: str, target: str, read: Callable[[int, int], bytes]) -> None:
        self._source = source
        self._target = target
        self._read = read
        self.edits = Edits()
        self.images: dict[int, Image] = {}
        """The images that are converted, by the number of their Pixel Data."""
        self._native_length = 0
        """The bytes of all images that become native: a few frames could become any number of gigabytes."""
        self.notices: list[str] = []

    def jobs(self) -> Iterator[NamedJob]:
        """Yield the jobs of all frames in the order of the data set."""
        return (job for _, image in sorted(self.images.items()) for job in image.jobs())

    def add(self, data_set: SurveyedDataSet) -> None:
        """Decide what changes in a data set; its items must have been added before.

        Raises NotSupported, UndecodableDataSet, and UndecodablePixelData for compressed pixel data only: what cannot be
        encoded can still be sent in another native transfer syntax.
        """
        try:
            self._add(data_set)
        except UndecodablePixelData as error:
            if is_native(self._source):
                raise NotSupported(error.comment, error.tags) from error
            raise

    def _add(self, data_set: SurveyedDataSet) -> None:
        self._check(data_set)
        for pixels in data_set.pixels:
            if (image := self._image(data_set, pixels)) is not None:
                self._check_size(image)
                self.images[data_set.indices(PIXEL_DATA)[0]] = image
                self.edits.change(
                    data_set, changes(data_set, image.result) | dict.fromkeys((*OFFSET_TABLES, PIXEL_DATA))
                )
        self._remove_signatures(data_set)

    def _check_size(self, image: Image) -> None:
        self._native_length += image.length if is_native(image.target) else 0
        if self._native_length > LONGEST_VALUE:
            raise NotSupported("Its pixel data would be 4 GiB or longer when it is not compressed")
        if len(self.images) >= MOST_IMAGES:
            raise NotSupported(f"It has more than {MOST_IMAGES} images, icons among them")

    def _check(self, data_set: SurveyedDataSet) -> None:
        check_pixels(data_set, self._source)
        if data_set.other_fragments:
            raise NotSupported("An element other than Pixel Data is in fragments", [data_set.other_fragments])
        if data_set.parent is None and not is_native(self._target):
            self._check_encodable(data_set)

    def _check_encodable(self, data_set: SurveyedDataSet) -> None:
        if FLOAT_PIXEL_DATA in data_set or DOUBLE_FLOAT_PIXEL_DATA in data_set:
            raise NotSupported("Float pixel data is never compressed")
        if not data_set.pixels:
            raise NoPixelData(f"It has no pixel data to encode in {name_of(self._target)}")

    def _image(self, data_set: SurveyedDataSet, pixels: PixelElement) -> Image | None:
        """Return how Pixel Data is converted; None if it stays as it is."""
        if not capabilities.is_convertible(self._source, self._target):
            raise NotSupported(f"{name_of(self._source)} is not converted into {name_of(self._target)}")
        if pixels.fragments is None and data_set.parent is not None:
            return None
        stored = stored_frames(data_set, pixels, self._source, self._read)
        self._note_surplus(stored)
        if pixels.fragments is not None:
            return self._decoded(data_set, pixels, stored)
        if is_native(self._target):
            return None
        result = capabilities.encoded(stored.attributes, self._target)
        return Image(stored.frames, EXPLICIT_LITTLE, stored.attributes, self._target, result)

    def _decoded(self, data_set: SurveyedDataSet, pixels: PixelElement, stored: StoredFrames) -> Image:
        head = stored.header(self._source)
        result = capabilities.decoded(self._source, stored.attributes, head)
        if data_set.parent is None and is_lossy(self._source, head.is_lossy) and pixels.fragments is not None:
            ratio = native_length(result) / pixels.fragments.size
            self.edits.change(data_set, lossy_changes(data_set, self._source, ratio))
        is_encoded = data_set.parent is None and not is_native(self._target)
        if is_encoded:
            result = capabilities.encoded(result, self._target)
        target = self._target if is_encoded else EXPLICIT_LITTLE
        return Image(stored.frames, self._source, stored.attributes, target, result)

    def _note_surplus(self, stored: StoredFrames) -> None:
        if stored.surplus > 0:
            declared = stored.attributes.number_of_frames
            self.notices.append(
                f"Pixel Data has {declared + stored.surplus} frames; those after the declared {declared} were dropped"
            )

    def _remove_signatures(self, data_set: SurveyedDataSet) -> None:
        """Remove signatures of what has changed in a data set, once all its items are known; the others stay."""
        if not data_set.changed:
            return
        parameters = data_set.mac_parameters
        broken = {item.mac_id for item in parameters if item.signed is None or item.signed.tags & data_set.changed}
        known = {item.mac_id for item in parameters} - broken
        signatures = [item.token for item in data_set.signatures if item.mac_id not in known]
        self.edits.remove_items(data_set, SIGNATURES, len(data_set.signatures), signatures)
        removed = [item.token for item in parameters if item.mac_id in broken]
        self.edits.remove_items(data_set, MAC_PARAMETERS, len(parameters), removed)
        if signatures and _SIGNATURES_REMOVED not in self.notices:
            self.notices.append(_SIGNATURES_REMOVED)
        if data_set.parent is not None:
            data_set.parent.changed.add(data_set.sequence)
