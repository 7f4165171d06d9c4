"""The conformance statement as its reader has it: tables and sentences, and which of them some test has asked about.

A test says which words of the statement it asks the server about with `asks`, and takes the rows it asks for from
`rows`; `tests/docs/test_conformance.py` finds what nobody has asked about.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from pacs.config import Config
from pacs.conformance.statement.render import conformance_statement

TEXT = conformance_statement(Config())

Function = TypeVar("Function", bound=Callable)

asked_words: list[str] = []
asked_tables: set[tuple[str, str]] = set()


@dataclass
class Table:
    """A table: the title of its section, its column heads and its rows."""

    section: str
    heads: list[str]
    rows: list[list[str]] = field(default_factory=list)

    @property
    def name(self) -> tuple[str, str]:
        """What tells it from the others: its section and its first head."""
        return self.section, self.heads[0]


def _blocks() -> Iterator[tuple[str, str]]:
    """Everything but headings, with the title of the section it stands in."""
    section = ""
    for block in TEXT.strip().split("\n\n"):
        if block.startswith("#"):
            section = block.lstrip("# ")
        else:
            yield section, block


def tables() -> list[Table]:
    """The tables, in order."""
    found: list[Table] = []
    for section, block in _blocks():
        if block.startswith("|"):
            heads, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in block.split("\n"))
            found.append(Table(section, heads, rows))
    return found


def sentences() -> list[str]:
    """The sentences outside of tables, each on one line, but for those that only introduce what follows."""
    texts = [" ".join(block.split()) for _, block in _blocks() if not block.startswith("|")]
    found = [sentence for text in texts for sentence in re.split(r"(?<=[.:])\s+(?=[A-Z`])", text)]
    return [sentence for sentence in found if not sentence.endswith(":")]


def rows(section: str, head: str) -> list[list[str]]:
    """The rows of the tables with this first head in a section; they count as asked about."""
    found = [row for table in tables() if table.name == (section, head) for row in table.rows]
    assert found, f"the statement has no table {head!r} in section {section!r}"
    asked_tables.add((section, head))
    return found


def asks(*words: str) -> Callable[[Function], Function]:
    """Say that a test asks the server about the sentences with these words."""
    asked_words.extend(words)
    return lambda function: function
