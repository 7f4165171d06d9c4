"""`fetch`: what a folder does not have yet, by whichever way the PACS offers."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from ssl import SSLContext

from pydicom import Dataset

from pacs.client.finding import find
from pacs.client.identifiers import Identifier, Level, Model, data_set_of, root_of, with_level
from pacs.client.missing_instances import Job, Missing, Wanted
from pacs.client.outcomes import OnProgress, Progress, Retrieved
from pacs.client.peer import Peer, peer_of
from pacs.client.receive.senders import Senders
from pacs.client.retrieve_operation import unheard
from pacs.client.retrieving import get, move_and_store
from pacs.dicom.attributes import NOT_KEYS
from pacs.dimse.messages.status import CANCEL, SUCCESS
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
    senders: Senders = "peer",
    sop_classes: Iterable[str] = (),
    tls: SSLContext | None = None,
) -> Retrieved:
    """Have in the folder `to` what the identifier selects: only what is not there yet is retrieved.

    What is there is known by the names that our own retrieves give files. Where something is, the PACS is asked for its
    instances by C-FIND, and for the missing ones by their UIDs; where it does not answer that, for everything. By C-GET
    where it takes that and succeeds, else by C-MOVE as `move_and_store` does; the arguments are the same. Keys other
    than UIDs are looked up by C-FIND first. `sop_classes` are what a C-GET proposes where the PACS was not asked.

    Raises NothingFound where nothing matches, and else as `move_and_store`.
    """
    peer = peer_of(peer)
    asked, root = _selecting(data_set_of(identifier)), root_of(model)
    if not asked.keys() - NOT_KEYS.keys():
        raise InvalidArgument("What is fetched is named by keys that have a value")
    lowest = with_level(asked, level, root)
    wanted = Wanted(partial(find, peer, model=model), Path(to), root)
    missing = wanted.missing(asked, lowest)
    classes = tuple(sop_classes)
    known = replace(
        missing, jobs=tuple(replace(each, sop_classes=each.sop_classes or classes) for each in missing.jobs)
    )
    move = partial(move_and_store, peer, model=model, to=to, ae_title=ae_title, host=host, port=port, wait=wait)
    move = partial(move, senders=senders, tls=tls)
    retrieving = _Retrieving(known, wanted.rest, on_progress or unheard, partial(get, peer, model=model, to=to), move)
    return retrieving.run()


def _selecting(asked: Dataset) -> Dataset:
    """The keys that have a value: others select nothing."""
    return Dataset({tag: element for tag, element in asked.items() if element.value})


_NO_GET = frozenset((0x0122, 0x0124, 0x0211))
"""The statuses that say that a peer does no C-GET, or not for us: it is not asked for another."""


@dataclass(slots=True)
class _Retrieving:
    """The retrieves of one fetch, one after the other, told of and returned as one."""

    missing: Missing
    rest: Callable[[Job], tuple[Job, ...]]
    """What is missing of a retrieve that was tried, with its SOP Classes."""
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
                self._retrieve(job)
        except OperationFailed as error:
            if error.retrieved is not None:
                self._done.append(error.retrieved)
            error.retrieved = self._combined()
            raise
        combined = self._combined()
        if not combined.paths and not combined.unasked:
            raise NothingFound("Nothing at the peer matches what was asked for")
        return combined

    def _retrieve(self, job: Job) -> None:
        """One retrieve: by C-GET while the peer does that, else by C-MOVE."""
        why = None
        if not self._is_get_refused:
            why = self._why_not_got(job)
            if why is None:
                return
        try:
            self._done.append(self.move(job.keys, level=job.level, on_progress=self._tell))
        except PacsError as error:
            if why is not None:
                error.add_note(f"C-GET was tried before: {why}")
            raise

    def _why_not_got(self, job: Job) -> PacsError | None:
        """Retrieve by C-GET: None, or why that brought not all. Raises what no other way would mend."""
        try:
            self._done.append(self._got(job))
        except OperationFailed as error:
            if error.status == CANCEL or (error.retrieved is not None and error.retrieved.conflicts):
                raise
            self._is_get_refused = error.status in _NO_GET
            return self._why_not_got_then(job, error)
        except NotSupported as error:
            self._is_get_refused = True
            return error
        except PeerTimeout:
            raise
        except AssociationLost as error:
            return error
        return None

    def _why_not_got_then(self, job: Job, error: OperationFailed) -> PacsError | None:
        """Try again to get what failed, with more contexts: those that its SOP Classes need."""
        came = error.retrieved
        if came is None or not (came.failed or came.failed_uids):
            return error
        self._done.append(replace(came, failed=0, failed_uids=()))
        rest = self.rest(job) if not job.sop_classes else ()
        if not rest or not all(each.sop_classes for each in rest):
            return error
        return next((why for each in rest if (why := self._why_not_got(each)) is not None), None)

    def _got(self, job: Job) -> Retrieved:
        return self.get(job.keys, level=job.level, sop_classes=job.sop_classes, on_progress=self._tell)

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
        done, there, written = self._done, dict.fromkeys(self.missing.held), dict[Path, None]()
        for each in done:
            there |= dict.fromkeys(path for path in each.skipped if path not in written)
            written |= dict.fromkeys(path for path in each.paths if path not in there)
        return Retrieved(
            paths=(*there, *written),
            skipped=tuple(there),
            status=done[-1].status if done else SUCCESS,
            completed=_sum(each.completed for each in done),
            failed=_sum(each.failed for each in done),
            warning=_sum(each.warning for each in done),
            failed_uids=tuple(uid for each in done for uid in each.failed_uids),
            unasked=sum(each.unasked for each in done),
            conflicts=tuple(uid for each in done for uid in each.conflicts),
            bytes=sum(each.bytes for each in done),
            elapsed=time.monotonic() - self._began,
        )


def _sum(counts: Iterable[int | None]) -> int | None:
    """The sum of counts, None where one is not known."""
    known = list(counts)
    return None if None in known else sum(each for each in known if each is not None)
