"""The results of several servers as a matrix: rows for a table, Markdown, and JSON."""

from collections.abc import Iterator, Sequence
from typing import Any

from pacs.conformance.checks.results import Check, ResultKind
from pacs.conformance.checks.runner import CHECKS, ServerResults
from pacs.observability.logging import printable

LONGEST = 160
"""The most characters of an observation in a table; JSON has all of them."""

EXPLAINED = (ResultKind.DEVIATES, ResultKind.FREE, ResultKind.NOT_ASKED)
"""The kinds of result that a table shows with the observation."""


def as_json(servers: Sequence[ServerResults]) -> dict[str, Any]:
    """Return all results, for programs."""
    return {"servers": [_server(each) for each in servers], "checks": [_check(each) for each in CHECKS]}


def _check(check: Check) -> dict[str, str]:
    return {"id": check.id, "theme": check.theme, "question": check.question, "paragraph": check.paragraph}


def _server(server: ServerResults) -> dict[str, Any]:
    verdicts = {name: {"verdict": each.kind.word, "seen": each.seen} for name, each in server.results.items()}
    counts = {kind.word: server.count(kind) for kind in ResultKind}
    names = {"server": str(server.server), "implementation": server.implementation}
    return names | {"counts": counts, "verdicts": verdicts}


def rows(servers: Sequence[ServerResults]) -> Iterator[list[str]]:
    """Yield a row for each check that ran: its id, its question, and the result of each server."""
    for check in CHECKS:
        if any(check.id in each.results for each in servers):
            yield [check.id, check.question, *(cell(each, check.id) for each in servers)]


def cell(server: ServerResults, name: str) -> str:
    """Return the sign of a result, with the observation where the sign is not enough; '' if the check did not run."""
    result = server.results.get(name)
    if result is None:
        return ""
    seen = f" {printable(result.seen, LONGEST)}" if result.kind in EXPLAINED else ""
    return result.kind.sign + seen


def totals(server: ServerResults) -> str:
    """Return the number of results of each kind, in one line."""
    return ", ".join(f"{server.count(kind)} {kind.sign} {kind.word}" for kind in ResultKind)


def markdown(servers: Sequence[ServerResults], names: Sequence[str]) -> str:
    """Return the matrix in Markdown, with a column for each of the names: the totals, and a table for each theme."""
    return "\n".join([*_totals(servers, names), *_tables(servers, names)]).rstrip() + "\n"


def _totals(servers: Sequence[ServerResults], names: Sequence[str]) -> Iterator[str]:
    yield from _head(["", *names])
    for kind in ResultKind:
        yield _row([f"{kind.sign} {kind.word}", *(str(each.count(kind)) for each in servers)])


def _tables(servers: Sequence[ServerResults], names: Sequence[str]) -> Iterator[str]:
    for theme in dict.fromkeys(each.theme for each in CHECKS):
        yield from ("", f"## {theme.capitalize()}", "")
        yield from _head(["", "question", "standard", *names])
        for check in (each for each in CHECKS if each.theme == theme):
            yield _row([check.id, check.question, check.paragraph, *(cell(each, check.id) for each in servers)])


def _head(cells: Sequence[str]) -> Iterator[str]:
    yield _row(cells)
    yield _row(["---"] * len(cells))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escaped(each) for each in cells) + " |"


def _escaped(text: str) -> str:
    for character in "\\|*_<[":
        text = text.replace(character, f"\\{character}")
    return text
