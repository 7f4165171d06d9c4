"""The transactions of storage commitment that are active, and whose turn it is to work on one.

Several processes, and several servers on one PostgreSQL, share the table. Who works on a transaction has claimed it for
a while, and renews the claim as long as the work goes on; a claim that has run out is anybody's. A transaction that was
reported, or given up, is removed: its Transaction UID is retired then.

Times that are compared are those of one clock, the database's. Seconds come in, microseconds are stored.
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
    """A transaction that is ours to work on, until the claim runs out. `number` tells it from other claims to it.

    `attempts` counts the reports that had failed when it was claimed.
    """

    id: int
    number: int
    peer: str
    transaction_uid: str
    attempts: int = 0


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
    index: Index,
    peer: str,
    transaction_uid: str,
    requested: bytes,
    *,
    seconds: float,
    require_room: Callable[[Mapping[str, int]], None],
) -> Claim:
    """Enter a transaction, durably, and claim it for some seconds.

    `require_room` is given how many transactions each peer has, and raises when there may be no more. Raises what it
    does, DuplicateTransaction when the peer has one under this UID, IndexUnavailable.
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
        require_room(_counts(connection))
        now = _now(connection)
        times = {"requested_at": now, "due_at": now, "claimed_until": now + _microseconds(seconds)}
        entered: int = connection.execute(insert(commitment).returning(commitment.c.id), values | times).scalar_one()
        return entered

    return Claim(index.transact(work), 1, peer, transaction_uid)


def claim(index: Index, seconds: float, after: str = "") -> Claim | None:
    """Claim for some seconds what has been due longest of the peer whose turn it is; None when nothing is due.

    The peers' turn goes by their titles, and round again: it is that of the first `after` this one which has something
    due. Raises IndexUnavailable.
    """

    def work(connection: Connection) -> Claim | None:
        now = _now(connection)
        for peer in _peers_due(connection, now, after):
            found = connection.execute(_claiming(peer, now, now + _microseconds(seconds))).first()
            if found is not None:
                return Claim(*found)
        return None

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


def postpone(index: Index, claimed: Claim, seconds: float, *, others: float) -> None:
    """Let anybody claim it in some seconds: a report failed. Raises IndexUnavailable.

    No other transaction of the peer is due before `others` seconds are over.
    """

    def work(connection: Connection) -> None:
        now = _now(connection)
        later = {"due_at": now + _microseconds(seconds), "claimed_until": None, "attempts": commitment.c.attempts + 1}
        connection.execute(update(commitment).where(_is(claimed)).values(later))
        due_at = now + _microseconds(others)
        of_peer = (commitment.c.peer == claimed.peer, commitment.c.id != claimed.id, commitment.c.due_at < due_at)
        connection.execute(update(commitment).where(*of_peer).values(due_at=due_at))

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


def _counts(connection: Connection) -> dict[str, int]:
    counted = select(commitment.c.peer, func.count()).group_by(commitment.c.peer)
    return {row[0]: row[1] for row in connection.execute(counted)}


def _peers_due(connection: Connection, now: int, after: str) -> list[str]:
    """The peers with transactions that are due, though maybe claimed, in the order of their turns."""
    due = select(commitment.c.peer).where(commitment.c.due_at <= now).distinct()
    peers = sorted(connection.execute(due).scalars())
    return [each for each in peers if each > after] + [each for each in peers if each <= after]


def _claiming(peer: str, now: int, until: int) -> ReturningUpdate[Any]:
    """Claims what has been due longest of a peer, if anything is."""
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
