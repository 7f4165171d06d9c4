"""docs/client-series.md: its lines load a series."""

from pacs.testing import study
from tests.docs.pages import block


def test_the_series_of_the_page_is_loaded(pacs_server):
    """Of two series the one called Thorax, slice by slice."""
    pacs_server.add(
        study(series=1, instances=4, StudyDate="20260101", SeriesDescription="Thorax 1.0"),
        study(series=1, instances=2, number=2, StudyDate="20260101", SeriesDescription="Scout"),
    )
    names = {}
    exec(block("load a series").replace("PACS@127.0.0.1:11112", pacs_server.address), names)
    assert names["image"].GetSize() == (8, 8, 4)
