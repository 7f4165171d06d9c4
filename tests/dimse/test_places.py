"""Places: counted over all workers, given back for the dead."""

import subprocess
import sys

from pacs.dimse.places import Places


def test_there_are_no_more_places_than_all_workers_have_together():
    """Whoever takes them; one that is given back is there for everybody."""
    places = Places(3, workers=2)
    one, two = places.of(0), places.of(1)
    assert [one.take(), two.take(), one.take(), two.take(), one.take()] == [True, True, True, False, False]
    one.give_back()
    assert [two.take(), one.take()] == [True, False]


def test_what_a_dead_worker_had_taken_is_free_again():
    """And it counts no more among those who serve."""
    places = Places(2, workers=2)
    dead, living = places.of(0), places.of(1)
    dead.serve(True)
    assert dead.take()
    assert dead.take()
    living.count(connections=1, unassociated=0)
    assert living.is_ahead
    places.free(0)
    assert not living.is_ahead
    assert living.take()


def test_who_has_more_connections_than_another_one_that_serves_is_ahead():
    """Who serves nobody yet, or no more, is left out; who is alone is never ahead."""
    places = Places(10, workers=3)
    one, two, _ = shares = [places.of(each) for each in range(3)]
    one.serve(True)
    two.serve(True)
    one.count(connections=2, unassociated=0)
    two.count(connections=1, unassociated=1)
    assert [each.is_ahead for each in shares] == [True, False, False]
    two.serve(False)
    assert not one.is_ahead


def test_the_connections_without_an_association_are_those_of_all_workers():
    """When there are too many, those give up some who have more than their part of them."""
    places = Places(10, workers=2)
    one, two = places.of(0), places.of(1)
    one.count(connections=9, unassociated=9)
    assert not one.has_too_many(10)
    two.count(connections=2, unassociated=2)
    assert one.has_too_many(10)
    assert not two.has_too_many(10)


DYING = """
import os, signal
from pacs.dimse.places import Places
places = Places(5, workers=2)
holds, told = os.pipe()
pid = os.fork()
if pid == 0:
    with places.guarded():
        places.of(0).serve(True)
        os.write(told, b"!")
        signal.pause()
os.read(holds, 1)
os.kill(pid, signal.SIGKILL)
assert places.of(1).take()
os.waitpid(pid, 0)
"""


def test_a_process_that_dies_while_it_counts_keeps_nobody_out():
    """The kernel takes its lock from it."""
    subprocess.run([sys.executable, "-c", DYING], check=True, timeout=30)
