"""The transactions of storage commitment that are active, and whose turn it is to work on one.

Several processes, and several servers on one PostgreSQL, share the table. Who works on a transaction has claimed it for
a while, and renews the claim as long as the work goes on; a claim that has run out is anybody's. A transaction that was
reported, or given up, is removed: its Transaction UID is retired then.

Times that are compared are those of one clock, the database's. Seconds come in, microseconds are stored.
"""

import time
from collections.abc import Callable
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

from pacs.errors import DuplicateTransaction, OutOfResources
from pacs.index.database import Index
from pacs.index.tables import commitment

MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Claim:
    """A transaction that is ours to work on, until the claim runs out. `number` tells it from other claims to it."""

    id: int
    number: int
    peer: str
    transaction_uid: str


@dataclass(frozen=True, slots=True)
class Transaction:
    """What is known of a transaction: `requested` and `verified` as they were given, None before it was verified.

    `age` is in seconds; `attempts` counts the reports that failed.
    """

    requested: bytes
    verified: bytes | None
    age: float
    attempts: int


def add(
    index: Index, peer: str, transaction_uid: str, requested: bytes, *, seconds: float, most: int, most_of_peer: int
) -> Claim:
    """Enter a transaction, durably, and claim it for some seconds.

    Raises DuplicateTransaction when the peer has one under this UID, OutOfResources when there are as many as there
    may be, of this peer or in all, IndexUnavailable.
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
        _require_room(connection, most_of_peer, commitment.c.peer == peer)
        _require_room(connection, most)
        now = _now(connection)
        times = {"requested_at": now, "due_at": now, "claimed_until": now + _microseconds(seconds)}
        entered: int = connection.execute(insert(commitment).returning(commitment.c.id), values | times).scalar_one()
        return entered

    return Claim(index.transact(work), 1, peer, transaction_uid)


def claim(index: Index, seconds: float) -> Claim | None:
    """Claim for some seconds what has been due longest; None when nothing is. Raises IndexUnavailable."""

    def work(connection: Connection) -> Claim | None:
        now = _now(connection)
        due = (
            select(commitment.c.id)
            .where(commitment.c.due_at <= now, _is_free(now))
            .order_by(commitment.c.due_at, commitment.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        found = connection.execute(
            update(commitment)
            .where(commitment.c.id == due.scalar_subquery())
            .values(claim=commitment.c.claim + 1, claimed_until=now + _microseconds(seconds))
            .returning(commitment.c.id, commitment.c.claim, commitment.c.peer, commitment.c.transaction_uid)
        ).first()
        return Claim(*found) if found is not None else None

    return index.transact(work)


def until_due(index: Index) -> float | None:
    """Seconds until a transaction is due and free, None when there is none. Raises IndexUnavailable."""
    due_at, claimed_until = commitment.c.due_at, commitment.c.claimed_until
    when = case((claimed_until > due_at, claimed_until), else_=due_at)
    with index.read() as connection:
        first: int | None = connection.execute(select(func.min(when))).scalar()
        now = _now(connection)
    return max(0.0, (first - now) / MICROSECONDS) if first is not None else None


def read(index: Index, claimed: Claim) -> Transaction | None:
    """The transaction of a claim, None when it is removed, or somebody else's meanwhile. Raises IndexUnavailable."""
    columns = (commitment.c.requested, commitment.c.verified, commitment.c.requested_at, commitment.c.attempts)
    with index.read() as connection:
        found = connection.execute(select(*columns).where(_is(claimed))).mappings().first()
        now = _now(connection)
    return _transaction(found, now) if found is not None else None


def renew(index: Index, claimed: Claim, seconds: float, verified: bytes | None = None) -> bool:
    """Claim on for some seconds from now, and note what was `verified`; whether the claim still held.

    Raises IndexUnavailable.
    """
    noted = {"verified": verified} if verified is not None else {}
    return _change(index, claimed, lambda now: {"claimed_until": now + _microseconds(seconds)} | noted)


def release(index: Index, claimed: Claim) -> None:
    """Let anybody claim it, at once. Raises IndexUnavailable."""
    _change(index, claimed, lambda _now: {"claimed_until": None})


