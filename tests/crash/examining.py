"""Compares the content of a restarted archive with the responses that the senders received."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from tests.crash.client import (
    INSTANCES_OF_SERIES,
    INSTANCES_OF_STUDY,
    SERIES_INSTANCE_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    Client,
    associated,
)
from tests.crash.load import Ledger, uid

Faults = Counter[str]
"""The number of faults of each kind; none is expected."""

LOST, ALTERED, HALF, RETURNED = "acknowledged and lost", "altered", "half-written and visible", "deleted and back"
STRAY, MISCOUNTED = "files in no row or left over", "counts that disagree"
KINDS = (LOST, ALTERED, HALF, RETURNED, STRAY, MISCOUNTED)


def examine(port: int, ledger: Ledger, studies: Sequence[str], ae_title: str = "PACS") -> Faults:
    """Query and retrieve all instances of these studies, and compare the results with the ledger."""
    faults: Faults = Counter()
    with associated(port, ae_title, retrieves=True) as client:
        for study in studies:
            keys = {STUDY_INSTANCE_UID: study, SERIES_INSTANCE_UID: uid("series", study), SOP_INSTANCE_UID: ""}
            found = {each[SOP_INSTANCE_UID] for each in client.find("IMAGE", keys)}
            received = client.get(study) if found else {}
            faults += _compared(ledger, study, found, received)
    return faults


def received(port: int, studies: Iterable[str]) -> dict[str, str]:
    """Retrieve studies, and return the SHA-256 of their data sets by SOP Instance UID."""
    with associated(port, retrieves=True) as client:
        return {uid: digest for study in studies for uid, digest in client.get(study).items()}


def _compared(ledger: Ledger, study: str, found: set[str], received: dict[str, str]) -> Faults:
    acknowledged = {each for each in ledger.acknowledged if ledger.sent[each].study == study}
    whole = {each for each, digest in received.items() if digest in ledger.allowed(each)}
    return Counter(
        {
            LOST: len(acknowledged - (found & received.keys())),
            ALTERED: len((acknowledged & received.keys()) - whole),
            HALF: len((found | received.keys()) - acknowledged - whole),
            RETURNED: len(ledger.gone & (found | received.keys())),
        }
    )


def examine_consistency(
    port: int, files: Path, *, others: int = 0, unanswered: int = 0, studies: Collection[str] | None = None
) -> Faults:
    """Compare rows with files and counts with rows, and look for leftovers, while no instance is stored.

    `others` is the number of files that are expected to be in no row, `unanswered` that of replacements that may be:
    killed before the commit of its row, a replacement stays in no row, because its instance has one. Counts are
    compared of all studies, or of some.
    """
    with associated(port, retrieves=True) as client:
        found = client.find("STUDY", {STUDY_INSTANCE_UID: "", INSTANCES_OF_STUDY: ""})
        chosen = [each for each in found if studies is None or each[STUDY_INSTANCE_UID] in studies]
        wrong = sum(_is_miscounted(client, each) for each in chosen)
    rows = sum(int(each[INSTANCES_OF_STUDY]) for each in found)
    stray = len(list(files.glob("*/*/*/*/*.dcm"))) - others - rows
    stray = max(-stray, stray - unanswered, 0)
    return Counter({MISCOUNTED: wrong, STRAY: stray + len(list((files / "incoming").iterdir()))})


def _is_miscounted(client: Client, study: dict[tuple[int, int], str]) -> bool:
    """Whether the counts of a study or of its series differ from the number of instances found."""
    keys = {STUDY_INSTANCE_UID: study[STUDY_INSTANCE_UID], SERIES_INSTANCE_UID: ""}
    series = client.find("SERIES", keys | {INSTANCES_OF_SERIES: ""})
    counted = sum(int(each[INSTANCES_OF_SERIES]) for each in series)
    images = sum(
        len(client.find("IMAGE", keys | {SERIES_INSTANCE_UID: each[SERIES_INSTANCE_UID], SOP_INSTANCE_UID: ""}))
        for each in series
    )
    return not int(study[INSTANCES_OF_STUDY]) == counted == images
