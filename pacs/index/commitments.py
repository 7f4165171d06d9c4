"""The active transactions of storage commitment, and the claims on them.

Several processes, and several servers on one PostgreSQL, share the table. A worker claims a transaction for a limited
time and renews the claim while it works; an expired claim is free. A transaction is removed when it was reported or
abandoned.

All compared times are of one clock, that of the database. Arguments are in seconds, stored times in microseconds. The
clock may jump: `make_all_due` mends what is stored then.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    case,
    cast,
    delete,
    extract,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from pacs.errors import DuplicateTransaction
from pacs.index.database import Index
from pacs.index.tables import commitment

MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim on a transaction, valid until it expires. `number` distinguishes it from other claims on the transaction.

    `attempts` is the number of reports that had failed when it was claimed.
    """

    id: int
    number: int
    peer: str
    transaction_uid: str
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction: `requested` and `verified` as they were given; `verified` is None before verification.

    `age` is in seconds; `attempts` is the number of reports that failed, with those not tried at an unreachable peer.
    """

    requested: bytes
    verified: bytes | None
    age: float
    attempts: int


def add(
    index: Index,
    peer: str,
    transaction_uid: str,
    requested: bytes,
    *,
    seconds: float,
    check_limits: Callable[[Mapping[str, int]], None],
) -> Claim:
    """Add a transaction durably, and claim it for some seconds.

    `check_limits` gets the number of transactions of each peer, and raises when no more are allowed. Raises its errors,
    DuplicateTransaction when the peer has one with this UID, IndexUnavailable.
    """
    values = {
        "peer": peer,
        "transaction_uid": transaction_uid,
        "requested": requested,
        "claim": 1,
        "attempts": 0,
    }

    def work(connection: Connection) -> int:
        _require_new(connection, peer, transaction_uid)
        check_limits(_counts(connection))
        now = _now(connection)
        times = {"requested_at": now, "due_at": now, "claimed_until": now + _microseconds(seconds)}
        entered: int = connection.execute(insert(commitment).returning(commitment.c.id), values | times).scalar_one()
        return entered

    return Claim(index.transact(work), 1, peer, transaction_uid)


def claim(index: Index, seconds: float, after: str = "") -> Claim | None:
    """Claim the transaction of the next peer that has been due longest, for some seconds; None when none is due.

    Peers are served round robin in the order of their AE titles: the next is the first with a due transaction whose
    title comes after `after`. Raises IndexUnavailable.
    """

    def work(connection: Connection) -> Claim | None:
        now = _now(connection)
        for peer in _peers_due(connection, now, after):
            found = connection.execute(_claim_statement(peer, now, now + _microseconds(seconds))).first()
            if found is not None:
                return Claim(*found)
        return None

    return index.transact(work)


def until_due(index: Index) -> float | None:
    """Return the seconds until a transaction is due and free, None without any. Raises IndexUnavailable."""
    due_at, claimed_until = commitment.c.due_at, commitment.c.claimed_until
    when = case((claimed_until > due_at, claimed_until), else_=due_at)
    with index.read() as connection:
        first: int | None = connection.execute(select(func.min(when))).scalar()
        now = _now(connection)
    return max(0.0, (first - now) / MICROSECONDS) if first is not None else None


def outstanding(index: Index) -> tuple[int, float]:
    """Return the number of transactions, and the age of the oldest in seconds or 0. Raises IndexUnavailable."""
    with index.read() as connection:
        number, oldest = connection.execute(select(func.count(), func.min(commitment.c.requested_at))).one()
        now = _now(connection)
    return number, max(0.0, (now - oldest) / MICROSECONDS) if oldest is not None else 0.0


def read(index: Index, claimed: Claim) -> Transaction | None:
    """Return the transaction of a claim, None when it was removed or claimed by another. Raises IndexUnavailable."""
    columns = (commitment.c.requested, commitment.c.verified, commitment.c.requested_at, commitment.c.attempts)
    with index.read() as connection:
        found = connection.execute(select(*columns).where(_is_valid(claimed))).mappings().first()
        now = _now(connection)
    return _transaction(found, now) if found is not None else None


def renew(index: Index, claimed: Claim, seconds: float, verified: bytes | None = None) -> bool:
    """Renew a claim for some seconds from now and store `verified`; return whether the claim was still valid.

    Raises IndexUnavailable.
    """
    noted = {"verified": verified} if verified is not None else {}
    return _change(index, claimed, lambda now: {"claimed_until": now + _microseconds(seconds)} | noted)


def release(index: Index, claimed: Claim) -> None:
    """Release a claim, so that the transaction is free at once. Raises IndexUnavailable."""
    _change(index, claimed, lambda _now: {"claimed_until": None})


def postpone(index: Index, claimed: Claim, seconds: float, *, others: float, is_unreachable: bool) -> None:
    """Release a claim after a failed report; the transaction is due again in some seconds. Raises IndexUnavailable.

    No other transaction of the peer is due before `others` seconds from now. If the peer `is_unreachable`, the attempt
    counts for those too that are postponed by this.
    """

    def work(connection: Connection) -> None:
        now = _now(connection)
        later = {"due_at": now + _microseconds(seconds), "claimed_until": None, "attempts": commitment.c.attempts + 1}
        connection.execute(update(commitment).where(_is_valid(claimed)).values(later))
        due_at = now + _microseconds(others)
        of_peer = (commitment.c.peer == claimed.peer, commitment.c.id != claimed.id, commitment.c.due_at < due_at)
        failed = commitment.c.attempts + int(is_unreachable)
        connection.execute(update(commitment).where(*of_peer).values(due_at=due_at, attempts=failed))

    index.transact(work)


def remove(index: Index, claimed: Claim) -> bool:
    """Remove a transaction, also when another has claimed it; return whether it existed. Raises IndexUnavailable."""
    named = (
        commitment.c.id == claimed.id,
        commitment.c.peer == claimed.peer,
        commitment.c.transaction_uid == claimed.transaction_uid,
    )
    return bool(index.transact(lambda connection: connection.execute(delete(commitment).where(*named)).rowcount))


def remove_old(index: Index, claimed: Claim, seconds: float, attempts: int) -> int:
    """Remove the transactions of a claim's peer that are older than some seconds and not claimed by others.

    Only those are removed that have had some attempts. Returns their number. Raises IndexUnavailable.
    """

    def work(connection: Connection) -> int:
        now = _now(connection)
        old = and_(commitment.c.requested_at < now - _microseconds(seconds), commitment.c.attempts >= attempts)
        ours_or_free = or_(_is_valid(claimed), _is_free(now))
        found = delete(commitment).where(commitment.c.peer == claimed.peer, old, ours_or_free)
        return connection.execute(found).rowcount

    return index.transact(work)


def make_all_due(index: Index, longest_claim: float, *, renew_claims: bool) -> None:
    """Make all transactions that wait for another attempt due now. Raises IndexUnavailable.

    The clock may have jumped since their times were stored: no request is from the future then, and no claim lasts
    longer than `longest_claim` seconds from now. With `renew_claims` each lasts that long, also one that has expired.
    """

    def work(connection: Connection) -> None:
        now = _now(connection)
        until = now + _microseconds(longest_claim)
        of = commitment.c
        for column, latest in ((of.requested_at, now), (of.due_at, now), (of.claimed_until, until)):
            connection.execute(update(commitment).where(column > latest).values({column: latest}))
        if renew_claims:
            connection.execute(update(commitment).where(of.claimed_until.is_not(None)).values(claimed_until=until))

    index.transact(work)


def clock(index: Index) -> float:
    """Return the time of the database in seconds since 1970. Raises IndexUnavailable."""
    with index.read() as connection:
        return _now(connection) / MICROSECONDS


# --- helpers -------------------------------------------------------------------------------------------------


def _now(connection: Connection) -> int:
    if connection.dialect.name == "sqlite":
        return time.time_ns() // 1000
    epoch = extract("epoch", func.clock_timestamp())
    now: int = connection.execute(select(cast(epoch * MICROSECONDS, BigInteger))).scalar_one()
    return now


def _microseconds(seconds: float) -> int:
    return round(seconds * MICROSECONDS)


def _is_valid(claimed: Claim) -> ColumnElement[bool]:
    """Return the condition that a claim is still valid: not claimed by another, and not released."""
    return and_(
        commitment.c.id == claimed.id,
        commitment.c.claim == claimed.number,
        commitment.c.transaction_uid == claimed.transaction_uid,  # SQLite may use an id again
        commitment.c.claimed_until.is_not(None),
    )


def _is_free(now: int) -> ColumnElement[bool]:
    return or_(commitment.c.claimed_until.is_(None), commitment.c.claimed_until <= now)


def _change(index: Index, claimed: Claim, values: Callable[[int], dict[str, Any]]) -> bool:
    def work(connection: Connection) -> bool:
        changed = update(commitment).where(_is_valid(claimed)).values(values(_now(connection)))
        return bool(connection.execute(changed).rowcount)

    return index.transact(work)


def _transaction(row: RowMapping, now: int) -> Transaction:
    return Transaction(
        requested=row["requested"],
        verified=row["verified"],
        age=max(0.0, (now - row["requested_at"]) / MICROSECONDS),
        attempts=row["attempts"],
    )


def _require_new(connection: Connection, peer: str, transaction_uid: str) -> None:
    same = (commitment.c.peer == peer, commitment.c.transaction_uid == transaction_uid)
    if connection.execute(select(commitment.c.id).where(*same)).first() is not None:
        raise DuplicateTransaction("A transaction with this Transaction UID is active")


def _counts(connection: Connection) -> dict[str, int]:
    counted = select(commitment.c.peer, func.count()).group_by(commitment.c.peer)
    return {row[0]: row[1] for row in connection.execute(counted)}


def _peers_due(connection: Connection, now: int, after: str) -> list[str]:
    """Return the peers with due transactions, which may be claimed, in round-robin order."""
    due = select(commitment.c.peer).where(commitment.c.due_at <= now).distinct()
    peers = sorted(connection.execute(due).scalars())
    return [each for each in peers if each > after] + [each for each in peers if each <= after]


def _claim_statement(peer: str, now: int, until: int) -> ReturningUpdate[Any]:
    """Return a statement that claims the transaction of a peer that has been due longest."""
    due = (
        select(commitment.c.id)
        .where(commitment.c.peer == peer, commitment.c.due_at <= now, _is_free(now))
        .order_by(commitment.c.due_at, commitment.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    columns = (commitment.c.id, commitment.c.claim, commitment.c.peer, commitment.c.transaction_uid)
    return (
        update(commitment)
        .where(commitment.c.id == due.scalar_subquery())
        .values(claim=commitment.c.claim + 1, claimed_until=until)
        .returning(*columns, commitment.c.attempts)
    )
