"""What all commands that call another AE have in common: whom they call, as whom, how patiently, and how it came out.

The options are those that people have in their fingers from DCMTK (-aet, -aec, -to, -ta, -td, -P, -S, -k) and dcm4che
(AET@HOST:PORT), with readable names beside them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from pacs.cli.mismatches import Ourselves, aborted, rejected
from pacs.cli.options import Command, reconfigured
from pacs.errors import AssociationLost, AssociationRejected, DestinationUnreachable
from pacs.support.sockets import reached

if TYPE_CHECKING:
    from pacs.client import Peer
    from pacs.config import Config
    from pacs.dimse.association.establishment import Protection

WHERE = "the AE title here"

Read = Callable[[], "Config"]


@dataclass(frozen=True, slots=True)
class Call:
    """Whom a command calls, the words behind that on its line, and under which AE title we receive what is sent.

    The title is that of -aet, else PACSCU: the server's own, by which it calls its peers, is where they send to it.
    """

    peer: "Peer"
    rest: tuple[str, ...]
    receives_as: str

    def alone(self) -> "Peer":
        """The peer, where there may be no words behind it. Raises click.UsageError."""
        if self.rest:
            expected = "expected only AE_TITLE@HOST:PORT, HOST PORT or the name of a peer"
            raise click.UsageError(f"{self.rest[0]!r} is one word too many: {expected}")
        return self.peer


def calling(metavar: str = "PEER") -> Callable[[Command], Command]:
    """Give a command PEER, what may follow it, the options of every call, and its `Call` as first argument."""

    def decorate(command: Command) -> Command:
        @click.argument("words", nargs=-1, required=True, metavar=metavar)
        @_with_options
        @reconfigured
        @wraps(command)
        def run(read: Read, *, words: tuple[str, ...], **arguments: Any) -> None:
            call = _call(read, words, {name: arguments.pop(name) for name in _OF_CALL})
            with _explained(call.peer):
                command(call, **arguments)

        return run

    return decorate


@contextmanager
def _explained(peer: "Peer") -> Iterator[None]:
    """Says of what fails in the body whom it is about, and what to do about it."""
    us = Ourselves(peer.calling_ae_title)
    try:
        yield
    except AssociationRejected as error:
        error.comment = f"{peer}: {rejected(error, us, peer.ae_title, where=WHERE)}"
        raise
    except DestinationUnreachable as error:
        error.comment = f"{peer}: {error.comment}"
        raise
    except AssociationLost as error:
        error.comment = f"{peer}: {aborted(error, us)}"
        raise


def _seconds(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    """A number of seconds; -to is DCMTK's, and easily taken for --to. Raises click.BadParameter."""
    try:
        return None if text is None else float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no number of seconds; did you mean --to {text}?") from None


_OPTIONS = (
    click.option("-aet", "--calling", "calling_ae_title", metavar="TITLE",
                 help="Our AE title: the server's where PEER is of the configuration, else PACSCU."),
    click.option("-aec", "--called", "called_ae_title", metavar="TITLE", help="The peer's, with HOST PORT."),
    click.option("-to", "connect", callback=_seconds, metavar="SECONDS", help="For the connection."),
    click.option("-ta", "negotiation", type=float, metavar="SECONDS", help="For the association."),
    click.option("-td", "--timeout", "response", type=float, metavar="SECONDS", help="For each response."),
    click.option("--tls", is_flag=True, help="Encrypted, by TLS."),
    click.option("--ca", default="", metavar="FILE", help="Who signs the peer's certificate (PEM)."),
    click.option("--cert", default="", metavar="FILE", help="Our certificate (PEM)."),
    click.option("--cert-key", "key", default="", metavar="FILE", help="Its key (PEM)."),
)  # fmt: skip
_OF_CALL = ("calling_ae_title", "called_ae_title", "connect", "negotiation", "response", "tls", "ca", "cert", "key")


def _with_options(command: Command) -> Command:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


# --- whom --------------------------------------------------------------------------------------------------------


def _call(read: Read, words: tuple[str, ...], told: dict[str, Any]) -> Call:
    """Whom the first words name, and the words behind them."""
    from pacs.client.peer import CALLING_AE_TITLE

    peer, rest = _peer(read, words, told)
    return Call(peer, rest, told["calling_ae_title"] or CALLING_AE_TITLE)


def _peer(read: Read, words: tuple[str, ...], told: dict[str, Any]) -> tuple["Peer", tuple[str, ...]]:
    from pacs.client import Deadlines, Peer

    given = {name: told[name] for name in ("connect", "negotiation", "response") if told[name] is not None}
    common = {"deadlines": Deadlines(**given)}
    if told["calling_ae_title"]:
        common["calling_ae_title"] = told["calling_ae_title"]
    first, rest = words[0], words[1:]
    if "@" in first:
        return Peer.parse(first, **common, protection=_protection(told)), rest
    if rest and rest[0].isdecimal():
        return _by_address(first, rest[0], told, common), rest[1:]
    return _by_name(read(), first, told, common), rest


def _by_address(host: str, port: str, told: dict[str, Any], common: dict[str, Any]) -> "Peer":
    from pacs.client import Peer

    title = told["called_ae_title"]
    if title is None:
        raise click.UsageError(f"whom to call at {host} {port} is missing: expected -aec TITLE, or TITLE@{host}:{port}")
    bare = f"[{host}]" if ":" in host else host
    return Peer.parse(f"{title}@{bare}:{port}", **common, protection=_protection(told))


def _by_name(config: "Config", name: str, told: dict[str, Any], common: dict[str, Any]) -> "Peer":
    """A peer of the configuration, or the server of it."""
    from pacs.client import Peer

    common |= {"calling_ae_title": told["calling_ae_title"] or config.server.ae_title}
    for each in config.peers:
        if each.ae_title == name:
            return Peer(each.ae_title, each.host, each.port, **common, protection=_protection_of(config, each, told))
    server = config.server
    if name == server.ae_title:
        return Peer(name, reached(server.host), server.port, **common, protection=_protection(told))
    known = ", ".join(each.ae_title for each in config.peers) or "none"
    raise click.UsageError(
        f"{name!r} is no peer of the configuration (known are: {known}): expected one of them, "
        f"AE_TITLE@HOST:PORT, or HOST PORT with -aec AE_TITLE"
    )


def _protection(told: dict[str, Any]) -> "Protection | None":
    """How the call is encrypted by the options, None where it is not."""
    if not told["tls"]:
        return None
    from pacs.dimse.association.establishment import Protection
    from pacs.dimse.upper.tls import Certificates, requestor_context

    files = Certificates(certificate=told["cert"], key=told["key"], ca=told["ca"])
    return Protection(requestor_context(files, is_pinned=False))


def _protection_of(config: "Config", peer: Any, told: dict[str, Any]) -> "Protection | None":
    """How a configured peer is called: as its table says, unless the options do."""
    if told["tls"] or not peer.tls:
        return _protection(told)
    from pacs.archive import protection_of

    return protection_of(config, peer)
