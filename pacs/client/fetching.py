"""`fetch`: retrieve the instances that a folder does not contain yet, by C-GET or C-MOVE."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from ssl import SSLContext

from pydicom import Dataset

from pacs.client.finding import find
from pacs.client.identifiers import Level, Model, root_of, with_level
from pacs.client.missing_instances import MissingInstances, RetrieveJob, RetrievePlan
from pacs.client.outcomes import OnProgress, Progress, Retrieved, combined
from pacs.client.peer import Peer
from pacs.client.receive.senders import Senders
from pacs.client.retries import persistently
from pacs.client.retrieve_operation import ignore_progress
from pacs.client.retrieving import get, move_and_store
from pacs.client.without_folder import may_have_no_folder
from pacs.dicom.attributes import NOT_KEYS
from pacs.dicom.identifier_builder import Identifier, data_set_of
from pacs.dicom.status import CANCEL, NOT_AUTHORIZED, SOP_CLASS_NOT_SUPPORTED, SUCCESS, UNRECOGNIZED_OPERATION
from pacs.errors import (
    AssociationLost,
    InvalidArgument,
    NothingFound,
    NotSupported,
    OperationFailed,
    PacsError,
    PeerTimeout,
)


@may_have_no_folder
def fetch(
    peer: Peer | str,
    identifier: Identifier,
    *,
    to: Path | str | None = None,
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
    check: bool = False,
    max_time: float | None = None,
    retries: int = 0,
) -> Retrieved:
    """Retrieve into the folder `to` the selected instances that it does not contain yet.

    Without a folder, the result has all of them as data sets (`Retrieved.datasets`).

    Present instances are recognised by the file names of earlier retrieves. If there are any, the PACS is queried for
    its instances and the missing ones are requested by UID; if the query fails, everything is requested. Instances are
    retrieved by C-GET if the PACS supports it, otherwise by C-MOVE as in `move_and_store`, with the same arguments.
    Keys other than UIDs are resolved by C-FIND first. The PACS is also queried for the SOP Classes, so that a C-GET has
    room for the contexts in which instances arrive as they are stored; `sop_classes` are for a PACS that does not know.

    `check`, `max_time` and `retries` are those of `get`; a retry retrieves only what is still missing.

    Raises NothingFound if nothing matches, and otherwise as `move_and_store`.
    """
    keys, root = _with_values(data_set_of(identifier)), root_of(model)
    if not keys.keys() - NOT_KEYS.keys():
        raise InvalidArgument("A fetch needs at least one key with a value")
    lowest = with_level(keys, level, root)
    assert to is not None, "the decorator gives a folder"
    folder, classes = Path(to), tuple(sop_classes)

    def attempt(peer: Peer) -> Retrieved:
        missing_instances = MissingInstances(partial(find, peer, model=model), folder, root)
        plan = missing_instances.plan(keys, lowest)
        known = replace(plan, jobs=tuple(replace(each, sop_classes=each.sop_classes or classes) for each in plan.jobs))
        move = partial(move_and_store, peer, model=model, to=folder, ae_title=ae_title, host=host, port=port, wait=wait)
        return _Fetch(
            known,
            missing_instances.remaining_jobs,
            on_progress or ignore_progress,
            partial(get, peer, model=model, to=folder, check=check),
            partial(move, senders=senders, tls=tls, check=check),
        ).run()

    return persistently(attempt, peer, max_time=max_time, retries=retries)


def _with_values(keys: Dataset) -> Dataset:
    """Return the keys that have a value; empty keys select nothing."""
    return Dataset({tag: element for tag, element in keys.items() if element.value})


def _arrived(retrieved: Retrieved) -> Retrieved:
    """Return what arrived of a retrieve that another one completes: its failures and counts are those of that one."""
    new = len(retrieved.paths) - len(retrieved.skipped)
    return replace(
        retrieved, status=SUCCESS, completed=new, failed=0, warning=0, failed_uids=(), expected=new, missing=()
    )


_NO_GET = frozenset((SOP_CLASS_NOT_SUPPORTED, NOT_AUTHORIZED, UNRECOGNIZED_OPERATION))
"""Statuses that mean the peer does not support C-GET or does not allow it: no further C-GET is tried."""


@dataclass(slots=True)
class _Fetch:
    """The retrieves of one fetch, run one after the other, with common progress and one result."""

    plan: RetrievePlan
    remaining_jobs: Callable[[RetrieveJob], tuple[RetrieveJob, ...]]
    """Returns the jobs for what a retrieve did not bring, with SOP Classes."""
    on_progress: OnProgress
    get: Callable[..., Retrieved]
    move: Callable[..., Retrieved]
    _done: list[Retrieved] = field(default_factory=list, init=False)
    _is_get_refused: bool = field(default=False, init=False)
    _began: float = field(default_factory=time.monotonic, init=False)

    def run(self) -> Retrieved:
        """Run all jobs. Raises as `fetch`; an OperationFailed carries everything that was retrieved."""
        try:
            for job in self.plan.jobs:
                self._retrieve(job)
        except (OperationFailed, AssociationLost) as error:
            if error.retrieved is not None:
                self._done.append(error.retrieved)
            error.retrieved = self._combine()
            raise
        everything = self._combine()
        if not everything.paths and not everything.unasked:
            raise NothingFound("Nothing at the peer matches the keys")
        return everything

    def _retrieve(self, job: RetrieveJob) -> None:
        """Run one job by C-GET while the peer supports it, otherwise by C-MOVE."""
        reason = None
        if not self._is_get_refused:
            reason = self._try_get(job)
            if reason is None:
                return
        try:
            self._done.append(self.move(job.keys, level=job.level, on_progress=self._report_progress))
        except PacsError as error:
            if reason is not None:
                error.add_note(f"C-GET failed before: {reason}")
            raise

    def _try_get(self, job: RetrieveJob) -> PacsError | None:
        """Retrieve by C-GET; return None, or the error if instances are missing. Raises errors that a C-MOVE would meet
        too.
        """
        try:
            self._done.append(self._get(job))
        except OperationFailed as error:
            if error.status == CANCEL or (error.retrieved is not None and error.retrieved.conflicts):
                raise
            self._is_get_refused = error.status in _NO_GET
            return self._retry_get(job, error)
        except NotSupported as error:
            self._is_get_refused = True
            return error
        except PeerTimeout:
            raise
        except AssociationLost as error:
            if error.retrieved is not None:
                self._done.append(_arrived(error.retrieved))
            return error
        return None

    def _retry_get(self, job: RetrieveJob, error: OperationFailed) -> PacsError | None:
        """Repeat a C-GET for the failed instances, if their SOP Classes need contexts that it did not propose."""
        retrieved = error.retrieved
        if retrieved is None:
            return error
        self._done.append(_arrived(retrieved))
        if not (retrieved.failed or retrieved.failed_uids):
            return error
        rest = self.remaining_jobs(job)
        if not rest or not all(set(each.sop_classes) - set(job.sop_classes) for each in rest):
            return error
        return next((reason for each in rest if (reason := self._try_get(each)) is not None), None)

    def _get(self, job: RetrieveJob) -> Retrieved:
        return self.get(job.keys, level=job.level, sop_classes=job.sop_classes, on_progress=self._report_progress)

    # --- combined -------------------------------------------------------------------------------------------------

    def _report_progress(self, progress: Progress) -> None:
        """Report the progress of all retrieves together."""
        received = sum(len(each.paths) for each in self._done) + progress.received
        total = self.plan.total if self.plan.total is not None else progress.total
        self.on_progress(
            replace(
                progress,
                received=received,
                bytes=sum(each.bytes for each in self._done) + progress.bytes,
                total=total,
                elapsed=time.monotonic() - self._began,
            )
        )

    def _combine(self) -> Retrieved:
        """Combine the results; files that were present before come first."""
        return replace(combined(self._done, self.plan.present), elapsed=time.monotonic() - self._began)
