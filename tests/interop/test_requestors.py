"""The operations of the seven stock requestors, with their default settings, and what comes of each.

`requestors.REQUESTORS` says what is expected. The archive has its default configuration, and the requestors as peers,
which are the destinations of their C-MOVE.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from pydicom import dcmread

from pacs.observability.events import OperationFinished
from pacs.testing import serving, study, write
from pacs.testing.server import PacsServer
from tests.interop.orthanc import orthanc
from tests.interop.requestors import REQUESTORS, Caller, Orthanc, Outcome, Requestor
from tests.programs import free_port, run, storescp
from tests.real_files import data_set
from tests.tap import Tap, tapping
from tests.waiting import eventually

OPERATIONS = ("echo", "store", "find", "move", "get")

NAMES = {
    "Müller^Jörg": "ISO_IR 100",
    "Иванов^Пётр=山田^太郎": "ISO_IR 192",
    "Yamada^Tarou=山田^太郎=やまだ^たろう": ["", "ISO 2022 IR 87"],
}
"""The patients that are found, and the character sets of their instances."""

STUDIES = [
    study(name, patient_id=f"Q{place}", series=1, instances=2, character_set=charset)
    for place, (name, charset) in enumerate(NAMES.items())
]
RETRIEVED = STUDIES[1]


@dataclass(frozen=True)
class Site:
    """A running archive with `STUDIES`, the tap in front of it, and a folder for the files of requestors."""

    archive: PacsServer
    tap: Tap
    folder: Path
    finished: list[OperationFinished]
    """The operations that the archive finished."""

    def caller(self, requestor: Requestor) -> Caller:
        """Return the addresses for a requestor, which is a peer of the archive."""
        (port,) = [each.port for each in self.archive.config.peers if each.ae_title == requestor.ae_title]
        return Caller(self.tap.port, requestor.ae_title, port)

    def stored(self) -> dict[str, Path]:
        """Return the files of the archive by SOP Instance UID."""
        return _by_uid(Path(self.archive.config.files.url).rglob("*.dcm"))

    def counted(self, requestor: Requestor, kind: str) -> dict[str, int]:
        """Return the counts of the only operation of one kind of a requestor, as the archive sent them."""

        def operations() -> list[OperationFinished]:
            return [each for each in self.finished if (each.calling_ae_title, each.kind) == (requestor.ae_title, kind)]

        eventually(operations, 60)
        (operation,) = operations()
        assert operation.status == 0x0000
        return {what: number for what, number in operation.counts.items() if number}


@dataclass(frozen=True)
class Performance:
    """What a requestor did: its outcomes by operation, and the folders with the files that it sent and received."""

    outcomes: dict[str, Outcome]
    sent: Path
    moved: Path
    got: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An archive with the default configuration, and the requestors as peers."""
    folder = tmp_path_factory.mktemp("requestors")
    peers = [{"ae_title": each.ae_title, "host": "127.0.0.1", "port": free_port()} for each in REQUESTORS]
    with serving(folder / "pacs", {"peers": peers}) as archive, tapping(archive.port) as tap:
        archive.add(*STUDIES)
        made = Site(archive, tap, folder, [])
        archive.events.subscribe(
            lambda each: made.finished.append(each) if isinstance(each, OperationFinished) else None
        )
        yield made


@pytest.fixture(scope="module")
def performance_of(site: Site) -> Callable[[Requestor], Performance]:
    """Return what a requestor did; its program runs once."""

    @cache
    def performance(requestor: Requestor) -> Performance:
        folder = site.folder / requestor.ae_title
        sent, moved, got = (folder / name for name in ("sent", "moved", "got"))
        for each in (moved, got):
            each.mkdir(parents=True, exist_ok=True)
        write(study("Größe^Jörg", "MR", 1, 3, patient_id=requestor.ae_title, character_set="ISO_IR 100"), sent)
        uid = RETRIEVED[0].StudyInstanceUID
        words = ["echo", "store", sent, "find", "Q*", "move", uid, moved, "get", uid, got]
        outcomes = requestor.run(site.caller(requestor), *words)
        return Performance({each["operation"]: each for each in outcomes}, sent, moved, got)

    return performance


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("requestor", REQUESTORS, ids=lambda each: each.name)
def test_what_comes_of_an_operation_of_a_stock_requestor(site, performance_of, requestor, operation):
    """Every operation that the program has succeeds; names and files are compared with those that were stored."""
    performance = performance_of(requestor)
    outcome = performance.outcomes[operation]
    result = "not offered" if outcome.get("missing") else RESULTS[operation](site, requestor, performance, outcome)
    assert result == getattr(requestor, operation)


