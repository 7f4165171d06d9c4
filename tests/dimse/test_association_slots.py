"""Association slots: counted over all workers, released for dead ones."""

import subprocess
import sys

import pytest

from pacs.dimse.server.association_slots import AssociationBounds, AssociationSlots, WorkerSlots
from pacs.errors import TooManyAssociations


def take(
    worker: WorkerSlots, most: int = 100, address: str = "10.0.0.1", ae_title: str = "WS", **bounds: int
) -> int | None:
    """Return the slot that an association gets, None without one."""
    try:
        return worker.take(AssociationBounds(in_all=most, **bounds), address, ae_title)
    except TooManyAssociations:
        return None


def test_the_limit_counts_the_slots_of_all_workers():
    """Any worker may take a released slot."""
    slots = AssociationSlots(workers=2)
    one, two = slots.of(0), slots.of(1)
    assert [take(each, 3) for each in (one, two, one, two, one)] == [0, 1, 2, None, None]
    one.release(0)
    assert [take(two, 3), take(one, 3)] == [0, None]


def test_the_slots_of_one_address_and_one_ae_title_are_limited():
    """Over all workers; other addresses and AE titles are not affected."""
    slots = AssociationSlots(workers=2)
    one, two = slots.of(0), slots.of(1)
    here = {"per_address": 2, "per_ae": 3}
    first = take(one, address="10.0.0.1", ae_title="A", **here)
    assert first is not None
    assert take(two, address="10.0.0.1", ae_title="A", **here) is not None
    assert take(one, address="10.0.0.1", ae_title="B", **here) is None
    assert take(two, address="10.0.0.2", ae_title="A", **here) is not None
    assert take(one, address="10.0.0.3", ae_title="A", **here) is None
    one.release(first)
    assert take(two, address="10.0.0.1", ae_title="A", **here) is not None


@pytest.mark.parametrize(
    ("bounds", "key"),
    [
        (AssociationBounds(in_all=1), "limits.associations allows 1"),
        (AssociationBounds(per_address=1), "limits.associations_per_address allows 1"),
        (AssociationBounds(per_ae=1), "limits.associations_per_ae allows 1"),
    ],
)
def test_the_error_names_the_limit(bounds, key):
    """By the key of the configuration."""
    worker = AssociationSlots().of(0)
    worker.take(bounds, "10.0.0.1", "WS")
    with pytest.raises(TooManyAssociations, match=key):
        worker.take(bounds, "10.0.0.1", "WS")


def test_the_slots_of_a_dead_worker_are_released():
    """And its connections count no more."""
    slots = AssociationSlots(workers=2)
    dead, living = slots.of(0), slots.of(1)
    dead.set_serving(True)
    assert take(dead, 2) == 0
    assert take(dead, 2) == 1
    living.set_counts(connections=1, unassociated=0)
    assert living.is_ahead
    slots.free(0)
    assert not living.is_ahead
    assert take(living, 2) == 0


def test_a_worker_with_more_connections_than_another_is_ahead():
    """Only workers that accept connections are compared."""
    slots = AssociationSlots(workers=3)
    one, two, _ = workers = [slots.of(each) for each in range(3)]
    one.set_serving(True)
    two.set_serving(True)
    one.set_counts(connections=2, unassociated=0)
    two.set_counts(connections=1, unassociated=1)
    assert [each.is_ahead for each in workers] == [True, False, False]
    two.set_serving(False)
    assert not one.is_ahead


def test_connections_without_an_association_are_counted_over_all_workers():
    """If there are too many, only a worker with more than its share must close some."""
    slots = AssociationSlots(workers=2)
    one, two = slots.of(0), slots.of(1)
    one.set_counts(connections=9, unassociated=9)
    assert not one.has_too_many(10)
    two.set_counts(connections=2, unassociated=2)
    assert one.has_too_many(10)
    assert not two.has_too_many(10)


DYING = """
import os, signal
from pacs.dimse.server.association_slots import AssociationBounds, AssociationSlots
slots = AssociationSlots(workers=2)
holds, told = os.pipe()
pid = os.fork()
if pid == 0:
    with slots.locked():
        slots.of(0).set_serving(True)
        os.write(told, b"!")
        signal.pause()
os.read(holds, 1)
os.kill(pid, signal.SIGKILL)
assert slots.of(1).take(AssociationBounds(in_all=5), "10.0.0.1", "WS") == 0
os.waitpid(pid, 0)
"""


def test_a_process_that_dies_with_the_lock_blocks_no_other():
    """The kernel releases the lock."""
    subprocess.run([sys.executable, "-c", DYING], check=True, timeout=30)
