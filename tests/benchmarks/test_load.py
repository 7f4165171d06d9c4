"""What the senders of the benchmark send, how they end, and how much they leave on the disk."""

import itertools
from array import array

import pytest
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO

from benchmarks import load, peers, shapes, sustained
from benchmarks.bench import Bench, Sustained, remove_discarded
from benchmarks.client import RequestFailed
from benchmarks.peers import System
from benchmarks.shapes import SHAPES, Message
from pacs.conformance.checks import wire
from pacs.conformance.checks.wire import MessageAssembler


def sent(message: Message) -> wire.DimseMessage:
    """Return the message that the receiver assembles."""
    assembler = MessageAssembler()
    (whole,) = [
        found
        for _, body in wire.pdus(bytes(message.head) + bytes(message.pixels))
        for pdv in wire.pdvs(body)
        if (found := assembler.add(*pdv))
    ]
    return whole


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("longest_pdu", [16_384, 131_072])
def test_every_message_has_the_identity_of_its_image(shape, longest_pdu):
    """In command set and data set, for the first images of the shape; all UIDs of instances are different."""
    messages = {kind: Message(kind, 1, longest_pdu) for kind in shape.kinds}
    uids = set()
    identity: dict[str, bytes] = {}
    for number, (kind, values) in enumerate(itertools.islice(shapes.identities(shape, 7 * 10**8), 12)):
        messages[kind].fill(values, number + 1)
        message = sent(messages[kind])
        image = dcmread(DicomBytesIO(message.data), force=True, defer_size=None)
        identity |= values
        assert {each: str(image[each].value).encode() for each in identity} == identity
        assert message.number(wire.MESSAGE_ID) == number + 1
        assert message.text(wire.SOP_INSTANCE) == image.SOPInstanceUID
        assert message.text(wire.SOP_CLASS) == image.SOPClassUID == kind.sop_class
        assert len(image.PixelData) == kind.size
        uids.add(image.SOPInstanceUID)
    assert len(uids) == 12


@pytest.mark.parametrize(
    ("key", "series", "studies"), [("one-a-study", 20, 20), ("5-a-series", 4, 1), ("300-a-series", 1, 1)]
)
def test_images_make_series_and_studies_of_their_shape(key, series, studies):
    """Of twenty images."""
    values = [each for _, each in itertools.islice(shapes.identities(SHAPES[key], 10**8), 20)]
    assert sum("SeriesInstanceUID" in each for each in values) == series
    assert sum("StudyInstanceUID" in each for each in values) == studies


def test_a_department_has_the_published_proportions():
    """Of 42.9 million examinations 23.1 were X-rays, 10.0 ultrasound, 5.2 CT and 2.7 MRI; to the twentieth."""
    modalities = [kind.modality for kind in shapes.DEPARTMENT]
    xray = sum(modalities.count(each) for each in ("CR", "DX", "MG"))
    assert len(modalities) == 20
    for count, millions in ((xray, 23.1), (modalities.count("US"), 10.0), (modalities.count("CT"), 5.2)):
        assert abs(count / 20 - millions / 42.9) < 0.05


def test_a_window_has_what_ended_in_it():
    """Rates, latencies, whole seconds and the processor time of the sender."""
    stores = load.Stores(array("d", [0.9, 1.1, 1.9, 2.5, 3.0]), array("d", [9, 1, 3, 2, 9]), array("d", [1] * 5),
                         array("d", [0.1, 0.2, 0.3, 0.4, 0.5]))  # fmt: skip
    window = load.between([stores, load.Stores()], 1.0, 3.0)
    assert list(window.took) == [1, 2, 3]
    assert list(window.by_second) == [(2, 2.0), (1, 1.0)]
    assert window.cpu == pytest.approx(0.3)
    assert (window.quantile(0.5), window.quantile(0.99)) == (2, 3)
    with pytest.raises(RequestFailed, match="nothing was stored"):
        load.between([stores], 4.0, 5.0)


def test_a_load_ends_when_enough_was_sent(tmp_path):
    """So that a fast disk is not filled: an association ends by itself, and then the whole load."""
    with peers.sink(peers.Site(tmp_path)) as sink, load.load(sink, SHAPES["one-a-study"], 2, 2 * 8192 * 5) as running:
        assert not running.wait(60)
        assert max(len(each.ended) for each in running.stop()) == 5


def test_a_load_that_fails_tells_why(tmp_path):
    """The server is not there."""
    nowhere = System("nowhere", "NOWHERE", peers.free_port(), 0, tmp_path)
    with pytest.raises(RequestFailed, match="refused"), load.load(nowhere, SHAPES["one-a-study"], 2) as running:
        running.wait(60)


def test_an_archive_that_is_too_large_is_begun_again(tmp_path, monkeypatch, capsys):
    """Before the next cell, and that is said; the archives are removed at the end."""
    monkeypatch.setattr(sustained, "MOST_BYTES", 10_000)
    extent = Sustained(["one-a-study"], [1], seconds=0.3, warm_up=0.1)
    bench = Bench(runs=2, quick=True, chosen=("limit",), parent=tmp_path, sustained=extent)
    rows = list(sustained.sustained(bench))
    assert len(rows[0].values["limit"]) == 2
    assert capsys.readouterr().err.count("the next cell begins with an empty archive") == 2
    remove_discarded()
    assert not list(tmp_path.iterdir())