def echoed(site: Site, requestor: Requestor, performance: Performance, outcome: Outcome) -> str:
    """Return the result of a C-ECHO."""
    return "Success" if outcome["statuses"] == [0x0000] else str(outcome)


def stored(site: Site, requestor: Requestor, performance: Performance, outcome: Outcome) -> str:
    """Compare the sent files with the stored ones, which are what arrived, bit for bit."""
    assert outcome["statuses"] == [0x0000] * 3
    sent = _by_uid(performance.sent.iterdir())
    kept = {uid: path for uid, path in site.stored().items() if uid in sent}
    arrived = site.tap.data_sets()
    assert {uid: data_set(path)[0] for uid, path in kept.items()} == {uid: arrived[uid] for uid in sent}
    return compared(sent, kept)


def found(site: Site, requestor: Requestor, performance: Performance, outcome: Outcome) -> str:
    """Compare the Patient's Names of the matches with those that are stored."""
    assert outcome["status"] == 0x0000
    assert site.counted(requestor, "C-FIND") == {"matches": len(NAMES)} == {"matches": len(outcome["names"])}
    if set(outcome["names"]) == {None}:
        return "names not printed"
    names = {"all names": sorted(NAMES), "names in Latin-1 only": sorted(map(_latin_1, NAMES))}
    return next((what for what, each in names.items() if each == sorted(outcome["names"])), str(outcome["names"]))


def moved(site: Site, requestor: Requestor, performance: Performance, outcome: Outcome) -> str:
    """Compare the files that arrived by C-MOVE, and their number."""
    return _retrieved(site, requestor, "C-MOVE", performance.moved, outcome)


def got(site: Site, requestor: Requestor, performance: Performance, outcome: Outcome) -> str:
    """Compare the files that arrived by C-GET, and their number."""
    return _retrieved(site, requestor, "C-GET", performance.got, outcome)


RESULTS = {"echo": echoed, "store": stored, "find": found, "move": moved, "get": got}


def _retrieved(site: Site, requestor: Requestor, kind: str, folder: Path, outcome: Outcome) -> str:
    assert outcome["status"] == 0x0000
    assert site.counted(requestor, kind) == {"completed": 2}
    assert outcome["completed"] in (2, None)
    stored = site.stored()
    return compared({each.SOPInstanceUID: stored[each.SOPInstanceUID] for each in RETRIEVED}, _by_uid(folder.iterdir()))


def compared(originals: dict[str, Path], copies: dict[str, Path]) -> str:
    """Return how the data sets of some files compare with the original ones."""
    assert set(copies) == set(originals)
    if all(data_set(copies[uid]) == data_set(path) for uid, path in originals.items()):
        return "bit for bit"
    equal = all(_values(copies[uid]) == _values(path) for uid, path in originals.items())
    return "equal values" if equal else "other values"


def _values(path: Path) -> dict[int, object]:
    """Return the values of a data set, decoded, without the name of the character set."""
    return {each.tag: each.value for each in dcmread(path) if each.keyword != "SpecificCharacterSet"}


def _by_uid(paths: Iterable[Path]) -> dict[str, Path]:
    return {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in paths}


def _latin_1(name: str) -> str:
    """Return a name without its characters beyond Latin-1."""
    return name.encode("latin-1", "ignore").decode("latin-1")


def test_gdcmscu_aborts_at_the_release_of_an_association(tmp_path):
    """It does so with DCMTK's storescp, too; what is transferred before is complete."""
    with storescp(tmp_path / "scp", "PACS") as scp:
        printed = run("gdcmscu", "--echo", "--call", "PACS", "127.0.0.1", scp.port, check=False)
    assert "ProtocolStream as nullptr is invalid" in printed
    assert "Received Echo Request" in scp.log.read_text("latin-1")


def test_orthanc_shows_all_names_if_its_default_encoding_is_utf_8(site, tmp_path):
    """Its default is Latin-1, and it converts the matches of a C-FIND to that."""
    with orthanc(tmp_path / "orthanc", site.archive.port, DicomAet="UTF8", DefaultEncoding="Utf8") as server:
        assert sorted(Orthanc(server, "UTF8").find("Q*")["names"]) == sorted(NAMES)
