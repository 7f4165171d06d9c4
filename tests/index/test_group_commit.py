"""Group commit: concurrent work shares a transaction, and failing work does not affect the other."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event, func, select

from pacs.dicom.levels import QueryLevel
from pacs.errors import DuplicateInstance, IndexUnavailable
from pacs.index import writer
from pacs.index.compiled_statement import CompiledStatement
from pacs.index.database import Index
from pacs.index.group_commit import GroupCommit
from pacs.index.tables import image
from tests.index.instances import new_instance

PATIENCE = 10.0


class Transactions:
    """A database that counts its transactions and lets the first one wait until it is told to go on."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.go = threading.Event()
        self.sizes: list[int] = []
        self.failure: BaseException | None = None

    def transact(self, work):
        """Run the work with a list in place of a connection."""
        if not self.began.is_set():
            self.began.set()
            assert self.go.wait(PATIENCE)
        if self.failure is not None:
            raise self.failure
        done: list[str] = []
        result = work(done)
        self.sizes.append(len(done))
        return result


def together(transactions: Transactions, works: list) -> list:
    """Start one unit of work and queue the others; return the result or error of each."""
    gathering = GroupCommit(transactions.transact, (LookupError,))

    def run(work):
        try:
            return gathering.run(work)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(works) + 1) as pool:
        first = pool.submit(run, lambda done: done.append("first"))
        assert transactions.began.wait(PATIENCE)
        others = [pool.submit(run, work) for work in works]
        while len(gathering._queue) < len(works):
            threading.Event().wait(0.001)
        transactions.go.set()
        return [each.result(PATIENCE) for each in (first, *others)]


def noting(name: str):
    """Work that notes its name and returns it."""

    def work(done: list[str]) -> str:
        done.append(name)
        return name

    return work


def test_waiting_work_shares_one_transaction():
    """Ten units that wait for a transaction share it, and each gets its own result."""
    transactions = Transactions()
    results = together(transactions, [noting(str(number)) for number in range(10)])
    assert results[1:] == [str(number) for number in range(10)]
    assert transactions.sizes == [11]


def test_work_beyond_the_maximum_runs_in_the_next_transaction():
    """The rest shares another transaction."""
    transactions = Transactions()
    assert len(together(transactions, [noting(str(number)) for number in range(100)])) == 101
    assert sum(transactions.sizes) == 101
    assert transactions.sizes[0] == 64


def test_a_single_unit_of_work_has_its_own_transaction():
    """It does not wait for others."""
    transactions = Transactions()
    transactions.go.set()
    gathering = GroupCommit(transactions.transact, (LookupError,))
    assert [gathering.run(noting(name)) for name in "abc"] == ["a", "b", "c"]
    assert transactions.sizes == [1, 1, 1]


def test_work_that_has_done_nothing_does_not_affect_other_work():
    """It gets None, the others their results, in one transaction."""
    transactions = Transactions()
    results = together(transactions, [noting("a"), lambda _done: None, noting("b")])
    assert results[1:] == ["a", None, "b"]
    assert transactions.sizes == [3]


def test_a_transaction_that_fails_does_nothing():
    """All of its work gets None, and later work runs."""
    transactions = Transactions()
    transactions.failure = LookupError("a connection broke")
    assert together(transactions, [noting("a"), noting("b")]) == [None] * 3
    transactions.failure = None
    assert GroupCommit(transactions.transact, (LookupError,)).run(noting("later")) == "later"


@pytest.mark.parametrize("failure", [IndexUnavailable("gone"), KeyboardInterrupt()])
def test_a_database_failure_fails_all_work(failure: BaseException):
    """All of them get an error, and none is left waiting."""
    transactions = Transactions()
    transactions.failure = failure
    gathering, caught = GroupCommit(transactions.transact, (LookupError,)), []

    def run(name: str) -> None:
        try:
            gathering.run(noting(name))
        except BaseException as error:
            caught.append(type(error))

    threads = [threading.Thread(target=run, args=(name,)) for name in "abcd"]
    threads[0].start()
    assert transactions.began.wait(PATIENCE)
    for thread in threads[1:]:
        thread.start()
    while len(gathering._queue) < 3:
        threading.Event().wait(0.001)
    transactions.go.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert caught.count(IndexUnavailable) == (4 if isinstance(failure, IndexUnavailable) else 3)
    transactions.failure = None
    assert gathering.run(noting("later")) == "later"


