"""The values in force, and where each comes from, for `pacs config show`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pacs.config.error_messages import masked
from pacs.config.model import LISTS
from pacs.config.sources import Sources, text_of
from pacs.config.toml_lines import key_lines

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class ValueInForce:
    """The value of a key, without secrets; its source is a file and line, a variable, an option, or "default"."""

    key: str
    value: Any
    source: str


def values_in_force(sources: Sources) -> Iterator[ValueInForce]:
    """Yield every value of the configuration. Raises ConfigurationError."""
    origins = _Origins(sources)
    for section, content in sources.config().model_dump(mode="json").items():
        if section in LISTS:
            for place, entry in enumerate(content, 1):
                for key, value in entry.items():
                    name = f"{section}[{place}].{key}"
                    yield ValueInForce(name, masked(name, value), origins.of_entry(section, place, key))
        else:
            for key, value in content.items():
                name = f"{section}.{key}"
                yield ValueInForce(name, masked(name, value), origins.of(name))


class _Origins:
    """Finds the source of each value."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._lines = key_lines(sources.text)
        self._peers_lines = key_lines(text_of(sources.peers_path))

    def of(self, key: str) -> str:
        """Return the source of a key, "default" if no source has it."""
        return self._overriding(key) or _at(self._sources.file, self._lines, key)

    def of_entry(self, section: str, place: int, key: str) -> str:
        """Return the source of a key in the entry of a list, counted from 1."""
        own = self._sources.entries(section)
        if place > len(own):
            return _at(self._sources.peers_path, self._peers_lines, f"{section}[{place - len(own)}].{key}")
        if origin := self._overriding(section):
            return origin if key in own[place - 1] else DEFAULT
        return _at(self._sources.file, self._lines, f"{section}[{place}].{key}")

    def _overriding(self, key: str) -> str:
        """Return the option or variable that sets a key, '' for none."""
        if key in self._sources.flags:
            return f"--set {key}"
        return self._sources.environment[key][0] if key in self._sources.environment else ""


def _at(file: Path | None, lines: Mapping[str, int], key: str) -> str:
    return f"{file}:{lines[key]}" if key in lines else DEFAULT
