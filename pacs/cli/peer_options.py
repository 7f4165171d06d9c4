"""PEER and the options of all commands that associate with another AE.

The options have the names of DCMTK (-aet, -aec, -to, -ta, -td, -P, -S, -k) and readable ones; AE_TITLE@HOST:PORT is the
notation of dcm4che.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from pacs.cli.completion import complete_file, complete_first, complete_peer, complete_title
from pacs.cli.interrupt import interruptible
from pacs.cli.matching_keys import complete_word
from pacs.cli.options import Command, Seconds, with_config_loader, with_options
from pacs.cli.peer_hints import LocalAE, aborted, rejected
from pacs.errors import AssociationLost, AssociationRejected, DestinationUnreachable
from pacs.support.sockets import host_and_port, reached

if TYPE_CHECKING:
    from pacs.client import Peer
    from pacs.config import Config
    from pacs.dimse.association.establishment import Protection

WHERE = "the called AE title here"

Read = Callable[[], "Config"]


@dataclass(frozen=True, slots=True)
class PeerCall:
    """The peer of a command, the remaining arguments, and the AE title of the local Storage SCP.

    That is the title given by -aet, else PACSCU: peers that know the title of the local server send to that server.
    """

    peer: "Peer"
    rest: tuple[str, ...]
    receives_as: str

    def alone(self) -> "Peer":
        """Return the peer of a command without further arguments. Raises click.UsageError."""
        if self.rest:
            expected = "expected only AE_TITLE@HOST:PORT, HOST PORT or the AE title of a configured peer"
            raise click.UsageError(f"unexpected argument {self.rest[0]!r}; {expected}")
        return self.peer


def peer_command(metavar: str = "PEER", *, takes_words: bool = False) -> Callable[[Command], Command]:
    """Add PEER and the options of associations to a command, and pass it its `PeerCall` as first argument.

    With `takes_words` the command gets the arguments after PEER as `words`.
    """
    complete = complete_first(complete_peer, complete_word if takes_words else complete_file)

    def decorate(command: Command) -> Command:
        @click.argument("words", nargs=-1, required=True, metavar=metavar, shell_complete=complete)
        @with_options(*_OPTIONS)
        @with_config_loader
        @wraps(command)
        def run(read: Read, *, words: tuple[str, ...], **arguments: Any) -> None:
            call = _call(read, words, {name: arguments.pop(name) for name in _OF_CALL})
            if takes_words:
                arguments["words"], call = call.rest, replace(call, rest=())
            with _hints(call.peer), interruptible():
                command(call, **arguments)

        return run

    return decorate


@contextmanager
def _hints(peer: "Peer") -> Iterator[None]:
    """Add the peer and a hint to the errors of the body."""
    us = LocalAE(peer.calling_ae_title)
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


def _fingerprints(_ctx: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    from pacs.config import fingerprint

    try:
        return tuple(map(fingerprint, texts))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_IDENTITY_OPTIONS = (
    click.option("--user", default="", metavar="NAME", help="Name of the user at the peer (User Identity)."),
    click.option("--passcode-file", default="", metavar="FILE",
                 help="File with the passcode of the user, in its first line; - is standard input."),
    click.option("--token", default="", metavar="FILE|TOKEN",
                 help="File with a JSON Web Token that identifies the user, instead of --user; or the token, "
                 "which other users of this computer can see."),
)  # fmt: skip
_TLS_OPTIONS = (
    click.option("--tls", is_flag=True, help="Connect with TLS; the other options of TLS imply it."),
    click.option("--ca", default="", metavar="FILE", help="CA certificate that signed the peer's certificate (PEM)."),
    click.option("--cert", default="", metavar="FILE", help="Client certificate (PEM)."),
    click.option("--cert-key", "key", default="", metavar="FILE", help="Private key of the client certificate (PEM)."),
    click.option("--fingerprint", multiple=True, metavar="SHA256", callback=_fingerprints,
                 help="SHA-256 fingerprint of the peer's certificate, instead of --ca; may be given several times."),
    click.option("--no-hostname", is_flag=True, help="Accept a certificate of --ca with another or no host name."),
)  # fmt: skip
_called_option = click.option(
    "-aec", "--called", "called_ae_title", metavar="TITLE", help="Called AE title, for HOST PORT."
)
_ASSOCIATION_OPTIONS = (
    click.option("-aet", "--calling", "calling_ae_title", metavar="TITLE",
                 help="Calling AE title; default: that of the server if PEER is a configured peer, else PACSCU."),
    _called_option,
    click.option("-to", "connect", type=Seconds(meant="--to"), metavar="SECONDS",
                 help="Timeout of the TCP connection."),
    click.option("-ta", "negotiation", type=Seconds(), metavar="SECONDS",
                 help="Timeout of the association negotiation."),
    click.option("-td", "--timeout", "response", type=Seconds(), metavar="SECONDS", help="Timeout of each response."),
)  # fmt: skip
_OPTIONS = (*_ASSOCIATION_OPTIONS, *_IDENTITY_OPTIONS, *_TLS_OPTIONS)

_OF_TLS = ("tls", "ca", "cert", "key", "fingerprint", "no_hostname")
_OF_CALL = (
    "calling_ae_title", "called_ae_title", "connect", "negotiation", "response",
    "user", "passcode_file", "token", *_OF_TLS,
)  # fmt: skip


def configured_peers_command(command: Command) -> Command:
    """Add AE titles and the options of associations to a command, and pass it these peers, or all configured ones."""
    options = [each for each in (*_ASSOCIATION_OPTIONS, *_IDENTITY_OPTIONS) if each is not _called_option]

    @click.argument("titles", nargs=-1, metavar="[AE_TITLE]...", shell_complete=complete_title)
    @with_options(*options)
    @with_config_loader
    @wraps(command)
    def run(read: Read, *, titles: tuple[str, ...], **arguments: Any) -> None:
        given = dict.fromkeys(_OF_CALL) | {name: arguments.pop(name) for name in _OF_CALL if name in arguments}
        config = read()
        common = _common(given)
        called = [_by_name(config, each, given, common) for each in titles or _titles(config)]
        command(called, **arguments)

    return run


def _titles(config: "Config") -> list[str]:
    return [each.ae_title for each in config.peers]


identity_and_tls_options = with_options(*_IDENTITY_OPTIONS, *_TLS_OPTIONS)
"""Adds `--user`, `--passcode-file`, `--token` and the options of TLS to a command, for `peers_of`."""


def peers_of(read: Read, written: Sequence[str], options: dict[str, Any]) -> "list[Peer]":
    """Return the peers written as AE_TITLE@HOST:PORT or as the AE title of a configured peer."""
    given = dict.fromkeys(_OF_CALL) | options
    common = _common(given)
    return [_peer(read, (each,), given, common)[0] for each in written]


def _user_of(options: dict[str, Any]) -> dict[str, str]:
    """Return `user`, `passcode` and `token` of the options, for a `client.Peer`. Raises click.UsageError."""
    user, passcode_file, token = options["user"], options["passcode_file"], options["token"]
    if token and (user or passcode_file):
        raise click.UsageError("expected either --user NAME or --token FILE, not both")
    if passcode_file and not user:
        raise click.UsageError("--passcode-file needs --user NAME")
    return {
        "user": user,
        "passcode": _secret(passcode_file, "--passcode-file"),
        "token": token if _TOKEN.fullmatch(token) else _secret(token, "--token"),
    }


_TOKEN = re.compile(r"ey[\w-]+\.[\w-]+\.[\w-]*", re.ASCII)
"""A signed JSON Web Token: its first part is the Base64 of a text that begins with {"."""


LONGEST_SECRET = 65536
"""Characters of a first line that are read, at most: a device such as /dev/zero has no line end."""


def _secret(file: str, option: str) -> str:
    """Return the first line of a file, '' without a file. Raises click.BadParameter."""
    if not file:
        return ""
    try:
        with click.open_file(file, encoding="utf-8") as opened:
            secret = str(opened.readline(LONGEST_SECRET)).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "expected text in UTF-8"
        raise click.BadParameter(f"cannot read {file!r} ({why})", param_hint=option) from error
    if not secret:
        raise click.BadParameter(f"the first line of {file!r} is empty", param_hint=option)
    return secret


# --- the PEER argument -------------------------------------------------------------------------------------------


def _call(read: Read, words: tuple[str, ...], options: dict[str, Any]) -> PeerCall:
    """Split the arguments into the peer and the rest."""
    from pacs.client.peer import CALLING_AE_TITLE

    peer, rest = _peer(read, words, options, _common(options))
    return PeerCall(peer, rest, options["calling_ae_title"] or CALLING_AE_TITLE)


def _peer(
    read: Read, words: tuple[str, ...], options: dict[str, Any], common: dict[str, Any]
) -> tuple["Peer", tuple[str, ...]]:
    from pacs.client import Peer

    first, rest = words[0], words[1:]
    if "@" in first:
        return Peer.parse(first, **common, protection=_protection(options)), rest
    if rest and rest[0].isdecimal():
        return _by_address(first, rest[0], options, common), rest[1:]
    return _by_name(read(), first, options, common), rest


def _common(options: dict[str, Any]) -> dict[str, Any]:
    """Return what the options say for every kind of PEER."""
    from pacs.client import Deadlines

    given = {name: options[name] for name in ("connect", "negotiation", "response") if options[name] is not None}
    common = {"deadlines": Deadlines(**given), **_user_of(options)}
    if options["calling_ae_title"]:
        common["calling_ae_title"] = options["calling_ae_title"]
    return common


def _by_address(host: str, port: str, options: dict[str, Any], common: dict[str, Any]) -> "Peer":
    from pacs.client import Peer

    address, title = host_and_port(host.strip("[]"), int(port)), options["called_ae_title"]
    if title is None:
        raise click.UsageError(f"the called AE title of {address} is missing; expected -aec TITLE, or TITLE@{address}")
    return Peer.parse(f"{title}@{address}", **common, protection=_protection(options))


def _by_name(config: "Config", name: str, options: dict[str, Any], common: dict[str, Any]) -> "Peer":
    """Return a configured peer, or the server of the configuration."""
    from pacs.client import Peer

    common = common | {"calling_ae_title": options["calling_ae_title"] or config.server.ae_title}
    for each in config.peers:
        if each.ae_title == name:
            return Peer(each.ae_title, each.host, each.port, **common, protection=_protection_of(config, each, options))
    server = config.server
    if name == server.ae_title:
        return Peer(name, reached(server.host), server.port, **common, protection=_protection(options))
    known = ", ".join(_titles(config)) or "none"
    raise click.UsageError(
        f"{name!r} is not a configured peer (configured: {known}); expected one of them, AE_TITLE@HOST:PORT, or HOST "
        "PORT with -aec AE_TITLE"
    )


def _protection(options: dict[str, Any]) -> "Protection | None":
    """Return the TLS settings of the options, None without TLS."""
    if not any(options[each] for each in _OF_TLS):
        return None
    from pacs.client import requestor_tls

    return requestor_tls(
        ca=options["ca"],
        certificate=options["cert"],
        key=options["key"],
        fingerprints=options["fingerprint"],
        check_hostname=not options["no_hostname"],
    )


def _protection_of(config: "Config", peer: Any, options: dict[str, Any]) -> "Protection | None":
    """Return the TLS settings for a configured peer: those of the options, else those of its entry."""
    if not peer.tls or any(options[each] for each in _OF_TLS if each != "tls"):
        return _protection(options)
    from pacs.settings import peer_protection

    return peer_protection(config, peer)
