"""docs/client-series.md: its lines load the series they speak of."""

import re
from pathlib import Path

from pacs.testing import study

PAGE = (Path(__file__).parents[2] / "docs" / "client-series.md").read_text("utf-8")


def test_the_series_of_the_page_is_loaded(pacs_server):
    """The one of two that is called Thorax, slice by slice."""
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    pacs_server.add(
        study(series=1, instances=4, StudyDate="20260101", SeriesDescription="Thorax 1.0"),
        study(series=1, instances=2, number=2, StudyDate="20260101", SeriesDescription="Scout"),
    )
    names = {}
    exec(block.replace("PACS@127.0.0.1:11112", pacs_server.address), names)
    assert names["image"].GetSize() == (8, 8, 4)
