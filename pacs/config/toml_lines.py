"""Where tables and keys are in the text of a TOML file, which tomllib does not tell."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO
from typing import Any


@dataclass(slots=True)
class Table:
    """A table of a TOML file: its lines from the header on, and the number of the first one, counted from 1."""

    first: int
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The lines as one text."""
        return "".join(self.lines)


def tables(text: str) -> list[Table]:
    """Split a valid TOML text into its tables; the first one has the lines before the first header."""
    found = [Table(1)]
    for number, line in enumerate(StringIO(text, newline="\n"), 1):  # not splitlines, which also splits at U+2028
        if line.lstrip().startswith("[") and _parsed(found[-1].text) is not None:
            found.append(Table(number))
        found[-1].lines.append(line)
    return found


def key_lines(text: str) -> dict[str, int]:
    """Return the line of each key of a valid TOML text, by names such as `server.port` and `peers[2].host`."""
    lines: dict[str, int] = {}
    entries: dict[str, int] = {}
    """The number of entries of each [[list]] so far."""
    for table in tables(text):
        header = table.lines[0].strip() if table.lines else ""
        name = header.lstrip("[").partition("]")[0].strip() if header.startswith("[[") else ""
        for key, number in _lines_in(table).items():
            place = f"{name}[{entries.get(name, 0) + 1}]"
            lines.setdefault(key.replace(f"{name}[1]", place, 1) if name else key, number)
        entries[name] = entries.get(name, 0) + 1
    return lines


def _lines_in(table: Table) -> dict[str, int]:
    """Return the line in which each key of a table begins."""
    found: dict[str, int] = {}
    begun = 0
    for end in range(1, len(table.lines) + 1):
        content = _parsed("".join(table.lines[:end]))
        if content is not None:
            for key in _keys(content):
                found.setdefault(key, table.first + begun)
            begun = end
    return found


def _parsed(text: str) -> dict[str, Any] | None:
    """Return the content of a TOML text, None if it ends within a value."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _keys(content: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for key, value in content.items():
        name = before + key
        yield name
        if isinstance(value, dict):
            yield from _keys(value, f"{name}.")
        elif isinstance(value, list):
            for place, each in enumerate(value, 1):
                if isinstance(each, dict):
                    yield from _keys(each, f"{name}[{place}].")
