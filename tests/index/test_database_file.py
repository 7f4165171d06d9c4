"""The file of an SQLite index is watched: nothing is read from or committed to a deleted or replaced one."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from pacs.errors import IndexUnavailable
from pacs.index import schema, writer
from pacs.index.database import Index
from tests.index.instances import new_instance

COUNT = text("SELECT count(*) FROM image")


@pytest.fixture
def path(tmp_path: Path, sqlite_template: Path) -> Path:
    """The file of a fresh index."""
    return Path(shutil.copyfile(sqlite_template, tmp_path / "pacs.db"))


@pytest.fixture
def notices() -> list[str]:
    """What the index says about its file."""
    return []


@pytest.fixture
def watched(path: Path, notices: list[str]) -> Iterator[Index]:
    """An index in use, with one instance."""
    index = Index(f"sqlite:///{path}", notify=notices.append)
    writer.add(index, new_instance(1))
    yield index
    index.close()


def count(index: Index) -> int:
    """Count the instances."""
    with index.read() as connection:
        return int(connection.execute(COUNT).scalar() or 0)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("is_copied", [False, True], ids=["gone", "replaced"])
def test_a_lost_file_is_an_error_until_it_is_back(watched: Index, notices: list[str], suffix: str, is_copied: bool):
    """For reads and writes, on connections of every kind; said once."""
    lost = Path(f"{watched.url.database}{suffix}")
    away = lost.with_name("away")
    lost.rename(away)
    if is_copied:
        shutil.copyfile(away, lost)
    said = "was replaced: restart the server" if is_copied else "is gone: restart the server"
    for attempt in (
        lambda: count(watched),
        lambda: writer.find(watched, "1.2.1.1.1"),
        lambda: writer.add(watched, new_instance(2)),
        lambda: writer.remove(watched, ["1.2.1.1.1"]),
        watched.ping,
        watched.settle,
    ):
        with pytest.raises(IndexUnavailable) as raised:
            attempt()
        assert raised.value.comment.endswith(said)
        assert len(raised.value.comment) <= 64
    assert lost.exists() == is_copied, "no empty file may take its place"
    assert len(notices) == 1
    os.replace(away, lost)
    assert count(watched) == 1
    writer.add(watched, new_instance(2))
    assert notices[1:] == ["the files of the index are back"]


@pytest.mark.parametrize("by", ["the driver", "SQLAlchemy"])
def test_a_commit_into_a_file_that_was_deleted_meanwhile_is_an_error(watched: Index, path: Path, by: str):
    """The caller must not take the instance for stored."""

    def lose(connection: Connection) -> None:
        connection.execute(text("UPDATE image SET last_used_at = 1"))
        path.unlink()

    def lose_by_driver(driver: object) -> bool:
        path.unlink()
        return True

    with pytest.raises(IndexUnavailable, match="is gone"):
        watched.run_shared(lose_by_driver) if by == "the driver" else watched.run_alone(lose)


def test_an_index_that_was_closed_may_have_another_log(watched: Index):
    """SQLite deletes its log with the last connection; the database file must be the same."""
    watched.close()
    assert not Path(f"{watched.url.database}-wal").exists()
    assert count(watched) == 1
    watched.close()
    Path(watched.url.database or "").unlink()
    with pytest.raises(IndexUnavailable, match="is gone"):
        count(watched)


def test_a_forked_process_uses_only_the_file_of_its_parent(watched: Index, path: Path):
    """An index that joins refuses a file that was put in its place before its first connection."""
    watched.close()
    worker = Index(f"sqlite:///{path}")
    worker.join(watched)
    path.rename(path.with_name("away"))
    with pytest.raises(IndexUnavailable, match="is gone"):
        schema.check(worker)
    fresh = Index(f"sqlite:///{path}")
    schema.create_or_check(fresh)
    with pytest.raises(IndexUnavailable, match="was replaced"):
        schema.check(worker)
    fresh.close()
    worker.close()
