"""What the index has is counted completely, or only what is new while a complete count would be expensive."""

import pytest

from pacs.index import writer
from pacs.index.database import Index
from pacs.index.holdings import Holdings
from pacs.services.holdings import HoldingsCounter
from tests.index.instances import dataset, fill, instance_of


@pytest.fixture
def counter(index: Index) -> HoldingsCounter:
    """A counter whose results are not published."""
    return HoldingsCounter(index, lambda _found: None)


def test_studies_instances_and_bytes_are_counted(index: Index, counter: HoldingsCounter):
    """An empty index has none."""
    assert counter.count() == Holdings()
    images = [dataset(1), dataset(2), dataset(3, StudyInstanceUID="1.2.2", SeriesInstanceUID="1.2.2.1")]
    fill(index, *images)
    found = counter.count()
    assert (found.studies, found.instances, found.size) == (2, 3, sum(instance_of(each).size for each in images))


def test_only_new_rows_are_counted_where_counting_is_expensive(index, counter, monkeypatch):
    """What was deleted is noticed by the next complete count."""
    fill(index, dataset(1))
    assert counter.count().instances == 1
    monkeypatch.setattr(counter, "_next_complete_count", float("inf"))
    fill(index, dataset(2), dataset(3, StudyInstanceUID="1.2.2", SeriesInstanceUID="1.2.2.1"))
    found = counter.count()
    assert (found.studies, found.instances) == (2, 3)
    writer.remove(index, [dataset(1).SOPInstanceUID])
    assert counter.count() == found
    monkeypatch.setattr(counter, "_next_complete_count", 0.0)
    assert counter.count().instances == 2
