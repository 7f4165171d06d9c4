"""The matrix of an examination: rows for a table, Markdown, and what JSON holds."""

from collections.abc import Iterator, Sequence
from typing import Any

from pacs.conformance.checks import CHECKS, Check, Column, Kind
from pacs.observability.logging import printable

LONGEST = 160
"""Characters of what was seen that are shown; JSON has all of them."""

SPEAKING = (Kind.DEVIATES, Kind.FREE, Kind.NOT_ASKED)
"""The verdicts of which a matrix shows what was seen."""


def as_json(columns: Sequence[Column]) -> dict[str, Any]:
    """What was seen, for programs."""
    return {"servers": [_server(each) for each in columns], "checks": [_check(each) for each in CHECKS]}


def _check(check: Check) -> dict[str, str]:
    return {"id": check.id, "theme": check.theme, "question": check.question, "paragraph": check.paragraph}


def _server(column: Column) -> dict[str, Any]:
    seen = {name: {"verdict": each.kind.word, "seen": each.seen} for name, each in column.verdicts.items()}
    counts = {kind.word: column.count(kind) for kind in Kind}
    introduced = {"server": str(column.peer), "implementation": column.implementation}
    return introduced | {"counts": counts, "verdicts": seen}


def rows(columns: Sequence[Column]) -> Iterator[list[str]]:
    """The matrix as rows: ID, question, and what each server came to; only what was asked."""
    for check in CHECKS:
        if any(check.id in each.verdicts for each in columns):
            yield [check.id, check.question, *(cell(each, check.id) for each in columns)]


def cell(column: Column, name: str) -> str:
    """The sign of a verdict, and what was seen where the sign alone does not say it; '' where it was not asked."""
    verdict = column.verdicts.get(name)
    if verdict is None:
        return ""
    seen = f" {printable(verdict.seen, LONGEST)}" if verdict.kind in SPEAKING else ""
    return verdict.kind.sign + seen


def totals(column: Column) -> str:
    """How often each kind of verdict was come to, in one line."""
    return ", ".join(f"{column.count(kind)} {kind.sign} {kind.word}" for kind in Kind)


def markdown(columns: Sequence[Column], names: Sequence[str]) -> str:
    """The matrix in Markdown, a column for each of the names: the totals, and a table by theme."""
    return "\n".join([*_totals(columns, names), *_tables(columns, names)]).rstrip() + "\n"


def _totals(columns: Sequence[Column], names: Sequence[str]) -> Iterator[str]:
    yield from _head(["", *names])
    for kind in Kind:
        yield _row([f"{kind.sign} {kind.word}", *(str(each.count(kind)) for each in columns)])


def _tables(columns: Sequence[Column], names: Sequence[str]) -> Iterator[str]:
    for theme in dict.fromkeys(each.theme for each in CHECKS):
        yield from ("", f"## {theme.capitalize()}", "")
        yield from _head(["", "question", "standard", *names])
        for check in (each for each in CHECKS if each.theme == theme):
            yield _row([check.id, check.question, check.paragraph, *(cell(each, check.id) for each in columns)])


def _head(cells: Sequence[str]) -> Iterator[str]:
    yield _row(cells)
    yield _row(["---"] * len(cells))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_plain(each) for each in cells) + " |"


def _plain(text: str) -> str:
    """A text that Markdown shows as it is."""
    for character in "\\|*_<[":
        text = text.replace(character, f"\\{character}")
    return text
