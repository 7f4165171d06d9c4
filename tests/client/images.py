"""Reads images with SimpleITK alone, and compares images."""

import random

import pytest
import SimpleITK

from pacs.testing import write

CLOSE = 1e-6
"""Maximum difference of spacing and origin in millimetres, and of direction cosines."""


def same(one, other):
    """Return whether pixel type, size and all pixels are equal, and spacing, origin and direction are close."""
    assert one.GetPixelID() == other.GetPixelID()
    assert one.GetNumberOfComponentsPerPixel() == other.GetNumberOfComponentsPerPixel()
    assert one.GetSize() == other.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(one, name)() == pytest.approx(getattr(other, name)(), abs=CLOSE), name
    return SimpleITK.Hash(one) == SimpleITK.Hash(other)


def read(folder, datasets):
    """Return what SimpleITK alone reads of a series; GDCM chooses the order."""
    write(random.sample(datasets, len(datasets)), folder)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), datasets[0].SeriesInstanceUID))
    return reader.Execute()
