"""What an archive has, asked from outside after it was started again, beside what the senders were told."""

from collections import Counter
from collections.abc import Sequence
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
"""How often each fault was found, by what it is; none is what is hoped for."""

LOST, ALTERED, HALF, RISEN = "acknowledged and lost", "altered", "half-written and visible", "deleted and back"
STRAY, MISCOUNTED = "files in no row or left over", "counts that disagree"
KINDS = (LOST, ALTERED, HALF, RISEN, STRAY, MISCOUNTED)


def examine(port: int, ledger: Ledger, studies: Sequence[str], ae_title: str = "PACS") -> Faults:
    """Find and retrieve every instance of these studies, and compare: by C-FIND, and by the bytes that C-GET brings."""
    faults: Faults = Counter()
    for study in studies:
        with associated(port, ae_title, retrieves=True) as client:
            keys = {STUDY_INSTANCE_UID: study, SERIES_INSTANCE_UID: uid("series", study), SOP_INSTANCE_UID: ""}
            found = {each[SOP_INSTANCE_UID] for each in client.find("IMAGE", keys)}
            brought = client.get(study) if found else {}
        faults += _compared(ledger, study, found, brought)
    return faults


def _compared(ledger: Ledger, study: str, found: set[str], brought: dict[str, str]) -> Faults:
    acknowledged = {each for each in ledger.acknowledged if ledger.sent[each].study == study}
    whole = {each for each, digest in brought.items() if ledger.digests.get(each) == digest}
    return Counter(
        {
            LOST: len(acknowledged - (found & brought.keys())),
            ALTERED: len((acknowledged & brought.keys()) - whole),
            HALF: len((found | brought.keys()) - acknowledged - whole),
            RISEN: len(ledger.gone & (found | brought.keys())),
        }
    )


def examine_house(port: int, files: Path, *, others: int = 0) -> Faults:
    """Compare rows with files and counts with rows, and look for what was left over, while nobody stores.

    `others` is how many files are known to be in no row.
    """
    with associated(port, retrieves=True) as client:
        studies = client.find("STUDY", {STUDY_INSTANCE_UID: "", INSTANCES_OF_STUDY: ""})
        wrong = sum(_is_miscounted(client, each) for each in studies)
    rows = sum(int(each[INSTANCES_OF_STUDY]) for each in studies)
    stray = abs(len(list(files.glob("*/*/*/*/*.dcm"))) - others - rows)
    return Counter({MISCOUNTED: wrong, STRAY: stray + len(list((files / "incoming").iterdir()))})


def _is_miscounted(client: Client, study: dict[tuple[int, int], str]) -> bool:
    """Whether the counts of a study and of its series are not those of the instances that are found."""
    keys = {STUDY_INSTANCE_UID: study[STUDY_INSTANCE_UID], SERIES_INSTANCE_UID: ""}
    series = client.find("SERIES", keys | {INSTANCES_OF_SERIES: ""})
    counted = sum(int(each[INSTANCES_OF_SERIES]) for each in series)
    images = sum(
        len(client.find("IMAGE", keys | {SERIES_INSTANCE_UID: each[SERIES_INSTANCE_UID], SOP_INSTANCE_UID: ""}))
        for each in series
    )
    return not int(study[INSTANCES_OF_STUDY]) == counted == images
