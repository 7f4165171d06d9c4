"""`load_series` and `load_datasets`: retrieve the one matching series as an image, or as data sets."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from pydicom import Dataset, dcmread

from pacs.client.contexts import MAX_STORAGE_CONTEXTS
from pacs.client.fetching import fetch
from pacs.client.finding import find
from pacs.client.outcomes import OnProgress, Retrieved
from pacs.client.peer import Peer, peer_of
from pacs.client.receive.senders import Senders
from pacs.client.retrieving import get
from pacs.client.series.decompression import decompress
from pacs.client.series.frames import read_planes
from pacs.client.series.images import check_installed, read_image
from pacs.client.series.match import Candidate, SeriesFinder, SeriesKeys
from pacs.client.series.planes import Volume, build_volume
from pacs.client.series.volumes import check_volume, without_positions
from pacs.dicom.levels import QueryLevel
from pacs.errors import (
    AmbiguousSeries,
    AssociationLost,
    InvalidArgument,
    NotAVolume,
    NothingFound,
    NotSupported,
    OperationFailed,
)

if TYPE_CHECKING:
    import SimpleITK

_Arguments = ParamSpec("_Arguments")
_R = TypeVar("_R")


class LeftOut(UserWarning):
    """Images of the series do not belong to the volume and were left out."""


class WithoutPositions(UserWarning):
    """The images have no positions; the third axis of the image is their order, not a distance."""


class StillCompressed(UserWarning):
    """The pixel data of some data sets could not be decompressed, and is as it was received."""


@contextmanager
def _retrieved(
    peer: Peer | str,
    *,
    patient_id: str | None = None,
    study_date: str | date | None = None,
    series_description: str | None = None,
    modality: str | None = None,
    to: Path | str | None = None,
    on_progress: OnProgress | None = None,
    ae_title: str | None = None,
    host: str = "",
    port: int = 0,
    wait: float = 10.0,
    senders: Senders = "peer",
    **keys: Any,
) -> Iterator[Volume]:
    """Retrieve the one matching series and yield its planes."""
    wanted = _wanted(patient_id, study_date, series_description, modality, **keys)
    peer = peer_of(peer)
    how: dict[str, Any] = {"ae_title": ae_title, "host": host, "port": port, "wait": wait, "senders": senders}
    with _folder_for(to) as folder:
        archive = _Archive(peer, partial(fetch, peer, **how))
        retrieved = archive.retrieve(archive.find_one(wanted), folder, on_progress)
        yield _volume(retrieved.paths, wanted)


def _with_arguments_of(function: Callable[_Arguments, Any]) -> Callable[[Callable[..., _R]], Callable[_Arguments, _R]]:
    """Return a decorator that gives a function the signature of another one, except for what it returns."""

    def decorate(decorated: Callable[..., _R]) -> Callable[_Arguments, _R]:
        returned = signature(decorated).return_annotation
        decorated.__signature__ = signature(function).replace(return_annotation=returned)  # type: ignore[attr-defined]
        return decorated

    return decorate


@_with_arguments_of(_retrieved)
def load_series(*arguments: Any, **keys: Any) -> "SimpleITK.Image":
    """Return the one matching series as a SimpleITK image (the extra `itk`).

    `keys` are further keys by keyword, matched as in a C-FIND (wild cards, ranges, lists). Keys that the PACS does not
    match are compared here. Keys at IMAGE level (EchoTime=10) select images of the series. The series is retrieved as
    by `fetch`, with the same arguments, to a temporary folder or to `to`. Slices are ordered by position along their
    normal, or by Instance Number if they have no positions. Compressed images are decompressed in a temporary folder;
    the received files stay as they are.

    Warns LeftOut about images whose orientation or size differs from most, and WithoutPositions about several images
    without positions. Raises PackageMissing without SimpleITK, InvalidArgument, NothingFound, AmbiguousSeries if
    several series match, TooManyMatches for too many studies, NotAVolume for what is no volume (missing slices, sheared
    stacks, several slices at one position, unknown distances) or cannot be decompressed, and otherwise as `find` and
    `fetch`.
    """
    check_installed()
    with _retrieved(*arguments, **keys) as volume:
        return _image(volume)


@_with_arguments_of(_retrieved)
def load_datasets(*arguments: Any, **keys: Any) -> list[Dataset]:
    """Return the one matching series as pydicom data sets, in the order of the slices; the arguments of `load_series`.

    Nothing is refused: images that are no part of a volume come last. Compressed pixel data is decompressed; `filename`
    is that of the received file. Warns StillCompressed about data sets that cannot be decompressed. Raises as
    `load_series`, but neither PackageMissing nor NotAVolume.
    """
    with _retrieved(*arguments, **keys) as volume:
        return _datasets(volume.paths)


def _wanted(
    patient_id: str | None,
    study_date: str | date | None,
    series_description: str | None,
    modality: str | None,
    **keys: Any,
) -> SeriesKeys:
    """Return all keys. Raises InvalidArgument."""
    day = study_date.strftime("%Y%m%d") if isinstance(study_date, date) else study_date
    named = {
        "PatientID": patient_id,
        "StudyDate": day,
        "SeriesDescription": series_description,
        "Modality": modality,
    }
    given = {keyword: value for keyword, value in named.items() if value}
    if twice := sorted(given.keys() & keys):
        raise InvalidArgument(f"{', '.join(twice)} is given twice")
    if "as_datasets" in keys:
        raise InvalidArgument("load_series has no as_datasets: use client.load_datasets")
    return _check_keys(SeriesKeys.of(given | keys))


def _check_keys(series_keys: SeriesKeys) -> SeriesKeys:
    """Return the keys. Raises InvalidArgument if they could match any study."""
    is_one_series = any(key.attribute.keyword == "SeriesInstanceUID" for key in series_keys.keys)
    if not is_one_series and not series_keys.at(QueryLevel.PATIENT, QueryLevel.STUDY):
        raise InvalidArgument("Add a patient, a study date, another key of the study, or a SeriesInstanceUID")
    return series_keys


@contextmanager
def _folder_for(to: Path | str | None) -> Iterator[Path]:
    """Yield the given folder, or a temporary one."""
    if to is not None:
        yield Path(to)
        return
    with TemporaryDirectory(prefix="pacs-series-") as folder:
        yield Path(folder)


def _uids(candidate: Candidate) -> dict[str, str]:
    return {"StudyInstanceUID": candidate.study_uid, "SeriesInstanceUID": candidate.series_uid}


# --- selection ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Archive:
    """A PACS, and how series are retrieved from it."""

    peer: Peer
    fetch: Any

    def find_one(self, series_keys: SeriesKeys) -> Candidate:
        """Return the matching series. Raises NothingFound, AmbiguousSeries."""
        found = SeriesFinder(partial(find, self.peer), self._header, series_keys).candidates()
        if len(found) > 1:
            listed, rest = found[: AmbiguousSeries.MOST_LISTED], found[AmbiguousSeries.MOST_LISTED :]
            raise AmbiguousSeries((*map(self._with_count, listed), *rest))
        return found[0]

    def retrieve(self, chosen: Candidate, folder: Path, on_progress: OnProgress | None) -> Retrieved:
        """Retrieve the instances of a series that the folder does not contain."""
        uids = _uids(chosen)
        retrieved: Retrieved = self.fetch(
            uids, to=folder, level=QueryLevel.SERIES, on_progress=on_progress, sop_classes=self._classes(uids)
        )
        return retrieved

    def _classes(self, keys: dict[str, str]) -> tuple[str, ...]:
        """Return the SOP Classes of a series, none if unknown: with few of them a C-GET accepts any transfer syntax."""
        try:
            found = {str(each.get("SOPClassUID") or "") for each in self._instances(keys)}
        except (OperationFailed, NotSupported):
            return ()
        return () if "" in found or len(found) > MAX_STORAGE_CONTEXTS else tuple(sorted(found))

    def _instances(self, keys: dict[str, str], limit: int | None = None) -> Iterator[Dataset]:
        return find(self.peer, {**keys, "SOPInstanceUID": "", "SOPClassUID": ""}, level=QueryLevel.IMAGE, limit=limit)

    def _with_count(self, candidate: Candidate) -> Candidate:
        """Add the number of instances, if the PACS can list them."""
        if candidate.instances is not None:
            return candidate
        try:
            return replace(candidate, instances=sum(1 for _ in self._instances(_uids(candidate))))
        except (OperationFailed, NotSupported):
            return candidate

    def _header(self, study_uid: str, series_uid: str) -> Dataset | None:
        """Retrieve one instance of a series and return its header."""
        keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
        first = next(iter(list(self._instances(keys, limit=1))), None)
        if first is None:
            return None
        keys["SOPInstanceUID"] = str(first.SOPInstanceUID)
        with _folder_for(None) as folder:
            retrieved = self._instance(keys, str(first.get("SOPClassUID") or ""), folder)
            return dcmread(retrieved.paths[0], stop_before_pixels=True)

    def _instance(self, keys: dict[str, str], sop_class: str, folder: Path) -> Retrieved:
        """Retrieve one instance: by C-GET in any transfer syntax if its SOP Class is known, otherwise by `fetch`."""
        if sop_class:
            try:
                return get(self.peer, keys, to=folder, level=QueryLevel.IMAGE, sop_classes=(sop_class,))
            except (NotSupported, OperationFailed, AssociationLost):
                pass  # try fetch instead
        retrieved: Retrieved = self.fetch(keys, to=folder, level=QueryLevel.IMAGE)
        return retrieved


# --- result ------------------------------------------------------------------------------------------------------


def _volume(paths: tuple[Path, ...], series_keys: SeriesKeys) -> Volume:
    """Return the planes that match the image keys, in order. Raises NothingFound."""
    planes = read_planes(paths, [key.attribute.tag for key in series_keys.at(QueryLevel.IMAGE)])
    matching = [each for each in planes if series_keys.matches_image(each.header)]
    if not matching:
        raise NothingFound(f"None of the {len(paths)} instances of the series matches the image keys")
    return build_volume(matching)


def _datasets(paths: tuple[Path, ...]) -> list[Dataset]:
    with _folder_for(None) as folder:
        decompressed = decompress(paths, folder)
        found: list[Dataset] = [dcmread(decompressed.path_of(path)) for path in paths]
    for dataset, path in zip(found, paths, strict=True):
        dataset.filename = str(path)
    for reason, count in Counter(decompressed.failed.values()).items():
        warnings.warn(
            StillCompressed(f"{count} of {len(paths)} data sets are not decompressed: {reason}"), stacklevel=3
        )
    return found


def _image(volume: Volume) -> "SimpleITK.Image":
    if left_out := check_volume(volume):
        warnings.warn(LeftOut(left_out), stacklevel=3)
    if unplaced := without_positions(volume):
        warnings.warn(WithoutPositions(unplaced), stacklevel=3)
    with _folder_for(None) as folder:
        decompressed = decompress([plane.path for plane in volume.planes], folder)
        for path, reason in decompressed.failed.items():
            raise NotAVolume(f"{path.name} cannot be decompressed ({reason}): use load_datasets")
        planes = (replace(plane, path=decompressed.path_of(plane.path)) for plane in volume.planes)
        return read_image(Volume(tuple(planes)))
