"""The table of storage commitments: whose turn it is, on both databases."""

import threading
import time

import pytest

from pacs.errors import DuplicateTransaction, OutOfResources
from pacs.index import commitments
from pacs.index.database import Index
from tests.databases import opened


def add(index: Index, number: int = 1, peer: str = "PEER", seconds: float = 0.0, most: int = 100, of_peer: int = 100):
    """A transaction entered; claimed for no time unless told otherwise."""
    return commitments.add(index, peer, f"1.2.{number}", b"asked", seconds=seconds, most=most, most_of_peer=of_peer)


def test_a_transaction_is_kept_as_it_was_given(index: Index):
    """What was asked, that nothing was verified yet, and how old it is."""
    kept = commitments.read(index, add(index, seconds=60))
    assert kept is not None
    assert (kept.requested, kept.verified, kept.attempts) == (b"asked", None, 0)
    assert 0 <= kept.age < 30


def test_a_transaction_uid_is_active_once_for_a_peer(index: Index):
    """The same peer is refused until it is retired, another one is not."""
    first = add(index)
    with pytest.raises(DuplicateTransaction):
        add(index)
    add(index, peer="OTHER")
    assert commitments.remove(index, first)
    assert not commitments.remove(index, first)
    add(index)


def test_there_are_so_many_of_a_peer_and_in_all(index: Index):
    """Both bounds hold, and a retired transaction makes room."""
    first = add(index, 1, of_peer=2)
    add(index, 2, of_peer=2)
    with pytest.raises(OutOfResources):
        add(index, 3, of_peer=2)
    add(index, 3, peer="OTHER", most=3, of_peer=2)
    with pytest.raises(OutOfResources):
        add(index, 4, peer="THIRD", most=3)
    commitments.remove(index, first)
    add(index, 4, of_peer=2, most=3)


def test_what_is_claimed_is_nobody_elses_until_the_claim_runs_out(index: Index):
    """The one due longest comes first; renewing keeps it, releasing gives it away."""
    first, second = add(index, 1), add(index, 2)
    claimed = [commitments.claim(index, 60), commitments.claim(index, 60)]
    assert [each.transaction_uid for each in claimed if each] == [first.transaction_uid, second.transaction_uid]
    assert commitments.claim(index, 60) is None
    assert not commitments.renew(index, first, 60)
    assert commitments.read(index, first) is None
    ours = claimed[0]
    assert ours is not None
    assert commitments.renew(index, ours, 60, b"verified")
    found = commitments.read(index, ours)
    assert found is not None
    assert found.verified == b"verified"
    commitments.release(index, ours)
    again = commitments.claim(index, 0.0)
    assert again is not None
    assert (again.id, again.number) == (ours.id, ours.number + 1)
    time.sleep(0.001)
    assert commitments.claim(index, 60) is not None


def test_many_processes_claim_each_transaction_once(database_url: str):
    """Six at once, each with connections of its own, and no transaction goes to two."""
    with opened(database_url) as index:
        for number in range(12):
            add(index, number)
        claimed: list[commitments.Claim] = []

        def work() -> None:
            with opened(database_url) as own:
                while (found := commitments.claim(own, 60)) is not None:
                    claimed.append(found)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # One that saw a row taken by another may have gone early: nothing is left, and nothing was given twice.
        while (found := commitments.claim(index, 60)) is not None:
            claimed.append(found)
    assert sorted(each.transaction_uid for each in claimed) == sorted(f"1.2.{number}" for number in range(12))


def test_a_peer_that_is_gone_is_asked_once_for_all_it_waits_for(index: Index):
    """A failure of the peer puts off its other transactions too, one of a report does not."""
    for number in range(3):
        add(index, number)
    add(index, 9, peer="OTHER")
    claimed = commitments.claim(index, 60)
    assert claimed is not None
    commitments.postpone(index, claimed, 3600, all_of_peer=False)
    claimed = commitments.claim(index, 60)
    assert claimed is not None
    assert claimed.transaction_uid == "1.2.1"
    commitments.postpone(index, claimed, 3600, all_of_peer=True)
    other = commitments.claim(index, 60)
    assert other is not None
    assert other.peer == "OTHER"
    assert commitments.claim(index, 60) is None


def test_it_is_told_when_something_is_due(index: Index):
    """Nothing, at once, when a claim runs out, when a pause is over; and hastening ends the pauses."""
    assert commitments.until_due(index) is None
    add(index, seconds=100)
    assert 50 < (commitments.until_due(index) or 0) <= 100
    add(index, 2)
    assert commitments.until_due(index) == 0
    claimed = commitments.claim(index, 60)
    assert claimed is not None
    commitments.postpone(index, claimed, 1000, all_of_peer=False)
    assert 50 < (commitments.until_due(index) or 0) <= 100
    assert commitments.claim(index, 60) is None
    commitments.hasten(index)
    hastened = commitments.claim(index, 60)
    assert hastened is not None
    found = commitments.read(index, hastened)
    assert found is not None
    assert found.attempts == 1


def test_what_is_too_old_is_removed_with_the_others_of_its_peer(index: Index):
    """But for what somebody else has claimed, and what is of other peers."""
    for number in range(3):
        add(index, number)
    add(index, 8, seconds=60)
    add(index, 9, peer="OTHER")
    claimed = commitments.claim(index, 60)
    assert claimed is not None
    assert commitments.remove_old(index, claimed, 3600) == 0
    time.sleep(0.001)
    assert commitments.remove_old(index, claimed, 0.0) == 3
    left = commitments.claim(index, 60)
    assert left is not None
    assert left.peer == "OTHER"


def test_an_id_that_is_used_again_is_not_taken_for_the_former(index: Index):
    """SQLite gives the id of a removed row again: a late acknowledgement must not retire another transaction."""
    first = add(index, 1, seconds=60)
    commitments.remove(index, first)
    second = add(index, 2, seconds=60)
    assert commitments.read(index, first) is None
    assert not commitments.remove(index, first)
    assert commitments.read(index, second) is not None
