"""The tables and sentences of the conformance statement, and which of them tests cover.

A test marks the sentences that it checks on a server with `covers`, and takes table rows from `rows`;
`tests/docs/test_conformance.py` finds what no test covers.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from pacs.config import Config
from pacs.conformance.statement.render import conformance_statement

TEXT = conformance_statement(Config())

Function = TypeVar("Function", bound=Callable)

covered_texts: list[str] = []
covered_tables: set[tuple[str, str]] = set()


@dataclass
class Table:
    """A table: the title of its section, its column heads and its rows."""

    section: str
    heads: list[str]
    rows: list[list[str]] = field(default_factory=list)

    @property
    def name(self) -> tuple[str, str]:
        """Its section and first head, which identify it."""
        return self.section, self.heads[0]


def _blocks() -> Iterator[tuple[str, str]]:
    """Yield section titles and blocks of text, without headings."""
    section = ""
    for block in TEXT.strip().split("\n\n"):
        if block.startswith("#"):
            section = block.lstrip("# ")
        else:
            yield section, block


def tables() -> list[Table]:
    """Return the tables, in order."""
    found: list[Table] = []
    for section, block in _blocks():
        if block.startswith("|"):
            heads, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in block.split("\n"))
            found.append(Table(section, heads, rows))
    return found


def sentences() -> list[str]:
    """Return the sentences outside of tables, each on one line, without those that end with a colon."""
    texts = [" ".join(block.split()) for _, block in _blocks() if not block.startswith("|")]
    found = [sentence for text in texts for sentence in re.split(r"(?<=[.:])\s+(?=[A-Z`])", text)]
    return [sentence for sentence in found if not sentence.endswith(":")]


def rows(section: str, head: str) -> list[list[str]]:
    """Return the rows of the tables with this first head in a section, and mark them as covered."""
    found = [row for table in tables() if table.name == (section, head) for row in table.rows]
    assert found, f"the statement has no table {head!r} in section {section!r}"
    covered_tables.add((section, head))
    return found


def covers(*words: str) -> Callable[[Function], Function]:
    """Mark the sentences with these words as covered by a test."""
    covered_texts.extend(words)
    return lambda function: function
