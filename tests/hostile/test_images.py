"""Damaged images in the running daemon: they fail alone, whatever happens to the decoder processes."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pynetdicom import AE, build_role, evt

from pacs.pixels import transfer_syntaxes as syntaxes
from tests.archives import GET
from tests.decoders import decoders, is_alive
from tests.docs.requests import COMMENT, Requestor, counts
from tests.hostile.daemons import Daemon, daemon, megabytes
from tests.pixels.frames import frames_of
from tests.pixels.samples import Sample, sample
from tests.programs import Storescp, free_port, storescp
from tests.raw import EXPLICIT, Response
from tests.waiting import eventually

KINDS = (
    syntaxes.JPEG_LS_LOSSLESS,
    syntaxes.JPEG_LOSSLESS_SV1,
    syntaxes.JPEG_2000_LOSSLESS,
    syntaxes.HTJ2K_LOSSLESS,
    syntaxes.JPEG_XL_LOSSLESS,
    syntaxes.RLE_LOSSLESS,
)
STUDY, SERIES = "2.25.70001", "2.25.70002"

# pynetdicom does not close the socket of a peer that aborted.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@dataclass
class Stored:
    """The instances of one study: those in order, with what they look like, and the UIDs of the damaged ones."""

    good: dict[str, Sample]
    damaged: set[str]


@contextmanager
def running(folder: Path, **settings: object) -> Iterator[tuple[Daemon, Storescp]]:
    """Run the daemon, and a storage SCP of DCMTK that accepts only uncompressed images, its peer TAKER."""
    port = free_port()
    peers = [{"ae_title": "TAKER", "host": "127.0.0.1", "port": port}]
    limits = {"limits.decoders": 2, "limits.drain_seconds": 60, "peers": peers}
    with (
        daemon(folder, limits | {key.replace("__", "."): value for key, value in settings.items()}) as server,
        storescp(folder / "taken", "TAKER", "+B", port=port) as taker,
    ):
        yield server, taker


def image(syntax: str, number: int, size: tuple[int, int] = (96, 96)) -> Sample:
    """Return an image of the study."""
    made = sample(syntax, size=size)
    for each in (made.compressed, made.native):
        each.StudyInstanceUID, each.SeriesInstanceUID = STUDY, SERIES
        each.SOPInstanceUID = each.file_meta.MediaStorageSOPInstanceUID = f"2.25.7{number:04}"
    return made


def damage(dataset: Dataset) -> None:
    """Cut off the second half of the only frame."""
    (frame,) = frames_of(dataset)
    dataset.PixelData = encapsulate([frame[: len(frame) // 2]])


def stored(server: Daemon) -> Stored:
    """Store an image in order and a damaged one in each transfer syntax, in turns."""
    made = Stored({}, set())
    for number, syntax in enumerate(KINDS * 2):
        picture = image(syntax, number)
        if number % 2:
            damage(picture.compressed)
            made.damaged.add(picture.compressed.SOPInstanceUID)
        else:
            made.good[picture.compressed.SOPInstanceUID] = picture
        assert server.store(picture.compressed, syntax=syntax) == 0x0000
    return made


def many(server: Daemon, count: int) -> Stored:
    """Store images that take a while to decode."""
    made = Stored({}, set())
    picture = image(syntaxes.JPEG_2000_LOSSLESS, 0, (500, 500))
    for number in range(count):
        uid = f"2.25.7{number:04}"
        picture.compressed.SOPInstanceUID = picture.compressed.file_meta.MediaStorageSOPInstanceUID = uid
        assert server.store(picture.compressed, syntax=syntaxes.JPEG_2000_LOSSLESS) == 0x0000
        made.good[uid] = picture
    return made


def moved(server: Daemon) -> Response:
    """Return the final response to a C-MOVE of the study."""
    with Requestor(server.port) as requestor:
        assert requestor.client is None
        return requestor.move("TAKER", "STUDY", StudyInstanceUID=STUDY)[-1]


def check_arrived(taker: Storescp, made: Stored, uids: Sequence[str] | set[str]) -> None:
    """Check that the files of these instances arrived, with the right pixels."""
    arrived = {each.SOPInstanceUID: each for each in map(dcmread, taker.files())}
    assert set(arrived) == set(uids)
    for uid, dataset in arrived.items():
        assert dataset.PixelData == made.good[uid].native.PixelData


def test_damaged_images_fail_alone_in_a_move(tmp_path: Path) -> None:
    """With their reason in the Error Comment; the server does not grow, and its log has no traceback."""
    with running(tmp_path) as (server, taker):
        made, before = stored(server), megabytes(server.process.pid)
        final = moved(server)
        assert (final.status, counts(final)) == (0xB000, (None, len(made.good), len(made.damaged), 0))
        assert set(final.dataset().FailedSOPInstanceUIDList) == made.damaged
        assert "frame" in final.text(COMMENT)
        check_arrived(taker, made, set(made.good))
        assert megabytes(server.process.pid) < before + 100
        assert "Traceback" not in server.log.read_text()


def test_damaged_images_fail_alone_in_a_get(tmp_path: Path) -> None:
    """And the others arrive on the same association."""
    arrived: dict[str, Dataset] = {}

    def take(event: evt.Event) -> int:
        arrived[event.dataset.SOPInstanceUID] = event.dataset
        return 0x0000

    with running(tmp_path) as (server, _):
        made = stored(server)
        (some,) = {str(each.compressed.SOPClassUID) for each in made.good.values()}
        ae = AE("GETTER")
        ae.add_requested_context(GET)
        ae.add_requested_context(some, [EXPLICIT])
        keys = Dataset()
        keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", STUDY
        association = ae.associate(
            "127.0.0.1", server.port, ext_neg=[build_role(some, scp_role=True)], evt_handlers=[(evt.EVT_C_STORE, take)]
        )
        *_, (final, identifier) = association.send_c_get(keys, GET)
        association.release()
    assert (final.Status, final.NumberOfCompletedSuboperations) == (0xB000, len(made.good))
    assert set(identifier.FailedSOPInstanceUIDList) == made.damaged
    assert {uid: each.PixelData for uid, each in arrived.items()} == {
        uid: each.native.PixelData for uid, each in made.good.items()
    }


def test_killed_decoders_cost_no_more_than_what_they_worked_on(tmp_path: Path) -> None:
    """All are killed three times during a C-MOVE; the next one sends everything."""
    with running(tmp_path) as (server, taker):
        made, killed = many(server, 24), 0
        with moving(server) as (finals, _):
            for arrived in (4, 8, 12):
                eventually(lambda least=arrived: finals or len(taker.files()) >= least, 60)
                for each in decoders(server.process.pid):
                    os.kill(each, signal.SIGKILL)
                    killed += 1
        ((_, completed, failed, _),) = map(counts, finals)
        assert (completed or 0) + (failed or 0) == 24
        assert 12 <= (completed or 0) == len(taker.files())
        assert (failed or 0) <= killed
        final = moved(server)
        assert (final.status, counts(final)) == (0x0000, (None, 24, 0, 0))
        check_arrived(taker, made, set(made.good))


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_stop_ends_what_runs_and_all_decoders(tmp_path: Path, workers: int) -> None:
    """SIGTERM reaches all processes of a service, and Ctrl-C those of a terminal: decoders work on until the end."""
    with running(tmp_path, server__workers=workers) as (server, taker):
        made = many(server, 10)
        with moving(server) as (finals, processes):
            for each in (server.process.pid, *processes):
                os.kill(each, signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert [(each.status, counts(each)) for each in finals] == [(0x0000, (None, 10, 0, 0))]
        check_arrived(taker, made, set(made.good))
        assert not any(map(is_alive, processes))


@pytest.mark.parametrize("workers", [2, pytest.param(1, marks=pytest.mark.long)])
def test_a_kill_of_the_server_ends_all_decoders(tmp_path: Path, workers: int) -> None:
    """They end with the socket, whatever they do."""
    with running(tmp_path, server__workers=workers) as (server, _):
        many(server, 10)
        with moving(server) as (_, processes):
            server.process.kill()
            assert server.process.wait(60) == -signal.SIGKILL
            eventually(lambda: not any(map(is_alive, processes)), 60)


@contextmanager
def moving(server: Daemon) -> Iterator[tuple[list[Response], list[int]]]:
    """Run a C-MOVE; yield, once there are decoder processes, the list for its final response, and the processes."""
    finals: list[Response] = []

    def move() -> None:
        with suppress(AssertionError, OSError):  # the server was killed
            finals.append(moved(server))

    mover = threading.Thread(target=move)
    mover.start()
    eventually(lambda: all_decoders(server), 60)
    yield finals, all_decoders(server)
    mover.join()


def all_decoders(server: Daemon) -> list[int]:
    """Return the decoder processes of the server and its workers."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for parent in (pid, *map(int, children)) for each in decoders(parent)]
