"""The checklist of Query/Retrieve as a black box: what any server does, asked from outside (`pacs conformance run`).

Small instances are stored under Patient IDs of a prefix; each check asks one thing, on associations of its own, and
says what it saw. Nothing is deleted or changed that was there, and nothing is known of the server but its answers.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pacs.conformance.checks import (
    cancelling,
    committing,
    finding,
    getting,
    matching,
    moving,
    negotiation,
    storage,
    texts,
    wire,
)
from pacs.conformance.checks.association import Ended, Peer, Rejected, Unreachable
from pacs.conformance.checks.bench import Bench, store
from pacs.conformance.checks.receiver import Receiver
from pacs.conformance.checks.specimens import Specimen, Specimens
from pacs.conformance.checks.verdicts import Check, CouldNotAsk, Kind, NotOffered, Verdict, deviates
from pacs.conformance.checks.wire import Malformed

__all__ = [
    "CHECKS",
    "Check",
    "Column",
    "Kind",
    "Peer",
    "Receiver",
    "Specimens",
    "Unreachable",
    "Verdict",
    "examine",
    "introduced",
    "selected",
]

CHECKS: list[Check] = [
    check
    for theme in (negotiation, storage, finding, matching, texts, moving, getting, cancelling, committing)
    for check in theme.CHECKS
]
"""All that is asked, in this order."""

MOST_SILENT = 3
"""After how many checks in a row behind which it answers nothing a server is asked no more."""

LOOK_AGAIN = 0.2
"""Seconds between two looks whether the specimens are found."""

GONE = Verdict(Kind.NOT_ASKED, "the server answers no more")

OnCheck = Callable[[Check, Verdict], None]


@dataclass
class Column:
    """What came of the checks on one server, and what it calls itself."""

    peer: Peer
    implementation: str = ""
    """Its Implementation Version Name, '' when it sends none."""
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    """By the ID of the check."""

    def count(self, kind: Kind) -> int:
        """How many checks came to this kind of verdict."""
        return sum(each.kind is kind for each in self.verdicts.values())


def examine(
    peer: Peer,
    specimens: Specimens,
    receiving: tuple[str, int] | None = None,
    *,
    checks: Sequence[Check] = tuple(CHECKS),
    on_check: OnCheck | None = None,
) -> Column:
    """Ask a server all checks; `receiving` are AE title and port (0 is any) of our receiver.

    Raises Unreachable when no association comes about at all, and OSError when the receiver's port is taken.
    """
    bench = Bench(peer, specimens)
    column = Column(peer, introduced(peer))
    with _receiver(bench, receiving):
        furnish(bench)
        settle(bench)
        silent = 0
        for check in checks:
            verdict = _asked(check, bench) if silent < MOST_SILENT else GONE
            column.verdicts[check.id] = verdict
            silent = 0 if _is_answer(verdict) or (silent < MOST_SILENT and _lives(peer)) else silent + 1
            if on_check is not None:
                on_check(check, verdict)
    return column


def _is_answer(verdict: Verdict) -> bool:
    """Whether the server must have been there."""
    return verdict.kind in (Kind.CONFORMS, Kind.FREE, Kind.NOT_OFFERED)


def _lives(peer: Peer) -> bool:
    try:
        introduced(peer)
    except Unreachable:
        return False
    return True


@contextmanager
def _receiver(bench: Bench, receiving: tuple[str, int] | None) -> Iterator[None]:
    """Give a bench its receiver, listening where the server is reached from, if there is to be one."""
    if receiving is None:
        yield
        return
    title, port = receiving
    with bench.peer.connect() as line:
        host = line.socket.getsockname()[0]
    with Receiver(title, host, port, bench.specimens.root, bench.peer.patience) as bench.receiver:
        yield


def introduced(peer: Peer) -> str:
    """The Implementation Version Name of a server. Raises Unreachable."""
    try:
        with peer.associate([wire.VERIFICATION]) as association:
            return association.answer.implementation
    except Rejected as error:
        raise Unreachable(f"{peer}: {error}; our AE title is {peer.calling}") from error
    except (Ended, Malformed) as error:
        raise Unreachable(f"{peer}: {error}") from error


def _asked(check: Check, bench: Bench) -> Verdict:
    """The verdict of a check, whatever the server does meanwhile."""
    try:
        return check.ask(bench)
    except NotOffered as error:
        return Verdict(Kind.NOT_OFFERED, str(error))
    except CouldNotAsk as error:
        return Verdict(Kind.NOT_ASKED, str(error))
    except (Unreachable, Rejected) as error:
        return Verdict(Kind.NOT_ASKED, f"no association: {error}")
    except (Ended, Malformed) as error:
        return deviates(str(error))
    except Exception as error:  # whatever a server makes us stumble over must not end the run
        return Verdict(Kind.NOT_ASKED, f"the run itself stumbled: {error!r}")


# --- the specimens -------------------------------------------------------------------------------------------------


def furnish(bench: Bench) -> None:
    """Store the specimens; the status of each comes into `bench.stored`, and nothing where it was not taken."""
    for pair in sorted({(each.sop_class, each.syntax) for each in bench.specimens}):
        remaining = [each for each in bench.specimens if (each.sop_class, each.syntax) == pair]
        while remaining:
            try:
                _store(bench, remaining)
            except (Ended, Malformed):
                continue
            except (Unreachable, Rejected, NotOffered):
                break


def _store(bench: Bench, remaining: list[Specimen]) -> None:
    """Store instances of one SOP Class and transfer syntax, each taken from the list before it is tried."""
    with bench.peer.associate([(remaining[0].sop_class, (remaining[0].syntax,))]) as association:
        association.context(remaining[0].sop_class)
        while remaining:
            specimen = remaining.pop(0)
            bench.stored[specimen.uid] = store(association, specimen).status


def settle(bench: Bench) -> None:
    """Wait until the specimens that were stored last are found, for servers that answer before they index."""
    deadline = time.monotonic() + bench.peer.patience
    study = {"StudyInstanceUID": bench.specimens.uid("9"), "SeriesInstanceUID": bench.specimens.uid("9", 1)}
    due = sum(each.uid in bench.stored for each in bench.specimens.study("9"))
    with suppress(NotOffered, Unreachable, Rejected, Ended, Malformed):
        while due and len(bench.find("IMAGE", study).ours) < due and time.monotonic() < deadline:
            time.sleep(LOOK_AGAIN)


def selected(words: Iterable[str]) -> list[Check]:
    """The checks that are meant by IDs or themes, all where none are given. Raises KeyError for another word."""
    wanted = set(words)
    for word in wanted - {each.id for each in CHECKS} - {each.theme for each in CHECKS}:
        raise KeyError(word)
    return [each for each in CHECKS if not wanted or {each.id, each.theme} & wanted]
