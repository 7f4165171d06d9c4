"""Temporary files of conversions are in the file store, and leave it the space that must stay free."""

import io
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from pacs.dicom.syntaxes import DEFLATED_LITTLE, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from pacs.errors import Cancelled, InstanceUnreadable, StorageUnavailable
from pacs.files.local import LocalFiles
from pacs.index.writer import StoredInstance
from pacs.pixels import seekable
from pacs.pixels.conversion import Conversion
from pacs.pixels.seekable import wait_without_limit
from pacs.pixels.transfer_syntaxes import JPEG_LS_LOSSLESS, RLE_LOSSLESS
from pacs.services import pixels
from tests.pixels.converting import InProcessPool, converted, encoded
from tests.pixels.samples import native_sample, sample


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    """A file store, which must have no file at the end."""
    return LocalFiles(tmp_path)


def stored_in(files: LocalFiles, data: bytes, transfer_syntax: str) -> StoredInstance:
    """Write a data set to the file store; return its instance, without File Meta Information."""
    with files.create(0) as incoming:
        incoming.write(data)
        incoming.commit(b"")
    key, size = incoming.key, len(data)
    return StoredInstance("1", "2", "3", "4", "5", transfer_syntax, key, size, "", data_offset=0, bulk_offset=None)


def test_what_is_spooled_comes_back_and_leaves_no_file(files: LocalFiles, tmp_path: Path) -> None:
    """However much it is."""
    with pixels.spooled(files, [b"abc" * 1_000_000, b"d"]) as file:
        assert file.read() == b"abc" * 1_000_000 + b"d"
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]


def test_spooling_ends_when_the_disk_becomes_too_full(
    files: LocalFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few compressed frames may become gigabytes, and instances are refused on a full disk."""
    monkeypatch.setattr(pixels, "CHECK_BYTES", 1 << 20)

    def pieces() -> Iterator[bytes]:
        yield bytes(1 << 20)
        files.least_free = 1 << 62
        yield bytes(1)
        pytest.fail("a further piece was converted")

    with pytest.raises(StorageUnavailable, match=r"limits\.free_space"), pixels.spooled(files, pieces()):
        pass
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]


def test_a_deflated_instance_is_inflated_in_the_file_store(files: LocalFiles) -> None:
    """Not in a temporary folder of the system, which may be in memory."""
    stored = stored_in(files, converted(encoded(native_sample()), EXPLICIT_LITTLE, DEFLATED_LITTLE), DEFLATED_LITTLE)
    files.least_free = 1 << 62
    service = pixels.PixelService(files, InProcessPool())  # type: ignore[arg-type]
    with pytest.raises(StorageUnavailable):
        service.convert(stored, JPEG_LS_LOSSLESS, wait_without_limit)


@pytest.mark.parametrize("source", [RLE_LOSSLESS, DEFLATED_LITTLE])
def test_a_cancel_is_noticed_between_elements(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million elements take seconds, before the first frame and without one."""
    monkeypatch.setattr(seekable, "STEPS", 1)
    data = encoded(sample(RLE_LOSSLESS).compressed)
    if source == DEFLATED_LITTLE:
        data = converted(encoded(native_sample()), EXPLICIT_LITTLE, DEFLATED_LITTLE)
    calls = 0

    def cancel(future: "Future[bytes]") -> None:
        nonlocal calls
        calls += 1
        raise Cancelled("The requestor cancelled")

    with pytest.raises(Cancelled):
        Conversion(io.BytesIO(data), source, JPEG_LS_LOSSLESS, InProcessPool(), cancel)  # type: ignore[arg-type]
    assert calls == 1


def test_a_cancel_is_noticed_between_elements_while_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last frame too."""
    waits: list[Future[bytes]] = []

    def wait(future: "Future[bytes]") -> None:
        waits.append(future)
        wait_without_limit(future)

    monkeypatch.setattr(seekable, "STEPS", 1)
    data = io.BytesIO(encoded(sample(RLE_LOSSLESS).compressed))
    with closing(Conversion(data, RLE_LOSSLESS, IMPLICIT_LITTLE, InProcessPool(), wait)) as begun:  # type: ignore[arg-type]
        surveyed = len(waits)
        assert b"".join(begun)
    assert len(waits) > 1.5 * surveyed


# --- single frames --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [EXPLICIT_LITTLE, DEFLATED_LITTLE, RLE_LOSSLESS])
def test_a_frame_of_a_stored_instance_is_read_decoded_and_rendered(
    files: LocalFiles, tmp_path: Path, syntax: str
) -> None:
    """Whatever its transfer syntax; nothing is left of it afterwards."""
    made = sample(RLE_LOSSLESS, frames=2)
    data = encoded(made.compressed if syntax == RLE_LOSSLESS else made.native)
    if syntax == DEFLATED_LITTLE:
        data = converted(data, EXPLICIT_LITTLE, DEFLATED_LITTLE)
    stored = stored_in(files, data, syntax)
    service = pixels.PixelService(files, InProcessPool())  # type: ignore[arg-type]
    with service.frames(stored) as frames:
        assert frames.native(2)[0] == made.pixels[1].tobytes()
        assert frames.rendered(2).startswith(b"\x89PNG")
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [tmp_path / stored.file_key]


def test_a_stored_instance_that_has_changed_has_no_frames(files: LocalFiles) -> None:
    """Its size is compared."""
    stored = stored_in(files, encoded(native_sample()), EXPLICIT_LITTLE)
    service = pixels.PixelService(files, InProcessPool())  # type: ignore[arg-type]
    with pytest.raises(InstanceUnreadable), service.frames(replace(stored, size=stored.size + 1)):
        pass
