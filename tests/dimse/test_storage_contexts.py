"""Which presentation contexts are proposed for an instance, and in which of the accepted ones it is sent."""

from dataclasses import dataclass

import pytest

from pacs.dimse.association.storage_contexts import batches, candidates, proposals, refusal
from pacs.dimse.upper.user_information import Agreement, Context

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
RLE, J2K, JPEG_LS = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80"
JPEG, HTJ2K, MPEG2 = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.100"


@dataclass(frozen=True)
class Instance:
    """An instance as far as its contexts depend on it."""

    transfer_syntax: str
    sop_class_uid: str = CT


def accepted(*transfer_syntaxes, sop_class_uid=CT, as_scu=True):
    """Return accepted contexts with these transfer syntaxes."""
    return [Context(2 * n + 1, sop_class_uid, each, as_scu, not as_scu) for n, each in enumerate(transfer_syntaxes)]


@pytest.mark.parametrize(
    ("stored", "send_as", "proposed"),
    [
        (EXPLICIT, (), [(EXPLICIT,), (IMPLICIT, BIG, DEFLATED)]),
        (IMPLICIT, (), [(IMPLICIT,), (EXPLICIT, BIG, DEFLATED)]),
        (J2K, (), [(J2K,), (EXPLICIT, IMPLICIT)]),
        (MPEG2, (), [(MPEG2,), (EXPLICIT, IMPLICIT)]),
        (J2K, (JPEG_LS, RLE), [(J2K,), (JPEG_LS,), (RLE,), (EXPLICIT, IMPLICIT)]),
        (RLE, (JPEG_LS, RLE), [(RLE,), (JPEG_LS,), (EXPLICIT, IMPLICIT)]),
        (J2K, (IMPLICIT,), [(J2K,), (IMPLICIT,), (EXPLICIT, IMPLICIT)]),
        (EXPLICIT, (RLE,), [(EXPLICIT,), (RLE,), (IMPLICIT, BIG, DEFLATED)]),
        (MPEG2, (RLE,), [(MPEG2,), (EXPLICIT, IMPLICIT)]),  # a video becomes nothing else
        (J2K, (BIG,), [(J2K,), (BIG,), (EXPLICIT, IMPLICIT)]),
    ],
)
def test_v9_the_stored_one_send_as_and_uncompressed_are_proposed(stored, send_as, proposed):
    """In this order; each alone, so that the acceptor accepts it whatever it prefers."""
    assert list(proposals(Instance(stored), send_as)) == [(CT, each) for each in proposed]


@pytest.mark.parametrize(
    ("stored", "send_as", "contexts", "chosen"),
    [
        (J2K, (), [EXPLICIT, IMPLICIT, J2K, RLE], [J2K, EXPLICIT, IMPLICIT, RLE]),
        (J2K, (RLE,), [EXPLICIT, IMPLICIT, RLE, JPEG_LS], [RLE, EXPLICIT, IMPLICIT, JPEG_LS]),
        (J2K, (IMPLICIT, RLE), [EXPLICIT, IMPLICIT, RLE], [IMPLICIT, RLE, EXPLICIT]),
        (J2K, (), [DEFLATED, BIG, RLE, JPEG], [BIG, DEFLATED, RLE]),
        (J2K, (), [RLE, J2K], [J2K, RLE]),
        (EXPLICIT, (), [IMPLICIT, BIG, DEFLATED, J2K], [IMPLICIT, BIG, DEFLATED, J2K]),
        (IMPLICIT, (JPEG_LS,), [BIG, JPEG_LS], [JPEG_LS, BIG]),
        (JPEG, (), [J2K, HTJ2K, RLE, JPEG_LS], [JPEG_LS, HTJ2K, J2K, RLE]),
        (MPEG2, (), [EXPLICIT, RLE], []),
        (MPEG2, (), [EXPLICIT, MPEG2], [MPEG2]),
        (J2K, (), [], []),
    ],
)
def test_v9_the_best_accepted_contexts_come_first(stored, send_as, contexts, chosen):
    """The stored one, those of `send_as`, uncompressed, then any other in which nothing is lost."""
    found = candidates(Instance(stored), accepted(*contexts), send_as)
    assert [each.transfer_syntax for each in found] == chosen


def test_v9_contexts_of_other_classes_and_roles_are_not_used():
    """Nor those in which this AE is no SCU."""
    instance = Instance(J2K)
    assert candidates(instance, accepted(J2K, sop_class_uid=MR)) == ()
    assert candidates(instance, accepted(J2K, as_scu=False)) == ()


def test_v9_a_refusal_names_what_is_not_accepted():
    """The SOP Class if nothing is accepted for it, else the transfer syntax. The first part fits an Error Comment."""
    instance, lossless = Instance(J2K), "it does not accept JPEG 2000 Image Compression (Lossless Only)"
    assert refusal(instance, agreed(accepted(J2K, sop_class_uid=MR))) == "it does not accept CT Image Storage"
    assert refusal(instance, agreed([], {CT})) == f"{lossless}; it accepts nothing else that we offer"
    assert refusal(instance, agreed(accepted(JPEG, BIG))) == (
        f"{lossless}; it accepts JPEG Baseline (Process 1) and Explicit VR Big Endian"
    )
    assert refusal(instance, agreed(accepted(J2K))) == lossless  # what is wrong with the pixel data follows
    assert len(lossless) <= 64


def agreed(contexts, refused_syntaxes=()):
    """Return an agreement with these contexts."""
    return Agreement("A", "B", {each.id: each for each in contexts}, 0, frozenset(refused_syntaxes))


def test_v9_send_as_counts_for_the_128_contexts_of_an_association():
    """42 SOP Classes with three contexts each fit, 43 do not."""
    instances = [Instance(J2K, f"1.2.{number}") for number in range(43)]
    first, second = batches(instances, (RLE,))
    assert (len(first.instances), len(second.instances)) == (42, 1)
    assert len(first.proposals) == 126
