"""Servers that use the same files: each says in its marker which it is, so that the next one can name it."""

import json
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from pacs.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class RunningServer:
    """What a server says about itself to others that use its files."""

    ae_title: str
    address: str
    index: str
    """What identifies its index: see `Index.identity`."""
    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)

    @property
    def name(self) -> str:
        """What it is called in messages."""
        host = "" if self.host == socket.gethostname() else f" on host {self.host}"
        return f"another server, process {self.pid}{host} with AE title {self.ae_title} on {self.address},"

    def is_ending(self) -> bool:
        """Whether its process has died, and only workers that it has left still run: they end by themselves."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # of another user
            return False
        return False

    def encode(self) -> str:
        """Return the text for the marker."""
        return json.dumps(asdict(self))


def sharing(running: Iterable[str], own: RunningServer, *, may_share: bool) -> list[str]:
    """Return what the server `own` shares with those that run, by the texts in their markers, a sentence for each.

    Raises ConfigurationError when it may not, or when one of them has another index.
    """
    sentences = [sentence for each in running if (sentence := _shared(each, own))]
    if sentences and not may_share:
        remedy = "stop it, or set server.shared = true (`pacs serve --shared`) for several servers on one archive"
        raise ConfigurationError(f"{sentences[0]}; {remedy}")
    return sentences


def reload_commands(running: Iterable[str]) -> list[str]:
    """Return the commands that reload the configuration of servers, by the texts in their markers."""
    commands = []
    for text in running:
        with suppress(ValueError, TypeError):  # of an earlier version
            server = RunningServer(**json.loads(text))
            host = "" if server.host == socket.gethostname() else f" on host {server.host}"
            commands += [] if server.is_ending() else [f"`kill -HUP {server.pid}`{host}"]
    return commands


def _shared(text: str, own: RunningServer) -> str:
    """Return what is shared with one server, '' if it is ending. Raises ConfigurationError."""
    with suppress(ValueError, TypeError):
        other = RunningServer(**json.loads(text))
        if other.is_ending():
            return ""
        if other.index != own.index:
            why = "has the same files.url and another index: each would only know the instances that it stored itself"
            raise ConfigurationError(f"{other.name} {why}; set the same database.url for both, or another files.url")
        return f"{other.name} has the same file store and the same index"
    return "another server, of an earlier version, has the same file store"
