"""Asks by C-FIND what a retrieve should bring: for a PACS that reports no counts, or whose counts are to be checked."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydicom import Dataset

from pacs.client.finding import find
from pacs.client.identifiers import Model, root_of, uids
from pacs.client.missing_instances import INSTANCE, PATIENT_ID, STUDY, MissingInstances
from pacs.client.peer import Peer
from pacs.dicom.levels import UNIQUE_KEYS, QueryLevel
from pacs.errors import AssociationLost, DestinationUnreachable, NotSupported, OperationFailed, UndecodableDataSet

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Expected:
    """The instances that a retrieve should bring; `uids` is None if the PACS only counts them."""

    count: int
    uids: frozenset[str] | None = None


def expected(peer: Peer, identifier: Dataset, model: Model) -> Expected | None:
    """Query a PACS for what the Identifier of a retrieve selects; return None if it lists and counts nothing."""
    level = QueryLevel[str(identifier.QueryRetrieveLevel)]
    keys = {keyword: list(uids(identifier, keyword)) for keyword in UNIQUE_KEYS.values() if keyword in identifier}
    if level is QueryLevel.IMAGE:
        return Expected(len(set(keys[INSTANCE])), frozenset(keys[INSTANCE])) if INSTANCE in keys else None
    pacs = MissingInstances(partial(find, peer, model=model), Path(), root_of(model))
    listed = frozenset(_answer(partial(pacs.uids_of, keys)) or ()) if keys.keys() & {PATIENT_ID, STUDY} else frozenset()
    if listed:
        return Expected(len(listed), listed)
    count = _answer(partial(pacs.count_of, keys, level))
    return None if count is None else Expected(count)


def _answer(ask: Callable[[], T]) -> T | None:
    """Return an answer of the PACS, None if it has none."""
    try:
        return ask()
    except (OperationFailed, NotSupported, UndecodableDataSet, ValueError, DestinationUnreachable, AssociationLost):
        return None
