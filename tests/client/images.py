"""What SimpleITK alone reads, and whether two images are the same."""

import random

import pytest
import SimpleITK

from pacs.testing import write

CLOSE = 1e-6
"""How far spacing, origin and direction may lie apart: millimetres, or parts of one in a direction cosine."""


def same(one, other):
    """Whether pixel type, size and every pixel are equal; spacing, origin and direction have to be close."""
    assert one.GetPixelID() == other.GetPixelID()
    assert one.GetNumberOfComponentsPerPixel() == other.GetNumberOfComponentsPerPixel()
    assert one.GetSize() == other.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(one, name)() == pytest.approx(getattr(other, name)(), abs=CLOSE), name
    return SimpleITK.Hash(one) == SimpleITK.Hash(other)


def read(folder, datasets):
    """What SimpleITK alone reads of a series: GDCM chooses the order."""
    write(random.sample(datasets, len(datasets)), folder)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), datasets[0].SeriesInstanceUID))
    return reader.Execute()