def test_many_senders_at_once_lose_nothing(index: Index):
    """Every instance is there, and known ones are refused."""

    def send(number: int) -> str:
        try:
            writer.add(index, new_instance(number % 90))
        except DuplicateInstance:
            return "known"
        return "added"

    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(send, range(100)))
    assert (said.count("added"), said.count("known")) == (90, 10)
    with index.read() as connection:
        assert connection.execute(select(func.count()).select_from(image)).scalar() == 90


def test_the_next_image_of_a_known_series_is_one_statement(index: Index, monkeypatch):
    """With unchanged parents no other statement is needed."""
    writer.add(index, new_instance(1))
    said: list[str] = []
    event.listen(index._engine, "before_cursor_execute", lambda *arguments: said.append(arguments[2]))
    first = CompiledStatement.first

    def noting(self: CompiledStatement, driver, dialect: str, values):
        said.append(self.text_and_parameters(dialect, values)[0])
        return first(self, driver, dialect, values)

    monkeypatch.setattr(CompiledStatement, "first", noting)
    assert writer.add(index, new_instance(2)) == ()
    assert [each.split(" (")[0] for each in said] == ["INSERT INTO image"]


def test_a_failure_on_a_driver_connection_falls_back_to_a_transaction(index: Index, monkeypatch):
    """A connection that has broken since its last use loses no instance."""
    writer.add(index, new_instance(1))
    for connections in (index._raw_writers, index._raw_readers):
        connections.use(lambda driver: driver.close())
    assert writer.is_known(index, "1.2.1.1.2")
    assert not writer.is_known(index, "1.2.1.1.2")
    assert writer.add(index, new_instance(2)) == ()
    assert writer.find(index, "1.2.1.1.2") is not None


@pytest.mark.parametrize(
    "changes",
    [{"PatientID": "P2"}, {"IssuerOfPatientID": "X"}, {"StudyInstanceUID": "1.2.9"}, {"PatientName": "Late"},
     {"StudyID": "7"}, {"Modality": "MR"}, {"SeriesInstanceUID": "1.2.9.1"}],
)  # fmt: skip
def test_a_difference_above_the_image_takes_the_general_path(index: Index, changes: dict[str, str]):
    """Conflicts are returned, empty elements filled and new parents added, as for the first image of a series."""
    writer.add(index, new_instance(1))
    warnings = writer.add(index, new_instance(2, **changes))
    assert bool(warnings) == (changes.keys() <= {"PatientID", "IssuerOfPatientID", "StudyInstanceUID"})
    fits = not warnings
    if fits:
        later = new_instance(3, **changes)
        with index.read() as connection:
            kept = [
                row[0]
                for row in connection.exec_driver_sql(
                    "SELECT kept FROM patient UNION ALL SELECT kept FROM study UNION ALL SELECT kept FROM series"
                )
            ]
        assert all(
            later.header.kept[level] in map(bytes, kept) for level in QueryLevel if level is not QueryLevel.IMAGE
        )


def test_a_removed_series_can_be_added_again(index: Index):
    """No cache outlives its row, even when the database reuses the id."""
    writer.add(index, new_instance(1))
    writer.add(index, new_instance(2))
    writer.remove(index, ["1.2.1.1.1", "1.2.1.1.2"])
    other = {"PatientID": "P9", "StudyInstanceUID": "1.2.9", "SeriesInstanceUID": "1.2.9.1"}
    writer.add(index, new_instance(5, **other))
    writer.add(index, new_instance(3))
    assert writer.find(index, "1.2.1.1.3").series_instance_uid == "1.2.1.1"
    assert writer.find(index, "1.2.1.1.5").series_instance_uid == "1.2.9.1"
