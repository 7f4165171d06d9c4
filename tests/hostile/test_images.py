"""Damaged images in the running daemon: they fail alone, whatever happens to the decoder processes."""

import os
import random
import signal
import struct
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
from tests.hostile.bombs import jpeg_scans
from tests.hostile.daemons import Daemon, daemon, megabytes
from tests.hostile.frames import mutated
from tests.pixels.frames import frames_of
from tests.pixels.samples import SYNTAXES, Sample, sample
from tests.programs import Storescp, free_port, storescp
from tests.raw import EXPLICIT, Response, encoded
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


@pytest.mark.parametrize("count", [2, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_images_damaged_by_chance_are_converted_or_fail_alone(tmp_path: Path, count: int) -> None:
    """In every transfer syntax, within the frame or around it: in offset tables, items and the element itself."""
    with running(tmp_path) as (server, taker):
        kept = sum(store_damaged(server, syntax, number) for syntax in SYNTAXES for number in range(count))
        assert kept > len(SYNTAXES) * count / 2
        before = megabytes(server.process.pid)
        _, completed, failed, warned = counts(moved(server))
        assert (completed or 0) + (failed or 0) + (warned or 0) == kept
        assert completed
        assert failed
        assert len(taker.files()) == completed + (warned or 0)
        server.check_echo()
        assert megabytes(server.process.pid) < before + 150
        assert "Traceback" not in server.log.read_text()


def store_damaged(server: Daemon, syntax: str, number: int) -> bool:
    """Store an image whose Pixel Data is damaged by chance; return whether it was stored."""
    chance = random.Random(f"{syntax}/{number}")
    dataset = image(syntax, number).compressed
    dataset.SOPInstanceUID = f"2.25.8{number:03}{syntax.replace('.', '')}"
    (frame,) = frames_of(dataset)
    if number % 2:
        frame = mutated(chance, frame)
    if number % 4 != 1:
        damage_around(chance, dataset)
    dataset.PixelData = fragmented(chance, frame)
    data = encoded(dataset, syntax)
    if number % 8 == 7:
        at = data.index(b"\xe0\x7f\x10\x00OB") + chance.choice((0, 8, 16))
        data = data[:at] + mutated(chance, data[at : at + 40]) + data[at + 40 :]
    return server.store(dataset, data, syntax) >> 12 in (0x0, 0xB)


def damage_around(chance: random.Random, dataset: Dataset) -> None:
    """Change or remove an attribute that describes the pixel data."""
    keyword = chance.choice(("Rows", "BitsStored", "BitsAllocated", "HighBit", "SamplesPerPixel", "NumberOfFrames"))
    if chance.random() < 0.3:
        dataset.pop(keyword, None)
    else:
        setattr(dataset, keyword, chance.choice((0, 1, 2, 3, 12, 16, 97, 65535)))


def fragmented(chance: random.Random, frame: bytes) -> bytes:
    """Return encapsulated Pixel Data with a frame in one or more fragments and an offset table, perhaps a wrong one."""
    cuts = sorted(2 * chance.randrange(len(frame) // 2 + 1) for _ in range(chance.choice((0, 0, 1, 3))))
    parts = [frame[start:end] for start, end in zip([0, *cuts], [*cuts, len(frame)], strict=True)]
    offsets = chance.choice(([], [], [0], [8], [0, 2**32 - 1], [1, 2, 3]))
    items = [struct.pack(f"<{len(offsets)}L", *offsets), *(each + b"\0" * (len(each) % 2) for each in parts)]
    return b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(each)) + each for each in items)


def test_killed_decoders_cost_no_more_than_what_they_worked_on(tmp_path: Path) -> None:
    """All are killed three times during a C-MOVE; the next one sends everything."""
    with running(tmp_path) as (server, taker):
        made, killed = many(server, 18), 0
        with moving(server) as (finals, _):
            for arrived in (3, 6, 9):
                eventually(lambda least=arrived: finals or len(taker.files()) >= least, 60)
                for each in decoders(server.process.pid):
                    os.kill(each, signal.SIGKILL)
                    killed += 1
        ((_, completed, failed, _),) = map(counts, finals)
        assert (completed or 0) + (failed or 0) == 18
        assert 9 <= (completed or 0) == len(taker.files())
        assert (failed or 0) <= killed
        final = moved(server)
        assert (final.status, counts(final)) == (0x0000, (None, 18, 0, 0))
        check_arrived(taker, made, set(made.good))


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_stop_ends_what_runs_and_all_decoders(tmp_path: Path, workers: int) -> None:
    """SIGTERM reaches all processes of a service, and Ctrl-C those of a terminal: decoders work on until the end."""
    with running(tmp_path, server__workers=workers) as (server, taker):
        made = many(server, 6)
        with moving(server) as (finals, processes):
            for each in (server.process.pid, *processes):
                os.kill(each, signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert [(each.status, counts(each)) for each in finals] == [(0x0000, (None, 6, 0, 0))]
        check_arrived(taker, made, set(made.good))
        assert not any(map(is_alive, processes))


@pytest.mark.parametrize("workers", [2, pytest.param(1, marks=pytest.mark.long)])
def test_a_kill_of_the_server_ends_all_decoders(tmp_path: Path, workers: int) -> None:
    """They end with the socket, whatever they do."""
    with running(tmp_path, server__workers=workers) as (server, _):
        many(server, 6)
        with moving(server) as (_, processes):
            server.process.kill()
            assert server.process.wait(60) == -signal.SIGKILL
            eventually(lambda: not any(map(is_alive, processes)), 60)


@pytest.mark.parametrize("end", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_no_decoder_stays_at_work_on_a_bomb_without_its_server(tmp_path: Path, end: signal.Signals) -> None:
    """It has minutes of CPU time left for 100,000 scans of a JPEG; the drain is over sooner."""
    with running(tmp_path, limits__drain_seconds=0.5) as (server, _):
        store_bomb(server)
        with moving(server) as (_, processes):
            eventually(lambda: max(map(cpu_seconds, processes)) > 1.5, 60)
            server.process.send_signal(end)
            assert server.process.wait(60) == (0 if end == signal.SIGTERM else -end)
            eventually(lambda: not any(map(is_alive, processes)))


def store_bomb(server: Daemon) -> None:
    """Store an image of 12,000 x 12,000 pixels that takes long to decode."""
    dataset = image(syntaxes.JPEG_BASELINE, 0).compressed
    name, bomb = next(iter(jpeg_scans(12_000, 100_000)))
    dataset.Rows, dataset.Columns = bomb.stored.rows, bomb.stored.columns
    dataset.PixelData = encapsulate([bomb.data])
    assert server.store(dataset, syntax=bomb.syntax) == 0x0000, name


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
