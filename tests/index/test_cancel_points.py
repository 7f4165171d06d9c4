"""X1: a cancellation at every point of a query ends it with Cancelled or not at all, and harms nothing after it."""

import contextlib
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import base, default
from sqlalchemy.pool import base as pool

from pacs.dicom.query import Names, Single
from pacs.errors import Cancelled
from pacs.index import computed, database, search, statement_cache
from pacs.index.database import Index
from pacs.support import cancellation
from pacs.support.cancellation import Cancellation
from tests.databases import KINDS, fresh_database, opened
from tests.index.instances import IMAGE, STUDY, fill, study
from tests.index.test_search import query
from tests.points import Points

OURS = (search, database, statement_cache, computed, cancellation, contextlib)
"""The modules in which a query waits, checks, and begins and ends its transactions."""

THEIRS = (base, default, pool)
"""Those of SQLAlchemy that run statements and keep connections."""

PAGE, IMAGES = 2, 3

EVERYTHING = query(IMAGE)
ROW_BY_ROW = query(
    STUDY,
    {"PatientName": Names((("doe*",),)), "AccessionNumber": Single(("A1",))},
    returning=("NumberOfStudyRelatedInstances",),
)

Ask = Callable[[Index, Cancellation], Any]

QUERIES: dict[str, Ask] = {
    "pages": lambda index, cancel: [m.kept[IMAGE] for m in search.matches(index, EVERYTHING, cancel, PAGE)],
    "counts": lambda index, cancel: [m.computed for m in search.matches(index, ROW_BY_ROW, cancel, PAGE)],
    "selection of a retrieve": lambda index, cancel: search.instances(index, EVERYTHING, cancel),
    "number of studies": lambda index, cancel: search.count(index, ROW_BY_ROW, STUDY, cancel),
}


@pytest.fixture(scope="module", params=KINDS)
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index with three studies of one image."""
    with fresh_database(request.param, request, tmp_path_factory.mktemp("points")) as url, opened(url) as opened_index:
        fill_with_studies(opened_index)
        yield opened_index


def fill_with_studies(index: Index) -> None:
    """Add three studies of one image."""
    fill(index, *(study(number, PatientName="DOE^JOHN", AccessionNumber="A1") for number in range(IMAGES)))


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a statement was interrupted, or would have been, had there been one."""
    done = threading.Event()

    def observed(connection: Any) -> Callable[[], None]:
        interrupt = interrupter_of(connection)

        def call() -> None:
            try:
                interrupt()
            finally:
                done.set()

        return call

    interrupter_of = database._interrupt
    monkeypatch.setattr(database, "_interrupt", observed)
    return done


def cancel_and_wait(requested: Cancellation, interrupted: threading.Event) -> None:
    """Cancel a query; wait until its statement was interrupted, if one is to be."""
    interrupted.clear()
    requested.cancel("C-CANCEL")
    if any(each.name == "pacs-interrupt" for each in threading.enumerate()):
        assert interrupted.wait(30)


@pytest.mark.parametrize("name", ["pages", "selection of a retrieve", pytest.param("counts", marks=pytest.mark.long)])
def test_x1_a_cancellation_at_every_point_of_a_query(index: Index, name: str, interrupted: threading.Event):
    """It ends with all matches or with Cancelled, and the next query finds the connections as they were."""
    _cancel_everywhere(index, QUERIES[name], interrupted, OURS)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", QUERIES)
def test_x1_a_cancellation_also_at_every_point_of_sqlalchemy(index: Index, name: str, interrupted: threading.Event):
    """As above."""
    _cancel_everywhere(index, QUERIES[name], interrupted, (*OURS, *THEIRS))


@pytest.mark.parametrize("name", ["pages", "counts"])
def test_x1_a_cancellation_at_every_step_of_a_statement_on_sqlite(
    tmp_path: Path, sqlite_template: Path, name: str, interrupted: threading.Event
):
    """SQLite calls back in the middle of its work: the statement ends there, and so does the query."""
    shutil.copyfile(sqlite_template, tmp_path / "pacs.db")
    ask, steps = QUERIES[name], Steps()
    with opened(f"sqlite:///{tmp_path}/pacs.db") as index:
        fill_with_studies(index)
        event.listen(index._engine, "checkout", steps.follow)
        expected = ask(index, Cancellation())
        for number in range(1, steps.taken + 1):
            requested = Cancellation()
            steps.call_at(number, partial(cancel_and_wait, requested, interrupted))
            with pytest.raises(Cancelled):
                ask(index, requested)
            assert ask(index, Cancellation()) == expected
        assert steps.called > 20


class Steps:
    """Counts the steps of SQLite in all statements, four of its instructions each, and calls a function at one."""

    def __init__(self) -> None:
        self.taken = self.called = self._at = 0
        self._call = lambda: None

    def follow(self, driver: Any, *_: object) -> None:
        """Count the steps of a connection."""
        driver.set_progress_handler(self._step, 4)

    def call_at(self, number: int, call: Callable[[], None]) -> None:
        """Call a function at step `number` from now on, once."""
        self.taken, self._at, self._call = 0, number, call

    def _step(self) -> int:
        self.taken += 1
        if self.taken == self._at:
            self._at, self.called = 0, self.called + 1
            self._call()
        return 0


class CancelledAtOnce(Cancellation):
    """A cancellation that is requested when the first wait has begun."""

    @contextlib.contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """See `Cancellation`."""
        with super().interrupting(interrupt):
            self.cancel("C-CANCEL")
            yield


def test_x1_a_cancellation_while_a_query_waits_for_a_connection(database_url: str):
    """All are in use until the wait is over: the query was cancelled, whatever it waited for."""
    index = Index(database_url, connections=1, wait=0.05)
    with index.read(), pytest.raises(Cancelled):
        search.instances(index, EVERYTHING, CancelledAtOnce())
    assert search.instances(index, EVERYTHING, Cancellation()) == []
    index.close()


# --- the schedule ------------------------------------------------------------------------------------------------


def _cancel_everywhere(index: Index, ask: Ask, interrupted: threading.Event, modules: tuple[ModuleType, ...]) -> None:
    expected = ask(index, Cancellation())
    outcomes, violations = Counter[str](), []
    for number in count(1):
        outcome, where = _cancelled_at(number, index, ask, interrupted, modules)
        if not where:
            break
        outcomes["complete" if outcome == expected else str(outcome)] += 1
        if outcome not in (expected, "cancelled") or search.count(index, EVERYTHING, IMAGE, Cancellation()) != IMAGES:
            violations.append(f"{where}: {outcome}")
    assert not violations, f"{len(violations)} of {outcomes.total()} points, as {violations[0]}"
    assert outcomes["cancelled"] > 100


def _cancelled_at(
    number: int, index: Index, ask: Ask, interrupted: threading.Event, modules: tuple[ModuleType, ...]
) -> tuple[Any, str]:
    """Run a query that is cancelled at a point; return its result or how it failed, and the point."""
    requested = Cancellation()
    cancel = partial(cancel_and_wait, requested, interrupted)
    # Who cancels waits for the lock: it comes to its turn at the next point without it.
    points = Points(modules, number, cancel, lambda: not requested._lock.locked())
    try:
        with points.traced():
            return ask(index, requested), points.where
    except Cancelled:
        return "cancelled", points.where
    except Exception as error:
        return repr(error), points.where
