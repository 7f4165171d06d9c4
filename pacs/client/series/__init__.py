"""One series as an image: selection of the series, order of its slices, and geometry checks."""

from pacs._moved import moved_attributes

__getattr__ = moved_attributes("pacs.client.series", "pacs.client.series.load")
