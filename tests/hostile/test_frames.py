"""Damaged frames and bombs in every transfer syntax, in a pool of real decoder processes.

`python -m tests.hostile frames` converts 10,000 damaged frames in each.
"""

from collections.abc import Iterator

import pytest

from pacs.pixels import transfer_syntaxes as syntaxes
from pacs.pixels.pool import DecoderPool
from tests.hostile import frames
from tests.hostile.bombs import bombs
from tests.hostile.frames import NATIVE, SOURCES, Totals, Trial, damaged, made, memory, valid_frames

EMPTY = 100
"""The memory of a decoder process that has done nothing yet, at most, in mebibytes."""


@pytest.fixture(scope="module")
def trial() -> Trial:
    """A trial of frames whose totals a test replaces."""
    return Trial(Totals(""))


@pytest.fixture(scope="module")
def pool(trial: Trial) -> Iterator[DecoderPool]:
    """A pool for all tests."""
    with DecoderPool(2, trial.observe) as pool:
        yield pool


def check(totals: Totals, count: int) -> None:
    """Check that every frame ended as it should, and no decoder process took more memory than it may."""
    assert totals.wrong == []
    assert totals.tried == count
    assert totals.decoder_memory < EMPTY + totals.allowed_memory


@pytest.mark.parametrize("syntax", SOURCES)
def test_frames_in_order_are_converted(trial: Trial, pool: DecoderPool, syntax: str) -> None:
    """All those of which the damaged ones are made."""
    trial.totals = Totals(syntax)
    target = syntaxes.RLE_LOSSLESS if syntax == NATIVE else NATIVE
    trial.run(pool, ((syntax, each, target) for each in valid_frames(syntax)))
    assert trial.totals.results == {"converted": len(valid_frames(syntax))}


@pytest.mark.parametrize("syntax", SOURCES)
def test_damaged_frames_harm_nothing(trial: Trial, pool: DecoderPool, syntax: str) -> None:
    """Each is converted or is an error of ours; the same frames each time."""
    trial.totals = Totals(syntax)
    trial.run(pool, damaged(syntax, 80))
    check(trial.totals, 80)


def test_bombs_are_refused_or_stopped(trial: Trial, pool: DecoderPool) -> None:
    """And this process does not grow by what they claim."""
    side, before = 1500, memory()
    trial.totals, every = Totals("bombs"), list(bombs(side, scans=60))
    trial.run(pool, ((name, each, NATIVE) for name, each in every))
    check(trial.totals, len(every))
    assert memory() - before < 200


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("syntax", SOURCES)
def test_ten_thousand_damaged_frames_harm_nothing(syntax: str) -> None:
    """In a pool of their own."""
    before = memory()
    check(frames.run(syntax, 10_000), 10_000)
    assert memory() - before < 100


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("side", "scans"), [(6000, 100_000), (16_000, 100)])
def test_large_bombs_are_refused_or_stopped(side: int, scans: int) -> None:
    """One at a time: many scans take the time that they may, and the largest frames the memory."""
    trial, count = Trial(Totals("bombs")), 0
    with DecoderPool(1, trial.observe) as pool:
        for name, each in bombs(side, scans):
            trial.run(pool, [(name, each, NATIVE)])
            count += 1
    check(trial.totals, count)


def test_the_same_seed_makes_the_same_frames() -> None:
    """In every transfer syntax."""
    for syntax in SOURCES:
        assert [made(syntax, number) for number in range(20)] == [made(syntax, number) for number in range(20)]
        assert made(syntax, 1) != made(syntax, 1, "another seed")
