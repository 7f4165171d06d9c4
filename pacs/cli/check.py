"""`pacs check`: checks everything a server needs, and says how to correct what is wrong."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pacs.cli.exit_status import FAILED
from pacs.cli.options import with_config
from pacs.cli.peer_hints import UNREACHABLE, LocalAE, not_a_destination, rejected
from pacs.cli.verbosity import say
from pacs.dicom.status import MOVE_DESTINATION_UNKNOWN
from pacs.errors import AssociationRejected, ConfigurationError, OperationFailed, PacsError, PeerUnreachable
from pacs.support.sockets import PRIVILEGED, host_and_port, listening, reached

if TYPE_CHECKING:
    from pacs import client
    from pacs.config import Config, PeerEntry
    from pacs.dimse.association.establishment import Protection
    from pacs.dimse.server.server import Address

UNKNOWN_AE_TITLE = "PACS-CHECK-NONE"
"""An AE title that no peer knows: a PACS that accepts it as a move destination does not check destinations."""

FREE_BYTES = 2**30
"""Less free space than this is reported as a failure."""


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """The result of one check: its subject, whether it passed, and a sentence.

    What may be well at another time, and is no fault of this server, is a warning.
    """

    subject: str
    is_ok: bool
    sentence: str
    is_warning: bool = False


@click.command(short_help="Check the configuration and everything a server needs.")
@click.option("--live", is_flag=True, help="Only send a C-ECHO to the running server of this configuration.")
@click.option("--strict", is_flag=True, help="Let warnings fail, too: peers that are off.")
@with_config
def check(config: "Config", *, live: bool, strict: bool) -> None:
    """Validate the configuration, open index and file store, send a C-ECHO to each peer, and report what is wrong.

    A peer that is off is a warning. The exit status is 1 when a check failed.
    """
    results = [_running_server(config)] if live else _results(config)
    is_ok = True
    for each in results:
        passes = each.is_ok or (each.is_warning and not strict)
        show = say if each.is_ok else click.echo
        show(f"{_mark(each, passes=passes)} {each.subject}: {each.sentence}")
        is_ok = is_ok and passes
    if not is_ok:
        raise click.exceptions.Exit(FAILED)


def _mark(outcome: CheckOutcome, *, passes: bool) -> str:
    if not passes:
        return click.style("FAIL", "red")
    return click.style("ok  ", "green") if outcome.is_ok else click.style("warn", "yellow")


def _results(config: "Config") -> Iterator[CheckOutcome]:
    yield CheckOutcome("configuration", True, "valid")
    yield _index(config)
    yield _files(config)
    yield from _completeness(config)
    yield _free_space(config)
    yield _codecs()
    yield from _addresses(config)
    if config.tls.enabled or config.web.tls:
        yield _certificate(config)
    yield from _without_effect(config)
    yield from _explaining(config)
    if config.web.enabled:
        yield _web(config)
        yield from _readiness(config)
    if config.audit.file:
        yield _audit(config)
    for peer in config.peers:
        yield _peer(config, peer)


def _index(config: "Config") -> CheckOutcome:
    from pacs.index import schema
    from pacs.index.database import Index

    try:
        with closing(Index(config.database.url)) as index:
            index.probe()
            is_new = index.is_sqlite and schema.current(index) is None
            if not is_new:
                schema.check(index)
                index.probe_writing()
            facts = index.describe()
    except PacsError as error:
        return CheckOutcome("index", False, error.comment)
    facts |= {"schema": "created when the server starts"} if is_new else {}
    return CheckOutcome("index", True, ", ".join(f"{name} {value}" for name, value in facts.items()))


def _files(config: "Config") -> CheckOutcome:
    from pacs.settings import file_store

    try:
        store = file_store(config)
        store.probe()
        with store.create(0) as probe:
            probe.write(b"written and deleted by pacs check")
            probe.commit(b"")
        store.delete(probe.key)
    except PacsError as error:
        return CheckOutcome("files", False, error.comment)
    return CheckOutcome("files", True, f"{config.files.url!r} is writable")


def _completeness(config: "Config") -> Iterator[CheckOutcome]:
    """Report that the newest files are not in the index, or that its newest instances have no file."""
    from pacs.index import schema
    from pacs.services.completeness import compare
    from pacs.settings import file_store, index

    try:
        with closing(index(config, 1, lambda _sentence: None)) as opened:
            files = file_store(config)
            if opened.is_sqlite and schema.current(opened) is None:
                fault = "the index is empty, and there are files: run `pacs reindex`" if files.newest(1) else ""
            else:
                fault = compare(opened, files).fault
    except PacsError:
        return  # another check has failed for the same reason
    if fault:
        heals = "; the next start of the server adds files to the index (database.heal)" if config.database.heal else ""
        yield CheckOutcome("index and files", False, f"{fault}{heals}")


def _free_space(config: "Config") -> CheckOutcome:
    folder = next((each for each in (Path(config.files.url), *Path(config.files.url).parents) if each.exists()), Path())
    free, least = shutil.disk_usage(folder).free, config.limits.free_space
    if free < max(FREE_BYTES, least):
        refused = ", less than limits.free_space: instances are refused" if free < least else ""
        said = f"only {free / 2**20:.0f} MiB free on the disk of files.url{refused}; free some space"
        return CheckOutcome("free space", False, said)
    return CheckOutcome("free space", True, f"{free / 2**30:.1f} GiB")


def _codecs() -> CheckOutcome:
    """Check that a decoder process starts, which imports the codecs."""
    from pacs.pixels.decoder import probe

    try:
        probe()
    except PacsError as error:
        return CheckOutcome("codecs", False, error.comment)
    return CheckOutcome("codecs", True, "compressed images can be converted")


def _addresses(config: "Config") -> Iterator[CheckOutcome]:
    """Check that each listen address is free, or that the server of this configuration answers there."""
    from pacs.settings import listen_addresses

    for address in listen_addresses(config):
        yield _address(config, address)


def _address(config: "Config", address: "Address") -> CheckOutcome:
    why, is_taken = _listen_failure(address.host, address.port)
    if is_taken and (running := _server_at(config, address)).is_ok:
        return running
    if why:
        keys = "server.host or tls.port" if address.is_secure else "server.host or server.port"
        is_forbidden = os.strerror(errno.EACCES) in why
        hint = PRIVILEGED if is_forbidden else f"change {keys}, or stop the program that uses the port"
        return CheckOutcome("server", False, f"{why}; {hint}")
    where = host_and_port(address.host, address.port)
    return CheckOutcome("server", True, f"{where} is free to listen on{' with TLS' if address.is_secure else ''}")


def _listen_failure(host: str, port: int) -> tuple[str, bool]:
    """Return why this process cannot listen on an address ('' if it can), and whether another program does."""
    try:
        listening(host, port, 1).close()
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        return f"cannot listen on {host_and_port(host, port)} ({why})", error.errno == errno.EADDRINUSE
    return "", False


def _certificate(config: "Config") -> CheckOutcome:
    from pacs.dimse.upper.tls import acceptor_context, valid_until
    from pacs.settings import certificates

    try:
        acceptor_context(certificates(config))
        until = valid_until(certificates(config))
    except PacsError as error:
        return CheckOutcome("certificate", False, error.comment)
    return CheckOutcome("certificate", True, f"{config.tls.certificate} is valid until {until}")


def _without_effect(config: "Config") -> Iterator[CheckOutcome]:
    """Report settings that have no effect, or that reject every association."""
    if (config.users or config.jwt.key) and config.access.users == "ignored":
        yield CheckOutcome("users", False, 'have no effect; set access.users = "optional" or "required"')
    if config.access.callers == "peers" and not config.peers:
        why = 'access.callers is "peers" and [[peers]] is empty, so every association is rejected'
        yield CheckOutcome("peers", False, f'{why}; run `pacs peers add`, or set access.callers = "anyone"')


def _explaining(config: "Config") -> Iterator[CheckOutcome]:
    """Report that the log holds patient data, because requests are explained."""
    peers = [peer.ae_title for peer in config.peers if peer.explain]
    if config.query.explain or peers:
        whose = "all peers" if config.query.explain else ", ".join(peers)
        yield CheckOutcome("explain", True, f"the log explains requests of {whose}, with patient data")


def _web(config: "Config") -> CheckOutcome:
    """Check that the web address is free, or that a server answers there."""
    web = config.web
    why, is_taken = _listen_failure(web.host, web.port)
    if is_taken and _answers_http(config):  # this server, or one with the same paths
        scheme = "https" if web.tls else "http"
        return CheckOutcome("web", True, f"answers on {scheme}://{host_and_port(web.host, web.port)}/healthz")
    if why:
        return CheckOutcome("web", False, f"{why}; change web.host or web.port, or set web.enabled = false")
    return CheckOutcome("web", True, f"{host_and_port(web.host, web.port)} is free to listen on")


def _readiness(config: "Config") -> Iterator[CheckOutcome]:
    """Report why the running server of this configuration is not ready."""
    status, body = _http_answer(config, "/readyz")
    if status == 503:
        with suppress(ValueError, LookupError, TypeError, AttributeError):  # the server of another program
            reasons = json.loads(body)["reasons"]
            said = "; ".join(f"{part}: {reason}" for part, reason in reasons.items())
            yield CheckOutcome("readiness", False, f"the running server is not ready: {said}")


def _answers_http(config: "Config") -> bool:
    return _http_answer(config, "/healthz")[0] == 200


def _http_answer(config: "Config", path: str) -> tuple[int, bytes]:
    """Return status and content of the response of the running server to a GET, 0 and nothing without one."""
    from http.client import HTTPConnection, HTTPException, HTTPSConnection

    from pacs.settings import own_protection

    web = config.web
    host = reached(web.host)
    plain = HTTPConnection(host, web.port, timeout=2)
    asked = HTTPSConnection(host, web.port, timeout=2, context=own_protection(config).context) if web.tls else plain
    with closing(asked) as connection:
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, HTTPException):
            return 0, b""


def _audit(config: "Config") -> CheckOutcome:
    from pacs.observability.audit import Auditor

    with closing(Auditor(Path(config.audit.file))) as auditor:
        try:
            auditor.open()
        except PacsError as error:
            return CheckOutcome("audit log", False, error.comment)
    return CheckOutcome("audit log", True, f"{config.audit.file!r} is writable")


# --- peers -------------------------------------------------------------------------------------------------------


def _peer(config: "Config", peer: "PeerEntry") -> CheckOutcome:
    """Check that a peer answers a C-ECHO, and whether it knows this server as a move destination."""
    from pacs.settings import peer_protection

    subject = f"peer {peer.ae_title} at {host_and_port(peer.host, peer.port)}"
    us = LocalAE(config.server.ae_title, config.server.port)
    try:
        protection = peer_protection(config, peer)
        seconds = config.limits.connect_seconds
        _echo(peer.host, peer.port, config.server.ae_title, peer.ae_title, seconds=seconds, protection=protection)
    except AssociationRejected as error:
        where = 'the [[peers]] block here to\n    ae_title = "ITS_AE_TITLE"'
        return CheckOutcome(subject, False, rejected(error, us, peer.ae_title, where=where))
    except ConfigurationError as error:
        return CheckOutcome(subject, False, error.comment)
    except PacsError as error:
        is_off = isinstance(error, PeerUnreachable)
        return CheckOutcome(subject, False, f"{error.comment}; {UNREACHABLE}", is_warning=is_off)
    knows_us = {
        True: " and has this server as a move destination (C-MOVE)",
        False: f", but does not have this server as a move destination: {not_a_destination(us)}",
        None: "",
    }
    return CheckOutcome(subject, True, "answers C-ECHO" + knows_us[_knows_this_server(config, peer, protection)])


def _knows_this_server(config: "Config", peer: "PeerEntry", protection: "Protection | None") -> bool | None:
    """Return whether a peer has this server as a move destination, None if unknown. Sends a C-MOVE without matches."""
    from pacs import client

    seconds = config.limits.connect_seconds
    asked = client.Peer(
        peer.ae_title,
        peer.host,
        peer.port,
        calling_ae_title=config.server.ae_title,
        protection=protection,
        deadlines=client.Deadlines(connect=seconds, negotiation=seconds, response=seconds),
    )
    knows = {title: _knows(asked, title) for title in (config.server.ae_title, UNKNOWN_AE_TITLE)}
    if knows[config.server.ae_title] is False:
        return False
    return (
        True if knows[config.server.ae_title] and knows[UNKNOWN_AE_TITLE] is False else None
    )  # some check only when something matches


def _knows(peer: "client.Peer", destination: str) -> bool | None:
    """Return whether a PACS accepts a move destination. Sends a C-MOVE of a study that does not exist."""
    from pydicom.uid import generate_uid

    from pacs import client

    try:
        client.move(peer, {"StudyInstanceUID": generate_uid()}, destination=destination)
    except OperationFailed as error:
        return False if error.status == MOVE_DESTINATION_UNKNOWN else None
    except PacsError:
        return None
    return True


def _running_server(config: "Config") -> CheckOutcome:
    """Check that the server of this configuration answers on its first address."""
    from pacs.settings import listen_addresses

    if config.access.callers == "peers" and config.web.enabled and _answers_http(config):
        return CheckOutcome("server", True, "answers HTTP")  # a C-ECHO would be rejected, with a log line each time
    return _server_at(config, listen_addresses(config)[0])


def _server_at(config: "Config", address: "Address") -> CheckOutcome:
    """Check that the server of this configuration answers on an address."""
    from pacs.settings import own_protection

    host = reached(address.host)
    title = config.server.ae_title
    try:
        protection = own_protection(config) if address.is_secure else None
        _echo(host, address.port, title, title, seconds=config.limits.connect_seconds, protection=protection)
    except AssociationRejected:
        return CheckOutcome(
            "server", True, "answers, and rejects associations of this check, as access control is configured"
        )
    except PacsError as error:
        hint = "start it with `pacs serve`, or check server.host and server.port"
        return CheckOutcome("server", False, f"{error.comment}; {hint}")
    where = host_and_port(host, address.port)
    return CheckOutcome("server", True, f"answers C-ECHO on {where}{' with TLS' if protection else ''}")


def _echo(
    host: str,
    port: int,
    calling_ae_title: str,
    called_ae_title: str,
    *,
    seconds: float,
    protection: "Protection | None" = None,
) -> None:
    """Send one C-ECHO. Raises AssociationRejected, DestinationUnreachable, AssociationLost."""
    from pacs.dimse.scu import echo

    echo(
        host,
        port,
        calling_ae_title=calling_ae_title,
        called_ae_title=called_ae_title,
        timeout=seconds,
        protection=protection,
    )
