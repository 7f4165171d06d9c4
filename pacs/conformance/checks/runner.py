"""Running the checks against a server.

Small instances are stored under Patient IDs with a prefix. Each check tests one thing on associations of its own and
reports what it saw. Existing data on the server is neither deleted nor changed, and only its responses are looked at.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pacs.conformance.checks import (
    cancelling,
    character_sets,
    commitment,
    finding,
    getting,
    matching,
    moving,
    negotiation,
    storage,
    wire,
)
from pacs.conformance.checks.association import AssociateRejected, CheckedServer, NoResponse, Unreachable
from pacs.conformance.checks.results import Check, CheckImpossible, CheckResult, NotOffered, ResultKind, deviates
from pacs.conformance.checks.sample_data import SampleData, SampleInstance
from pacs.conformance.checks.storage_scp import SampleReceiver
from pacs.conformance.checks.toolkit import Toolkit, store
from pacs.conformance.checks.wire import Malformed

CHECKS: list[Check] = [
    check
    for theme in (negotiation, storage, finding, matching, character_sets, moving, getting, cancelling, commitment)
    for check in theme.CHECKS
]
"""All checks, in the order in which they run."""

MOST_SILENT = 3
"""After this many checks in a row that find the server gone, the remaining checks are skipped."""

POLL_INTERVAL = 0.2
"""Seconds between two queries for the stored instances."""

GONE = CheckResult(ResultKind.NOT_ASKED, "the server does not answer any more")

OnCheck = Callable[[Check, CheckResult], None]


@dataclass
class ServerResults:
    """The results of the checks of one server."""

    server: CheckedServer
    implementation: str = ""
    """Its Implementation Version Name, '' if it sends none."""
    results: dict[str, CheckResult] = field(default_factory=dict)
    """By the id of the check."""

    def count(self, kind: ResultKind) -> int:
        """Return the number of results of a kind."""
        return sum(each.kind is kind for each in self.results.values())


def run_checks(
    server: CheckedServer,
    samples: SampleData,
    receiving: tuple[str, int] | None = None,
    *,
    checks: Sequence[Check] = tuple(CHECKS),
    on_check: OnCheck | None = None,
) -> ServerResults:
    """Run checks against a server; `receiving` is the AE title and port (0 for any) of our storage SCP.

    Raises Unreachable if no association can be established, and OSError if the port is in use.
    """
    tools = Toolkit(server, samples)
    found = ServerResults(server, implementation_name(server))
    with _storage_scp(tools, receiving):
        store_samples(tools)
        wait_until_indexed(tools)
        silent = 0
        for check in checks:
            result = _run(check, tools) if silent < MOST_SILENT else GONE
            found.results[check.id] = result
            silent = 0 if _shows_life(result) or (silent < MOST_SILENT and _is_alive(server)) else silent + 1
            if on_check is not None:
                on_check(check, result)
    return found


def _shows_life(result: CheckResult) -> bool:
    return result.kind in (ResultKind.CONFORMS, ResultKind.FREE, ResultKind.NOT_OFFERED)


def _is_alive(server: CheckedServer) -> bool:
    try:
        implementation_name(server)
    except Unreachable:
        return False
    return True


@contextmanager
def _storage_scp(tools: Toolkit, receiving: tuple[str, int] | None) -> Iterator[None]:
    """Start our storage SCP, on the address from which the server is reached."""
    if receiving is None:
        yield
        return
    title, port = receiving
    with tools.server.connect() as connection:
        host = connection.socket.getsockname()[0]
    with SampleReceiver(title, host, port, tools.samples.root, tools.server.timeout) as tools.storage_scp:
        yield


def implementation_name(server: CheckedServer) -> str:
    """Return the Implementation Version Name of a server. Raises Unreachable."""
    try:
        with server.associate([wire.VERIFICATION]) as association:
            return association.accept.implementation
    except AssociateRejected as error:
        raise Unreachable(f"{server}: {error}; our AE title is {server.calling}") from error
    except (NoResponse, Malformed) as error:
        raise Unreachable(f"{server}: {error}") from error


def _run(check: Check, tools: Toolkit) -> CheckResult:
    try:
        return check.run(tools)
    except NotOffered as error:
        return CheckResult(ResultKind.NOT_OFFERED, str(error))
    except CheckImpossible as error:
        return CheckResult(ResultKind.NOT_ASKED, str(error))
    except (Unreachable, AssociateRejected) as error:
        return CheckResult(ResultKind.NOT_ASKED, f"no association: {error}")
    except (NoResponse, Malformed) as error:
        return deviates(str(error))
    except Exception as error:  # no response of a server must end the run
        return CheckResult(ResultKind.NOT_ASKED, f"the check itself failed: {error!r}")


# --- the samples ---------------------------------------------------------------------------------------------------


def store_samples(tools: Toolkit) -> None:
    """Store the samples; the status of each goes into `tools.stored`, none where its context was not accepted."""
    for pair in sorted({(each.sop_class, each.syntax) for each in tools.samples}):
        remaining = [each for each in tools.samples if (each.sop_class, each.syntax) == pair]
        while remaining:
            try:
                _store(tools, remaining)
            except (NoResponse, Malformed):
                continue
            except (Unreachable, AssociateRejected, NotOffered):
                break


def _store(tools: Toolkit, remaining: list[SampleInstance]) -> None:
    """Store instances of one SOP Class and transfer syntax, removing each from the list before its C-STORE."""
    with tools.server.associate([(remaining[0].sop_class, (remaining[0].syntax,))]) as association:
        association.context(remaining[0].sop_class)
        while remaining:
            instance = remaining.pop(0)
            tools.stored[instance.uid] = store(association, instance).status


def wait_until_indexed(tools: Toolkit) -> None:
    """Wait until queries find the last stored samples, for servers that respond before they index."""
    deadline = time.monotonic() + tools.server.timeout
    study = {"StudyInstanceUID": tools.samples.uid("9"), "SeriesInstanceUID": tools.samples.uid("9", 1)}
    due = sum(each.uid in tools.stored for each in tools.samples.study("9"))
    with suppress(NotOffered, Unreachable, AssociateRejected, NoResponse, Malformed):
        while due and len(tools.find("IMAGE", study).matches) < due and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL)


def selected(words: Iterable[str]) -> list[Check]:
    """Return the checks with these ids or themes, all if there are none. Raises KeyError for an unknown word."""
    wanted = set(words)
    for word in wanted - {each.id for each in CHECKS} - {each.theme for each in CHECKS}:
        raise KeyError(word)
    return [each for each in CHECKS if not wanted or {each.id, each.theme} & wanted]
