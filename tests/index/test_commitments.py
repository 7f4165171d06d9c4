"""The table of storage commitments and the claims on them, on both databases."""

import threading
import time

import pytest
from sqlalchemy import update

from pacs.errors import DuplicateTransaction, OutOfResources
from pacs.index import commitments
from pacs.index.database import Index
from pacs.index.tables import commitment
from tests.databases import opened


def has_room(_counts: object) -> None:
    """Allow all transactions."""


def add(index: Index, number: int = 1, peer: str = "PEER", seconds: float = 0.0, check_limits=has_room):
    """Add a transaction, claimed for no time by default."""
    return commitments.add(index, peer, f"1.2.{number}", b"asked", seconds=seconds, check_limits=check_limits)


def make_all_due(index: Index, longest_claim: float = 60, *, renew_claims: bool = False) -> None:
    """Make all transactions due, as a start does by default."""
    commitments.make_all_due(index, longest_claim, renew_claims=renew_claims)


def turn_clock(index: Index, seconds: float) -> None:
    """Change all stored times as if the clock of the database had jumped, since that clock cannot be turned here."""
    columns = (commitment.c.requested_at, commitment.c.due_at, commitment.c.claimed_until)
    earlier = {each.name: each - round(seconds * 1_000_000) for each in columns}
    index.transact(lambda connection: connection.execute(update(commitment).values(earlier)))


def test_a_transaction_is_stored_as_given(index: Index):
    """The request, no verification yet, and the age."""
    kept = commitments.read(index, add(index, seconds=60))
    assert kept is not None
    assert (kept.requested, kept.verified, kept.attempts) == (b"asked", None, 0)
    assert 0 <= kept.age < 30


def test_a_transaction_uid_is_active_once_for_a_peer(index: Index):
    """The same peer is refused until the transaction is removed; another peer is not."""
    first = add(index)
    with pytest.raises(DuplicateTransaction):
        add(index)
    add(index, peer="OTHER")
    assert commitments.remove(index, first)
    assert not commitments.remove(index, first)
    add(index)


def test_a_transaction_beyond_the_limits_is_not_added(index: Index):
    """The check of the limits gets the number of transactions of each peer."""
    told: list[object] = []

    def refuse(counts: object) -> None:
        told.append(counts)
        raise OutOfResources("Full")

    first = add(index, 1)
    add(index, 2)
    add(index, 1, peer="OTHER")
    for _ in range(2):
        with pytest.raises(OutOfResources):
            add(index, 3, check_limits=refuse)
        commitments.remove(index, first)
    assert told == [{"PEER": 2, "OTHER": 1}, {"PEER": 1, "OTHER": 1}]


def test_peers_are_served_round_robin(index: Index):
    """In the order of their AE titles, regardless of who requested first and how much."""
    for number in range(4):
        add(index, number, peer="MANY")
    add(index, 1, peer="ANOTHER")
    add(index, 1, peer="ZEALOUS")
    add(index, 2, peer="ZEALOUS")
    turns, after = [], "MANY"
    while (claimed := commitments.claim(index, 60, after)) is not None:
        turns.append((claimed.peer, claimed.transaction_uid))
        after = claimed.peer
    assert turns == [
        ("ZEALOUS", "1.2.1"), ("ANOTHER", "1.2.1"), ("MANY", "1.2.0"), ("ZEALOUS", "1.2.2"),
        ("MANY", "1.2.1"), ("MANY", "1.2.2"), ("MANY", "1.2.3"),
    ]  # fmt: skip


def test_a_claimed_transaction_is_not_free_until_the_claim_expires(index: Index):
    """The one due longest is claimed first; renewing keeps the claim, releasing ends it."""
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
    """Six processes claim at once, and no transaction is claimed twice."""
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


def test_a_failure_postpones_all_transactions_of_a_peer(index: Index):
    """Its other transactions are postponed for the given time, those of other peers are not."""
    for number in range(3):
        add(index, number)
    add(index, 9, peer="OTHER")
    claimed = commitments.claim(index, 60)
    assert claimed is not None
    assert claimed.peer == "OTHER"
    claimed = commitments.claim(index, 60, "OTHER")
    assert claimed is not None
    commitments.postpone(index, claimed, 3600, others=1800, is_unreachable=False)
    assert commitments.claim(index, 60) is None
    assert 30 < (commitments.until_due(index) or 0) <= 60  # when the claim to that of the other runs out
    commitments.remove(index, add(index, 9, peer="THIRD"))
    make_all_due(index)
    again = commitments.claim(index, 60)
    assert again is not None
    assert (again.transaction_uid, again.attempts) == ("1.2.0", 1)


