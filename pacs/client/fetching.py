"""`fetch`: what a folder does not have yet, by whichever way the PACS offers."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from pydicom import Dataset

from pacs.client.finding import find
from pacs.client.identifiers import Identifier, Level, Model, data_set_of, root_of, with_level
from pacs.client.outcomes import OnProgress, Progress, Retrieved
from pacs.client.peer import Peer, peer_of
from pacs.client.retrieving import get, move_and_store, unheard
from pacs.client.wanted import Job, Missing, Wanted
from pacs.dicom.attributes import NOT_KEYS
from pacs.dimse.status import CANCEL, SUCCESS
from pacs.errors import (
    AssociationLost,
    InvalidArgument,
    NothingFound,
    NotSupported,
    OperationFailed,
    PacsError,
    PeerTimeout,
)


def fetch(
    peer: Peer | str,
    identifier: Identifier,
    *,
    to: Path | str,
    on_progress: OnProgress | None = None,
    level: Level = None,
    model: Model = "study",
    ae_title: str | None = None,
    host: str = "",
    port: int = 0,
    wait: float = 10.0,
) -> Retrieved:
    """Have in the folder `to` what the identifier selects: only what is not there yet is retrieved.

    What is there is known by the names that our own retrieves give files. Where something is, the PACS is asked for its
    instances by C-FIND, and for the missing ones by their UIDs; where it does not answer that, for everything. By C-GET
    where it takes that and succeeds, else by C-MOVE as `move_and_store` does; the arguments are the same. Keys other
    than UIDs are looked up by C-FIND first.

    Raises NothingFound where nothing matches, and else as `move_and_store`.
    """
    peer = peer_of(peer)
    asked, root = _selecting(data_set_of(identifier)), root_of(model)
    if not asked.keys() - NOT_KEYS.keys():
        raise InvalidArgument("What is fetched is named by keys that have a value")
    lowest = with_level(asked, level, root)
    wanted = Wanted(partial(find, peer, model=model), Path(to), root)
    missing = wanted.missing(asked, lowest)
    move = partial(move_and_store, peer, model=model, to=to, ae_title=ae_title, host=host, port=port, wait=wait)
    retrieving = _Retrieving(missing, on_progress or unheard, partial(get, peer, model=model, to=to), move)
    return retrieving.run()


def _selecting(asked: Dataset) -> Dataset:
    """The keys that have a value: others select nothing."""
    return Dataset({tag: element for tag, element in asked.items() if element.value})


@dataclass(slots=True)
class _Retrieving:
    """The retrieves of one fetch, one after the other, told of and returned as one."""

    missing: Missing
    on_progress: OnProgress
    get: Callable[..., Retrieved]
    move: Callable[..., Retrieved]
    _done: list[Retrieved] = field(default_factory=list, init=False)
    _is_get_refused: bool = field(default=False, init=False)
    _began: float = field(default_factory=time.monotonic, init=False)

    def run(self) -> Retrieved:
        """Retrieve what is missing. Raises as `fetch`; an OperationFailed has all that came."""
        try:
            for job in self.missing.jobs:
                self._done.append(self._retrieved(job))
        except OperationFailed as error:
            if error.retrieved is not None:
                self._done.append(error.retrieved)
            error.retrieved = self._combined()
            raise
        combined = self._combined()
        if not combined.paths and not combined.unasked:
            raise NothingFound("Nothing at the peer matches what was asked for")
        return combined

    def _retrieved(self, job: Job) -> Retrieved:
        """One retrieve: by C-GET while that works, else by C-MOVE."""
        if self._is_get_refused:
            return self._by_move(job)
        try:
            return self.get(job.keys, level=job.level, sop_classes=job.sop_classes, on_progress=self._tell)
        except PeerTimeout:
            raise
        except (NotSupported, OperationFailed, AssociationLost) as error:
            if isinstance(error, OperationFailed) and error.status == CANCEL:
                raise
            self._is_get_refused = True
            return self._by_move(job, error)

    def _by_move(self, job: Job, why: PacsError | None = None) -> Retrieved:
        """One retrieve by C-MOVE; `why` is what had become of the C-GET for the same."""
        came = getattr(why, "retrieved", None) or Retrieved()
        try:
            moved = self.move(job.keys, level=job.level, on_progress=self._tell)
        except PacsError as error:
            if why is not None:
                error.add_note(f"C-GET was tried before: {why}")
            raise
        return replace(moved, skipped=tuple(path for path in moved.skipped if path not in set(came.paths)))

    # --- as one -------------------------------------------------------------------------------------------------

    def _tell(self, progress: Progress) -> None:
        """Tell how far all of them together are."""
        received = sum(len(each.paths) for each in self._done) + progress.received
        total = self.missing.total if self.missing.total is not None else progress.total
        self.on_progress(
            replace(
                progress,
                received=received,
                bytes=sum(each.bytes for each in self._done) + progress.bytes,
                total=total,
                elapsed=time.monotonic() - self._began,
            )
        )

    def _combined(self) -> Retrieved:
        """All of it: what was there before comes first."""
        held, done = self.missing.held, self._done
        came = [path for each in done for path in each.paths]
        skipped = [path for each in done for path in each.skipped]
        return Retrieved(
            paths=tuple(dict.fromkeys((*held, *came))),
            skipped=tuple(dict.fromkeys((*held, *skipped))),
            status=done[-1].status if done else SUCCESS,
            completed=_sum(each.completed for each in done),
            failed=_sum(each.failed for each in done),
            warning=_sum(each.warning for each in done),
            failed_uids=tuple(uid for each in done for uid in each.failed_uids),
            unasked=sum(each.unasked for each in done),
            bytes=sum(each.bytes for each in done),
            elapsed=time.monotonic() - self._began,
        )


def _sum(counts: Iterable[int | None]) -> int | None:
    """The sum of counts, None where one is not known."""
    known = list(counts)
    return None if None in known else sum(each for each in known if each is not None)
