"""Compressed files of others, converted into every transfer syntax that is encoded, still have the same pixels."""

import importlib.util
import logging
import warnings

import numpy
import pytest

from pacs.dicom.syntaxes import EXPLICIT_LITTLE
from pacs.errors import NotSupported
from pacs.pixels import capabilities
from tests import programs
from tests.pixels.converting import converted
from tests.pixels.matrix import decoded_by_pydicom
from tests.real_files import PART10, data_set, transfer_syntax

DAMAGED = {"JPEG2000-embedded-sequence-delimiter.dcm"}
WITHOUT_PIXELS = {"UN_sequence.dcm"}
NOT_ENCODED = {
    "SC_rgb_rle_32bit.dcm": "32 bits",
    "SC_rgb_rle_32bit_2frame.dcm": "32 bits",
    "rtdose_rle.dcm": "32 bits",
    "rtdose_rle_1frame.dcm": "32 bits",
}
"""Files that are in no other compressed transfer syntax, and why: the standard allows none (PS3.5 8.2)."""

SMALL = 60_000
"""Bytes of the files that are tested without --long."""

FILES = [
    pytest.param(path, id=path.name, marks=[pytest.mark.long] if path.stat().st_size > SMALL else [])
    for path in PART10
    if transfer_syntax(path) in capabilities.DECODED and path.name not in DAMAGED | WITHOUT_PIXELS
]


@pytest.fixture(autouse=True)
def _quiet():
    """Silence pydicom's warnings about these files, and see that its plugins are there."""
    if not importlib.util.find_spec("pylibjpeg"):
        programs.missing("pylibjpeg")
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", FILES)
def test_every_destination_gets_the_same_pixels(path):
    """Those that are sent uncompressed, as another decoder sees them."""
    data, source = data_set(path)
    native = decoded_by_pydicom(converted(data, source, EXPLICIT_LITTLE), EXPLICIT_LITTLE)
    for target in capabilities.ENCODED:
        if target == source:
            continue
        if path.name in NOT_ENCODED:
            with pytest.raises(NotSupported):
                converted(data, source, target)
        else:
            found = decoded_by_pydicom(converted(data, source, target), target)
            assert numpy.array_equal(found, native), f"in {target}"
