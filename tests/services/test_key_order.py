"""Several workers add and delete disagreeing instances at the same time: the index is that of the files."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from pacs.index import writer
from pacs.index.database import Index
from pacs.services.maintenance import Maintenance
from pacs.services.orphans import adopt
from tests.properties.test_key_order import Archive

WORKERS, THREADS = 3, 4


@pytest.fixture
def workers(database_url: str) -> Iterator[list[Index]]:
    """The indexes of several worker processes."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Index(database_url, is_shared=True))) for _ in range(WORKERS)]


def said(chance: random.Random, number: int) -> dict[str, Any]:
    """Return what an instance says: usually the same as the others."""

    def one_of(usual: str, *others: str | None) -> str | None:
        return usual if chance.random() < 0.9 else chance.choice(others)

    return {
        "PatientID": one_of("P1", "P2", ""),
        "StudyInstanceUID": one_of("1.2.1", "1.2.2"),
        "SeriesInstanceUID": one_of("1.3.1", "1.3.2", "1.3.3"),
        "SOPInstanceUID": f"1.4.{number}",
        "PatientComments": one_of("A", None, "B"),
        "StudyDescription": one_of("A", None, "B"),
        "SeriesDescription": one_of("A", None, "B"),
    }


def test_concurrent_workers_make_the_index_of_the_files(workers: list[Index], tmp_path: Path):
    """Each thread adds files of its own, in any order; what they say is usually the same, but not always."""
    for seed in range(3):
        add_at_the_same_time(workers, tmp_path / str(seed), seed)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_concurrent_workers_make_the_index_of_the_files_at_length(workers: list[Index], tmp_path: Path):
    """The same many times."""
    for seed in range(100, 300):
        add_at_the_same_time(workers, tmp_path / str(seed), seed)


def add_at_the_same_time(workers: list[Index], root: Path, seed: int) -> None:
    """Add files from all threads of all workers, delete some of them, and check the rows."""
    chance = random.Random(seed)
    archive = Archive(workers[0], root, [said(chance, number) for number in range(96)])
    names = chance.sample(list(archive.said), len(archive.said))
    deleted = set(chance.sample(names, len(names) // 5))
    barrier = Barrier(WORKERS * THREADS)

    def add(thread: int) -> None:
        barrier.wait()
        index = workers[thread % WORKERS]
        for name in names[thread :: WORKERS * THREADS]:
            adopt(index, archive.files, name)
            if name in deleted:
                Maintenance(index, archive.files).delete(writer.find_all(index, [archive.said[name]["SOPInstanceUID"]]))

    with ThreadPoolExecutor(WORKERS * THREADS) as pool:
        list(pool.map(add, range(WORKERS * THREADS)))
    archive.added = {each["SOPInstanceUID"]: name for name, each in archive.said.items() if name not in deleted}
    archive.check()
    archive.check_rebuilt()
