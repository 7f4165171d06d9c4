"""Decompresses the files of a series, because SimpleITK and pydicom do not decode every transfer syntax."""

import time
from collections import deque
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pacs.client.instance_data import InstanceData
from pacs.client.sources import Instance, instance_in
from pacs.dicom import part10
from pacs.dicom.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from pacs.errors import NotSupported, StorageUnavailable, UndecodableDataSet, UndecodablePixelData
from pacs.pixels.look_ahead import LookAhead
from pacs.pixels.pool import DecoderPool
from pacs.support.cores import cores

READABLE = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
"""The transfer syntaxes that are read as they are."""


@dataclass(slots=True)
class Decompressed:
    """The files to read instead of the received ones, and why others could not be decompressed."""

    copies: dict[Path, Path] = field(default_factory=dict)
    """The uncompressed copy of each file that needs one."""
    failed: dict[Path, str] = field(default_factory=dict)
    """The reason for each file that stays compressed."""

    def path_of(self, path: Path) -> Path:
        """Return the file to read."""
        return self.copies.get(path, path)


def decompress(paths: Iterable[Path], folder: Path) -> Decompressed:
    """Write an uncompressed copy of each file that needs one to a folder. Raises StorageUnavailable."""
    instances = map(instance_in, dict.fromkeys(paths))
    left = deque(each for each in instances if each.transfer_syntax not in READABLE)
    done = Decompressed()
    with DecoderPool(cores()) as pool:
        begin = partial(InstanceData, transfer_syntax=EXPLICIT_LITTLE, pool=pool)
        with closing(LookAhead[Instance, InstanceData](begin, pool.processes)) as ahead:
            _decompress_all(left, ahead, folder, done)
    return done


def _decompress_all(
    left: deque[Instance], ahead: LookAhead[Instance, InstanceData], folder: Path, done: Decompressed
) -> None:
    while left:
        instance = left.popleft()
        path, copy = Path(str(instance.what)), folder / f"{len(left)}.dcm"
        try:
            with closing(ahead.take(instance, left)) as data:
                _write(copy, instance, data)
        except (NotSupported, UndecodableDataSet, UndecodablePixelData) as error:
            done.failed[path] = error.comment
        else:
            done.copies[path] = copy


def _write(copy: Path, instance: Instance, data: Iterable[bytes]) -> None:
    """Write a data set as Part 10 file. Raises StorageUnavailable, and what `data` raises."""
    head = part10.build_file_meta(
        instance.sop_class_uid, instance.sop_instance_uid, EXPLICIT_LITTLE, "", received_at=time.time_ns() // 1000
    )
    try:
        with copy.open("wb") as file:
            file.write(head)
            file.writelines(data)
    except OSError as error:
        raise StorageUnavailable(f"Cannot write to {copy.parent}: {error.strerror or error}") from error
