"""Names of the transfer syntaxes to convert into."""

import pytest

from pacs.errors import InvalidArgument
from pacs.pixels.target_names import SHORT_NAMES, name_of, targets_of


def test_a_transfer_syntax_has_a_short_name_a_keyword_and_a_uid():
    """In any case of letters; the order stays, and one that is given twice counts once."""
    names = ["implicit", "Explicit", "ExplicitVRLittleEndian", "1.2.840.10008.1.2.1"]
    assert targets_of(names) == ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")


def test_each_short_name_is_a_transfer_syntax_to_convert_into():
    """htj2k too, although HTJ2K is the keyword of a lossy one."""
    assert targets_of(SHORT_NAMES) == tuple(SHORT_NAMES.values())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("jpeg", "there is no transfer syntax 'jpeg': expected explicit, implicit, rle, jpegls, j2k, htj2k, or the"),
        ("JPEGBaseline8Bit", "nothing is converted into 'JPEGBaseline8Bit': expected explicit,"),
        ("1.2.840.10008.1.2.4.50", "nothing is converted into '1.2.840.10008.1.2.4.50': expected explicit,"),
        ("1.2.3", "there is no transfer syntax '1.2.3'"),
    ],
)
def test_other_names_are_refused_with_the_known_ones(name, sentence):
    """Lossy syntaxes, and what is none."""
    with pytest.raises(InvalidArgument, match=sentence):
        targets_of([name])


def test_messages_use_the_name_of_the_standard():
    """An unknown syntax is shown by its UID."""
    assert name_of("1.2.840.10008.1.2.4.90") == "JPEG 2000 Image Compression (Lossless Only)"
    assert name_of("1.2.3") == "1.2.3"
