"""The file of peers that `pacs peers` changes: `peers.toml` in the folder of the data, beside that of the files.

It has `[[peers]]` blocks, as the configuration file has. Programs do not change that one: it belongs to its author, and
a clone of the project tracks one.
"""

import fcntl
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pacs.config.model import PeerEntry
from pacs.config.sources import Sources, peers_in, text_of, title_of
from pacs.config.toml_lines import Table, key_lines, tables
from pacs.errors import ConfigurationError
from pacs.files.disk import write_text
from pacs.support import private
from pacs.support.suggestion import suggestion

HEADER = "# Peers of this archive, written by `pacs peers`; a running server reads them after a SIGHUP.\n"

Values = Mapping[str, Any]
"""Values of a `[[peers]]` block by key; None stands for the default."""


class PeersFile:
    """The `peers.toml` of a configuration. Its methods raise ConfigurationError, and then change nothing."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self.path = sources.peers_path

    def add(self, values: Values) -> str:
        """Add a peer, and return its block."""
        block = _block(values)
        peers_in(self.path, block)
        with self._locked():
            text = text_of(self.path)
            if values["ae_title"] in map(title_of, peers_in(self.path, text)):
                remedy = f"change it with `pacs peers edit {shlex.quote(values['ae_title'])}`"
                raise ConfigurationError(f"{self.path} has the peer {values['ae_title']!r} already: {remedy}")
            self._refuse_own(values["ae_title"])
            self._replace(f"{(text or HEADER).rstrip()}\n\n{block}")
        return block

    def edit(self, ae_title: str, values: Values) -> str:
        """Change values of a peer, and return its block."""
        with self._locked():
            text = text_of(self.path)
            place, known = self._find(ae_title, text)
            block = _block(known | dict(values))
            self._replace(_with_block(text, place, block))
        return block

    def remove(self, *ae_titles: str) -> None:
        """Remove peers, all or none."""
        with self._locked():
            text = text_of(self.path)
            places = {self._find(each, text)[0] for each in ae_titles}
            for place in sorted(places, reverse=True):
                text = _with_block(text, place, "")
            self._replace(text)

    def _find(self, ae_title: str, text: str) -> tuple[int, dict[str, Any]]:
        """Return the place of a peer in the text of the file, counted from 1, and its values."""
        found = peers_in(self.path, text)
        if len(found) != sum(map(_is_entry, tables(text))):
            raise ConfigurationError(f"{self.path} has peers outside of [[peers]] blocks: write a block for each one")
        for place, each in enumerate(found, 1):
            if title_of(each) == ae_title:
                return place, dict(each)
        self._refuse_own(ae_title)
        known = list(map(title_of, found))
        peers = f"{suggestion(ae_title, known)} (its peers: {', '.join(known) or 'none'})"
        raise ConfigurationError(f"{self.path} has no peer {ae_title!r}{peers}")

    def _refuse_own(self, ae_title: str) -> None:
        """Raise ConfigurationError if another source of the configuration has a peer of this title."""
        sources = self._sources
        titles = list(map(title_of, sources.entries("peers")))
        if ae_title not in titles:
            return
        where = str(sources.file)
        if "peers" in sources.environment:
            where = f"the environment variable {sources.environment['peers'][0]}"
        elif line := key_lines(sources.text).get(f"peers[{titles.index(ae_title) + 1}].ae_title"):
            where = f"{where}, line {line}"
        raise ConfigurationError(
            f"the peer {ae_title!r} is in {where}: change it there; `pacs peers` changes only {self.path}"
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Create the folder, and let one process at a time change the file."""
        folder = self.path.parent
        try:
            private.make_folder(folder)
            descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigurationError(f"cannot write {str(self.path)!r} ({error.strerror})") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _replace(self, text: str) -> None:
        """Replace the file, if the configuration is valid with this text."""
        self._sources.config(peers_in(self.path, text))
        try:
            write_text(self.path.resolve(), text)  # the file that a link names, as an editor does
            if os.geteuid() == 0:  # a server that is another user must be able to read it
                owner = self.path.parent.stat()
                os.chown(self.path, owner.st_uid, owner.st_gid)
        except OSError as error:
            raise ConfigurationError(f"cannot write {str(self.path)!r} ({error.strerror})") from error


def _block(values: Values) -> str:
    """Return a `[[peers]]` block with the keys in the order of the model."""
    order = [*PeerEntry.model_fields, *(key for key in values if key not in PeerEntry.model_fields)]
    lines = (f"{key} = {json.dumps(values[key], ensure_ascii=False)}" for key in order if values.get(key) is not None)
    return "\n".join(["[[peers]]", *lines]) + "\n"


def _is_entry(table: Table) -> bool:
    return table.text.lstrip().startswith("[[")


def _with_block(text: str, place: int, block: str) -> str:
    """Return the text of a file with another block at a place, counted from 1; without the old one if it is ''."""
    parts, number = list[str](), 0
    for table in tables(text):
        number += _is_entry(table)
        is_it = _is_entry(table) and number == place
        parts.append(block + "".join(_comments_after(table)) if is_it else table.text)
    return "".join(parts).rstrip() + "\n"


def _comments_after(table: Table) -> list[str]:
    """Return the empty lines and comments at the end of a table, which are about the next one."""
    is_key = [bool(line.strip()) and not line.lstrip().startswith("#") for line in table.lines]
    return table.lines[len(is_key) - is_key[::-1].index(True) :]
