"""Transfers that overlap and disagree: the answers are those of a rebuilt index, whichever ends first."""

from pathlib import Path

import pytest

from pacs import client
from pacs.files.buffer_pool import SMALL
from pacs.services.reindex import Reindex
from pacs.testing import PacsServer, serving, study
from tests import raw
from tests.databases import KINDS, fresh_database
from tests.raw import Raw
from tests.waiting import eventually

CT = "1.2.840.10008.5.1.4.1.1.2"
KEYS = {"PatientID": "", "PatientName": "", "StudyInstanceUID": "", "StudyDescription": ""}


@pytest.mark.parametrize("kind", KINDS)
def test_reindex_changes_no_answer_where_senders_disagree(kind: str, request: pytest.FixtureRequest, tmp_path: Path):
    """The first transfer of a study under two patients ends last: one of them is warned; reindex changes nothing."""
    first, second = study(series=1, instances=2)
    first.PatientID, first.PatientName, first.StudyDescription = "FIRST", "FIRST", "OF THE FIRST"
    first.PixelData = bytes(4 * SMALL)
    with (
        fresh_database(kind, request, tmp_path) as url,
        serving(tmp_path / "pacs", {"database.url": url}) as archive,
        Raw(archive.port) as slow,
        Raw(archive.port) as quick,
    ):
        for each in (slow, quick):
            each.associate((1, CT, [raw.EXPLICIT]))
        sent = request_of(first)
        slow.send(sent[: len(sent) // 2])
        eventually(lambda: any(Path(archive.config.files.url, "incoming").iterdir()), 60)
        quick.send(request_of(second))
        assert quick.message().status == 0x0000
        slow.send(sent[len(sent) // 2 :])
        assert slow.message().status == 0xB000
        before = answers(archive)
        done = Reindex(archive.index, archive.files, grace=0).run()
        assert (answers(archive), done.corrected, done.added) == (before, 0, 0)


def request_of(dataset) -> bytes:
    """Return the PDUs of a C-STORE of a data set."""
    uid = [raw.element(0x1000, dataset.SOPInstanceUID.encode())]
    return raw.request(raw.C_STORE, 1, CT, 1, raw.encoded(dataset, raw.EXPLICIT), uid)


def answers(archive: PacsServer) -> list[tuple[str, ...]]:
    """Return the studies that a C-FIND finds."""
    found = client.find(f"PACS@127.0.0.1:{archive.port}", KEYS)
    return [tuple(str(match[keyword].value) for keyword in KEYS) for match in found]
