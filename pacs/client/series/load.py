"""`load_series`: the one series that is meant, as an image."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pydicom import Dataset, dcmread

from pacs.client.contexts import ROOM
from pacs.client.fetching import fetch
from pacs.client.finding import find
from pacs.client.outcomes import OnProgress, Retrieved
from pacs.client.peer import Peer, peer_of
from pacs.client.receive.senders import Senders
from pacs.client.retrieving import get
from pacs.client.series.images import image_of, is_readable
from pacs.client.series.match import Asked, Candidate, Chooser
from pacs.client.series.planes import planes_of, volume_of
from pacs.client.series.volumes import check
from pacs.dicom.levels import QueryLevel
from pacs.errors import AmbiguousSeries, AssociationLost, InvalidArgument, NothingFound, NotSupported, OperationFailed

if TYPE_CHECKING:
    import SimpleITK


class LeftOut(UserWarning):
    """Images of a series that are none of the slices of its volume were left out."""


def load_series(
    peer: Peer | str,
    *,
    patient_id: str | None = None,
    study_date: str | date | None = None,
    series_description: str | None = None,
    modality: str | None = None,
    to: Path | str | None = None,
    as_datasets: bool = False,
    on_progress: OnProgress | None = None,
    ae_title: str | None = None,
    host: str = "",
    port: int = 0,
    wait: float = 10.0,
    senders: Senders = "peer",
    **keys: Any,
) -> "SimpleITK.Image | list[Dataset]":
    """The one series that matches, as a SimpleITK image, or as data sets in the order of its slices.

    `keys` are further ones by keyword, matched as in a C-FIND (wild cards, ranges, lists); what the PACS does not match
    is compared here, and keys of single images (EchoTime=10) choose among those of the series. It is retrieved as
    `fetch` does, with the same arguments, into a temporary folder or `to`. Slices are in the order of their positions
    along their normal, without positions by Instance Number. Data sets come with `as_datasets` and where SimpleITK
    (the extra `itk`) is not installed: all of the series, those left out of its volume last, unchecked.

    Warns LeftOut of images with another orientation or size than most. Raises InvalidArgument, NothingFound,
    AmbiguousSeries where several series match, TooManyMatches for too many studies, NotAVolume where slices are
    missing, sheared, or several at one position, and else as `find` and `fetch`.
    """
    day = study_date.strftime("%Y%m%d") if isinstance(study_date, date) else study_date
    named = {"PatientID": patient_id, "StudyDate": day, "SeriesDescription": series_description, "Modality": modality}
    given = {keyword: value for keyword, value in named.items() if value}
    if twice := sorted(given.keys() & keys):
        raise InvalidArgument(f"{', '.join(twice)} is given twice")
    asked = _checked(Asked.of(given | keys))
    peer = peer_of(peer)
    with _folder(to) as folder:
        archive = _Archive(
            peer, partial(fetch, peer, ae_title=ae_title, host=host, port=port, wait=wait, senders=senders)
        )
        chosen = archive.only_one(asked)
        retrieved = archive.retrieve(chosen, folder, on_progress)
        return _loaded(retrieved.paths, asked, as_datasets=as_datasets or not is_readable())


def _checked(asked: Asked) -> Asked:
    """Raises InvalidArgument for keys that could be of any study."""
    is_one_series = any(key.attribute.keyword == "SeriesInstanceUID" for key in asked.keys)
    if not is_one_series and not asked.at(QueryLevel.PATIENT, QueryLevel.STUDY):
        raise InvalidArgument("Name a patient, a study date, another key of the study, or a SeriesInstanceUID")
    return asked


@contextmanager
def _folder(to: Path | str | None) -> Iterator[Path]:
    """Where files are: the folder given, or one that is gone afterwards."""
    if to is not None:
        yield Path(to)
        return
    with TemporaryDirectory(prefix="pacs-series-") as folder:
        yield Path(folder)


def _uids(candidate: Candidate) -> dict[str, str]:
    return {"StudyInstanceUID": candidate.study_uid, "SeriesInstanceUID": candidate.series_uid}


# --- which one ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Archive:
    """The PACS, and how something is retrieved from it."""

    peer: Peer
    fetch: Any

    def only_one(self, asked: Asked) -> Candidate:
        """The series that matches. Raises NothingFound, AmbiguousSeries."""
        found = Chooser(partial(find, self.peer), self._header, asked).candidates()
        if len(found) > 1:
            listed, rest = found[: AmbiguousSeries.MOST_LISTED], found[AmbiguousSeries.MOST_LISTED :]
            raise AmbiguousSeries((*map(self._counted, listed), *rest))
        return found[0]

    def retrieve(self, chosen: Candidate, folder: Path, on_progress: OnProgress | None) -> Retrieved:
        """All of a series, as far as the folder has not got it."""
        uids = _uids(chosen)
        retrieved: Retrieved = self.fetch(
            uids, to=folder, level=QueryLevel.SERIES, on_progress=on_progress, sop_classes=self._classes(uids)
        )
        return retrieved

    def _classes(self, keys: dict[str, str]) -> tuple[str, ...]:
        """The SOP Classes in a series, none where the PACS does not say: a C-GET of few takes any transfer syntax."""
        try:
            found = {str(each.get("SOPClassUID") or "") for each in self._instances(keys)}
        except (OperationFailed, NotSupported):
            return ()
        return () if "" in found or len(found) > ROOM else tuple(sorted(found))

    def _instances(self, keys: dict[str, str], limit: int | None = None) -> Iterator[Dataset]:
        return find(self.peer, {**keys, "SOPInstanceUID": "", "SOPClassUID": ""}, level=QueryLevel.IMAGE, limit=limit)

    def _counted(self, candidate: Candidate) -> Candidate:
        """With a number of instances, where the PACS can be asked for them."""
        if candidate.instances is not None:
            return candidate
        try:
            return replace(candidate, instances=sum(1 for _ in self._instances(_uids(candidate))))
        except (OperationFailed, NotSupported):
            return candidate

    def _header(self, study_uid: str, series_uid: str) -> Dataset | None:
        """The header of one instance of a series, retrieved for it."""
        keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
        first = next(iter(list(self._instances(keys, limit=1))), None)
        if first is None:
            return None
        keys["SOPInstanceUID"] = str(first.SOPInstanceUID)
        with _folder(None) as folder:
            retrieved = self._instance(keys, str(first.get("SOPClassUID") or ""), folder)
            return dcmread(retrieved.paths[0], stop_before_pixels=True)

    def _instance(self, keys: dict[str, str], sop_class: str, folder: Path) -> Retrieved:
        """One instance: by C-GET in any transfer syntax where its SOP Class is known, else as `fetch` does."""
        if sop_class:
            try:
                return get(self.peer, keys, to=folder, level=QueryLevel.IMAGE, sop_classes=(sop_class,))
            except (NotSupported, OperationFailed, AssociationLost):
                pass  # there is another way
        retrieved: Retrieved = self.fetch(keys, to=folder, level=QueryLevel.IMAGE)
        return retrieved


# --- as what -----------------------------------------------------------------------------------------------------


def _loaded(paths: tuple[Path, ...], asked: Asked, *, as_datasets: bool) -> "SimpleITK.Image | list[Dataset]":
    wanted = asked.at(QueryLevel.IMAGE)
    planes = [each for each in planes_of(paths, [key.attribute.tag for key in wanted]) if asked.takes(each.header)]
    if not planes:
        raise NothingFound(f"None of the {len(paths)} instances of the series matches what was asked of its images")
    volume = volume_of(planes)
    if as_datasets:
        return [dcmread(path) for path in volume.paths]
    if left_out := check(volume):
        warnings.warn(LeftOut(left_out), stacklevel=3)
    return image_of(volume)
