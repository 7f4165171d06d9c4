"""reindex: the whole index from the files alone, row for row."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import update

from pacs.errors import StorageUnavailable
from pacs.files.local import LocalFiles
from pacs.index import writer
from pacs.index.database import Index
from pacs.index.tables import TABLES, image, patient, series, study
from pacs.services.maintenance import Maintenance
from pacs.services.reindex import Reindex, Reindexed
from pacs.services.storage import Storage
from tests.upkeep import SURROGATES, populate, rows, send, series_of


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    """The file store."""
    return LocalFiles(tmp_path / "files")


def reindex(index: Index, files: LocalFiles, tmp_path: Path, **options) -> Reindexed:
    """Run reindex without a grace period, as no other process works here."""
    return Reindex(index, files, grace=0, **options).run()


def scratch_folders(tmp_path: Path) -> list[Path]:
    """The temporary folders beside the files."""
    return [path for path in (tmp_path / "files" / "upkeep").iterdir() if path.is_dir()]


def lose(index: Index) -> None:
    """Empty every table."""
    with index.write() as connection:
        for table in reversed(TABLES.values()):
            connection.execute(table.delete())


@pytest.mark.timeout(180)
def test_the_rebuilt_index_is_the_same_row_for_row(index: Index, files: LocalFiles, tmp_path: Path):
    """Real files, conflicts, replacements, deletions, character sets: of a correct, a wrong and an empty index."""
    populate(index, files)
    writer.touch(index, [Maintenance(index, files).instances({})[0].sop_instance_uid], 12345)
    before = rows(index)
    assert len(before["image"]) > 50
    assert reindex(index, files, tmp_path) == Reindexed(images=len(before["image"]))
    assert rows(index) == before
    spoil(index)
    done = reindex(index, files, tmp_path)
    assert rows(index) == before
    assert (done.added, done.removed, done.corrected > 10) == (0, 0, True)
    lose(index)
    done = reindex(index, files, tmp_path)
    assert rows(index, used=False) == without_use(before)
    assert done == Reindexed(images=len(before["image"]), added=len(before["image"]))
    assert scratch_folders(tmp_path) == []


def spoil(index: Index) -> None:
    """Change columns of every level, and move studies, series and instances to other parents."""
    with index.write() as connection:
        for column, value in (
            (patient.c.patient_name, "x"), (patient.c.kept, b""), (study.c.study_date, "19000101"),
            (series.c.modality, None), (image.c.size, 1), (image.c.digest, ""), (image.c.source_ae, "X"),
            (image.c.received_at, 1), (image.c.instance_number, 77), (image.c.irregular, True),
        ):  # fmt: skip
            chosen = column.table.select().order_by(column.table.c.id).limit(3)
            ids = [row.id for row in connection.execute(chosen)]
            connection.execute(update(column.table).where(column.table.c.id.in_(ids)).values({column.name: value}))
        for reference in (study.c.patient_fk, series.c.study_fk, image.c.series_fk):
            connection.execute(update(reference.table).values({reference.name: _some(connection, reference)}))


def without_use(content):
    """Return the same rows without the time of last use."""
    place = 1 + [each.name for each in image.c if each.name not in SURROGATES].index("last_used_at")
    return content | {"image": sorted(((*row[:place], *row[place + 1 :]) for row in content["image"]), key=repr)}


def _some(connection, reference) -> int:
    """Return one row to which all others will refer."""
    return connection.execute(reference.table.select().limit(1)).mappings().one()[reference.name]


def test_rows_without_files_are_removed_and_files_without_rows_added(index: Index, files: LocalFiles, tmp_path: Path):
    """With their parents."""
    storage = Storage(index, files)
    send(storage, *series_of(1))
    before = rows(index)
    send(storage, *series_of(2))
    for instance in Maintenance(index, files).instances({"StudyID": "2"}):
        (tmp_path / "files" / instance.file_key).unlink()
    writer.remove(index, [Maintenance(index, files).instances({"StudyID": "1"})[0].sop_instance_uid])
    done = reindex(index, files, tmp_path)
    assert (done.images, done.added, done.removed) == (3, 1, 3)
    assert rows(index) == before


def test_a_file_without_an_instance_is_reported_and_left(index: Index, files: LocalFiles, tmp_path: Path):
    """Its row is removed; fsck deals with the file."""
    storage = Storage(index, files)
    send(storage, *series_of(1))
    victim = Maintenance(index, files).instances({})[0]
    path = tmp_path / "files" / victim.file_key
    path.write_bytes(path.read_bytes()[:700])
    done = reindex(index, files, tmp_path)
    assert (done.images, done.removed, list(done.unusable)) == (2, 1, [victim.file_key])
    assert path.exists()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("is_lost", [False, True])
def test_of_two_files_with_one_instance_the_one_in_the_index_counts(
    index: Index, files: LocalFiles, tmp_path: Path, newest: bool, is_lost: bool
):
    """If neither is in it, the older one, or the newer one where the archive replaces."""
    storage = Storage(index, files)
    send(storage, *series_of(1, 1))
    (first,) = Maintenance(index, files).instances({})
    second = first.file_key[:-16] + "ffffffffffff.dcm"
    (tmp_path / "files" / second).write_bytes((tmp_path / "files" / first.file_key).read_bytes())
    if is_lost:
        lose(index)
    done = reindex(index, files, tmp_path, newest=newest)
    chosen, other = (second, first.file_key) if newest and is_lost else (first.file_key, second)
    assert writer.find(index, first.sop_instance_uid).file_key == chosen
    assert list(done.unusable) == [other]


def test_an_index_without_any_file_is_left_alone(index: Index, files: LocalFiles, tmp_path: Path):
    """The disk may not be mounted."""
    send(Storage(index, files), *series_of(1))
    with pytest.raises(StorageUnavailable, match=r"check files\.url"):
        reindex(index, LocalFiles(tmp_path / "elsewhere"), tmp_path)
    assert len(rows(index)["image"]) == 3


def test_a_reindex_does_not_disturb_an_archive_in_use(index: Index, files: LocalFiles, tmp_path: Path):
    """One thread stores, replaces and deletes during many reindexes; nothing is ever missing."""
    storage = Storage(index, files, duplicates="replace")
    stays = series_of(1, 20, patient_id="STAYS")
    send(storage, *stays)
    maintenance = Maintenance(index, files)
    stop = threading.Event()
    failures: list[BaseException] = []

    def others() -> None:
        number = 2
        try:
            while not stop.is_set():
                comes = series_of(number, 5, patient_id="COMES", PatientComments=f"fills {number}")
                send(storage, *comes)
                comes[0].StudyDescription = "replaced"
                send(storage, comes[0])
                maintenance.delete(maintenance.instances({"StudyInstanceUID": comes[0].StudyInstanceUID})[:3])
                number += 1
        except BaseException as error:
            failures.append(error)

    def looks() -> None:
        while not stop.is_set():
            if len(maintenance.instances({"PatientID": "STAYS"})) != 20:
                failures.append(AssertionError("an instance was missing"))

    threads = [threading.Thread(target=each) for each in (others, looks)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            Reindex(index, files, grace=0.1).run()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    before = rows(index)
    assert reindex(index, files, tmp_path) == Reindexed(images=len(before["image"]))
    assert rows(index) == before


DIE = """
import os, sys
from pathlib import Path
from pacs.index import index_diff
from pacs.index.database import Index
from pacs.files.local import LocalFiles
from pacs.services.reindex import Reindex
url, root = sys.argv[1:]
index_diff.PAGE = 6
real, left = index_diff.correct, 1
def correct(*arguments, **named):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    return real(*arguments, **named)
index_diff.correct = correct
Reindex(Index(url), LocalFiles(Path(root)), grace=0).run()
"""


def test_a_killed_reindex_is_completed_by_the_next(index: Index, database_url: str, files: LocalFiles, tmp_path: Path):
    """Its temporary folder is removed, and the index is as before."""
    storage = Storage(index, files)
    for number in range(1, 6):
        send(storage, *series_of(number))
    before = rows(index)
    lose(index)
    command = [sys.executable, "-c", DIE, database_url, str(tmp_path / "files")]
    died = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.getcwd()}, timeout=60, check=False)
    assert died.returncode == 9
    assert len(rows(index)["image"]) == 6
    assert len(scratch_folders(tmp_path)) == 1
    assert reindex(index, files, tmp_path).added == 9
    assert rows(index) == before
    assert scratch_folders(tmp_path) == []