def test_the_time_until_a_transaction_is_due(index: Index):
    """None, zero, the end of a claim, the end of a pause; `make_all_due` ends the pauses."""
    assert commitments.until_due(index) is None
    add(index, seconds=100)
    assert 50 < (commitments.until_due(index) or 0) <= 100
    add(index, 2)
    assert commitments.until_due(index) == 0
    claimed = commitments.claim(index, 60)
    assert claimed is not None
    commitments.postpone(index, claimed, 1000, others=0.0, is_unreachable=False)
    assert 50 < (commitments.until_due(index) or 0) <= 100
    assert commitments.claim(index, 60) is None
    make_all_due(index)
    hastened = commitments.claim(index, 60)
    assert hastened is not None
    found = commitments.read(index, hastened)
    assert found is not None
    assert found.attempts == 1


def test_outstanding_transactions_have_a_number_and_an_age(index: Index):
    """A removed one does not count; the clock may have been turned back since."""
    assert commitments.outstanding(index) == (0, 0.0)
    first = add(index)
    add(index, 2)
    turn_clock(index, 100)
    number, age = commitments.outstanding(index)
    assert number == 2
    assert 99 < age < 160
    commitments.remove(index, first)
    assert commitments.outstanding(index)[0] == 1
    turn_clock(index, -1000)
    assert commitments.outstanding(index) == (1, 0.0)


def test_old_transactions_of_a_peer_are_removed_together(index: Index):
    """Except for those that others have claimed, and those of other peers."""
    for number in range(3):
        add(index, number)
    add(index, 8, seconds=60)
    add(index, 9, peer="OTHER")
    claimed = commitments.claim(index, 60, "OTHER")
    assert claimed is not None
    assert commitments.remove_old(index, claimed, 3600, 0) == 0
    assert commitments.remove_old(index, claimed, 0.0, 1) == 0
    time.sleep(0.001)
    assert commitments.remove_old(index, claimed, 0.0, 0) == 3
    left = commitments.claim(index, 60)
    assert left is not None
    assert left.peer == "OTHER"


def test_an_attempt_at_an_unreachable_peer_counts_for_what_it_postpones(index: Index):
    """Otherwise few of a thousand transactions would ever have enough failed attempts to be given up."""
    for number in range(2):
        add(index, number)
    claimed = commitments.claim(index, 60)
    assert claimed is not None
    commitments.postpone(index, claimed, 0.0, others=0.0, is_unreachable=True)
    again = [commitments.claim(index, 60), commitments.claim(index, 60)]
    assert [each.attempts for each in again if each is not None] == [1, 1]


def test_all_is_due_at_a_start_after_the_clock_was_turned_back(index: Index):
    """No claim lasts longer than the longest, and no request is younger than nothing."""
    claimed = add(index, 1, seconds=60)
    commitments.release(index, add(index, 2))
    turn_clock(index, -25 * 3600)
    assert (commitments.until_due(index) or 0) > 24 * 3600
    make_all_due(index, 90)
    free = commitments.claim(index, 90)
    assert free is not None
    assert free.transaction_uid == "1.2.2"
    assert commitments.claim(index, 60) is None
    assert 30 < (commitments.until_due(index) or 0) <= 90
    found = commitments.read(index, claimed)
    assert found is not None
    assert found.age < 60


@pytest.mark.parametrize("seconds", [-25 * 3600, 4 * 86400])
def test_claims_begin_again_when_the_clock_jumps(index: Index, seconds: float):
    """Those who hold one are at work: nobody else takes the transaction, whether its claim seems expired or endless."""
    claimed = add(index, 1, seconds=60)
    turn_clock(index, seconds)
    make_all_due(index, 90, renew_claims=True)
    assert commitments.claim(index, 60) is None
    assert 30 < (commitments.until_due(index) or 0) <= 90
    assert commitments.renew(index, claimed, 60)


def test_a_reused_id_is_not_mistaken_for_the_former_transaction(index: Index):
    """SQLite reuses the id of a removed row: a late acknowledgement must not remove another transaction."""
    first = add(index, 1, seconds=60)
    commitments.remove(index, first)
    second = add(index, 2, seconds=60)
    assert commitments.read(index, first) is None
    assert not commitments.remove(index, first)
    assert commitments.read(index, second) is not None