def postpone(index: Index, claimed: Claim, seconds: float, *, all_of_peer: bool) -> None:
    """Let anybody claim it in some seconds: a report failed. Raises IndexUnavailable.

    With `all_of_peer` no other transaction of the peer is due before: one attempt tells about all.
    """

    def work(connection: Connection) -> None:
        due_at = _now(connection) + _microseconds(seconds)
        later = {"due_at": due_at, "claimed_until": None, "attempts": commitment.c.attempts + 1}
        connection.execute(update(commitment).where(_is(claimed)).values(later))
        if all_of_peer:
            others = (commitment.c.peer == claimed.peer, commitment.c.due_at < due_at)
            connection.execute(update(commitment).where(*others).values(due_at=due_at))

    index.transact(work)


def remove(index: Index, claimed: Claim) -> bool:
    """Forget a transaction, whoever has claimed it meanwhile; whether it was still there. Raises IndexUnavailable."""
    named = (
        commitment.c.id == claimed.id,
        commitment.c.peer == claimed.peer,
        commitment.c.transaction_uid == claimed.transaction_uid,
    )
    return bool(index.transact(lambda connection: connection.execute(delete(commitment).where(*named)).rowcount))


def remove_old(index: Index, claimed: Claim, seconds: float) -> int:
    """Forget the transactions of a claim's peer that are older than some seconds and claimed by nobody else.

    How many these were. Raises IndexUnavailable.
    """

    def work(connection: Connection) -> int:
        now = _now(connection)
        old = (commitment.c.peer == claimed.peer, commitment.c.requested_at < now - _microseconds(seconds))
        ours_or_free = or_(_is(claimed), _is_free(now))
        return connection.execute(delete(commitment).where(*old, ours_or_free)).rowcount

    return index.transact(work)


def hasten(index: Index) -> None:
    """Have all that wait for another attempt be due now. Raises IndexUnavailable."""

    def work(connection: Connection) -> None:
        now = _now(connection)
        connection.execute(update(commitment).where(commitment.c.due_at > now).values(due_at=now))

    index.transact(work)


# --- small parts -------------------------------------------------------------------------------------------------


def _now(connection: Connection) -> int:
    if connection.dialect.name == "sqlite":
        return time.time_ns() // 1000
    epoch = extract("epoch", func.clock_timestamp())
    now: int = connection.execute(select(cast(epoch * MICROSECONDS, BigInteger))).scalar_one()
    return now


def _microseconds(seconds: float) -> int:
    return round(seconds * MICROSECONDS)


def _is(claimed: Claim) -> ColumnElement[bool]:
    """The row of a claim that still holds: nobody else has it, and it was not given back."""
    return and_(
        commitment.c.id == claimed.id,
        commitment.c.claim == claimed.number,
        commitment.c.transaction_uid == claimed.transaction_uid,  # an id of SQLite's may be used again
        commitment.c.claimed_until.is_not(None),
    )


def _is_free(now: int) -> ColumnElement[bool]:
    return or_(commitment.c.claimed_until.is_(None), commitment.c.claimed_until <= now)


def _change(index: Index, claimed: Claim, values: Callable[[int], dict[str, Any]]) -> bool:
    def work(connection: Connection) -> bool:
        changed = update(commitment).where(_is(claimed)).values(values(_now(connection)))
        return bool(connection.execute(changed).rowcount)

    return index.transact(work)


def _transaction(row: RowMapping, now: int) -> Transaction:
    return Transaction(
        requested=row["requested"],
        verified=row["verified"],
        age=(now - row["requested_at"]) / MICROSECONDS,
        attempts=row["attempts"],
    )


def _require_new(connection: Connection, peer: str, transaction_uid: str) -> None:
    same = (commitment.c.peer == peer, commitment.c.transaction_uid == transaction_uid)
    if connection.execute(select(commitment.c.id).where(*same)).first() is not None:
        raise DuplicateTransaction("A transaction with this Transaction UID is under way")


def _require_room(connection: Connection, most: int, *which: ColumnElement[bool]) -> None:
    count: int = connection.execute(select(func.count()).select_from(commitment).where(*which)).scalar_one()
    if count >= most:
        raise OutOfResources("Too many transactions wait for their report: try again later")
