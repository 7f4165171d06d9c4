"""`pacs check`: looks at everything a server needs, and says how to mend what it finds."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pacs.cli.mismatches import Ourselves, not_a_destination, rejected
from pacs.cli.options import configured
from pacs.errors import AssociationRejected, ConfigurationError, OperationFailed, PacsError
from pacs.support.sockets import listening, reached

if TYPE_CHECKING:
    from pacs import client
    from pacs.config import Config, Peer
    from pacs.dimse.association.establishment import Protection
    from pacs.dimse.server.server import Address

DESTINATION_UNKNOWN = 0xA801
NOBODY = "PACS-CHECK-NONE"
"""An AE title that no table has: a PACS that would send to it says yes to everything as long as nothing matches."""

FREE_BYTES = 2**30
"""Less free space than this is said to be little."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what it is, whether it is well, and what there is to say."""

    subject: str
    well: bool
    sentence: str


@click.command(short_help="Look at everything a server needs.")
@click.option("--live", is_flag=True, help="Only ask the server that runs with this configuration for a C-ECHO.")
@configured
def check(config: "Config", *, live: bool) -> None:
    """Validate the configuration, open index and files, echo the peers, and say how to mend what is found."""
    findings = [_ourselves(config)] if live else _findings(config)
    well = True
    for each in findings:
        mark = click.style("ok  ", "green") if each.well else click.style("FAIL", "red")
        click.echo(f"{mark} {each.subject}: {each.sentence}")
        well = well and each.well
    if not well:
        raise click.exceptions.Exit(1)


def _findings(config: "Config") -> Iterator[Finding]:
    yield Finding("configuration", True, "valid")
    yield _index(config)
    yield _files(config)
    yield _free_space(config)
    yield from _addresses(config)
    if config.tls.enabled or config.web.tls:
        yield _certificate(config)
    yield from _without_effect(config)
    yield from _explaining(config)
    if config.web.enabled:
        yield _web(config)
    if config.audit.file:
        yield _audit(config)
    for peer in config.peers:
        yield _peer(config, peer)


def _index(config: "Config") -> Finding:
    from pacs.index import schema
    from pacs.index.database import Index

    try:
        with closing(Index(config.database.url)) as index:
            index.probe()
            is_new = index.is_sqlite and schema.current(index) is None
            if not is_new:
                schema.check(index)
            facts = index.describe()
    except PacsError as error:
        return Finding("index", False, error.comment)
    facts |= {"schema": "made when the server starts"} if is_new else {}
    return Finding("index", True, ", ".join(f"{name} {value}" for name, value in facts.items()))


def _files(config: "Config") -> Finding:
    from pacs.archive import file_store

    try:
        store = file_store(config)
        with store.create(0, datetime.now(UTC)) as probe:
            probe.write(b"written by pacs check, and deleted by it")
            probe.commit(b"")
        store.delete(probe.key)
    except PacsError as error:
        return Finding("files", False, error.comment)
    return Finding("files", True, f"{config.files.url} can be written")


def _free_space(config: "Config") -> Finding:
    folder = next((each for each in (Path(config.files.url), *Path(config.files.url).parents) if each.exists()), Path())
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES:
        return Finding("free space", False, f"only {free / 2**20:.0f} MiB are left where the files are: make room")
    return Finding("free space", True, f"{free / 2**30:.1f} GiB where the files are")


def _addresses(config: "Config") -> Iterator[Finding]:
    """Whether each address to listen on is free, or has our own server behind it."""
    from pacs.archive import addresses_of

    for address in addresses_of(config):
        yield _address(config, address)


def _address(config: "Config", address: "Address") -> Finding:
    why, is_taken = _obstacle(address.host, address.port)
    if is_taken and (running := _answer_of(config, address)).well:
        return running
    if why:
        keys = "server.host or tls.port" if address.is_secure else "server.host or server.port"
        return Finding("server", False, f"{why}: change {keys}, or end what is there")
    where = f"{address.host}:{address.port}"
    return Finding("server", True, f"{where} is free to listen on{' with TLS' if address.is_secure else ''}")


def _obstacle(host: str, port: int) -> tuple[str, bool]:
    """Why an address cannot be listened on, '' where it can, and whether that is because somebody does."""
    try:
        listening(host, port, 1).close()
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        return f"cannot listen on {host}:{port} ({why})", error.errno == errno.EADDRINUSE
    return "", False


def _certificate(config: "Config") -> Finding:
    from pacs.archive import certificates_of
    from pacs.dimse.upper.tls import acceptor_context, valid_until

    try:
        acceptor_context(certificates_of(config))
        until = valid_until(certificates_of(config))
    except PacsError as error:
        return Finding("certificate", False, error.comment)
    return Finding("certificate", True, f"{config.tls.certificate} is valid until {until}")


def _without_effect(config: "Config") -> Iterator[Finding]:
    """What was written down and does nothing, or lets nobody in."""
    if (config.users or config.jwt.key) and config.access.users == "ignored":
        yield Finding("users", False, 'have no effect: set access.users = "optional" or "required"')
    if config.access.callers == "peers" and not config.peers:
        yield Finding(
            "peers", False, 'nobody is let in: add one with `pacs peers add`, or set access.callers = "anyone"'
        )


def _explaining(config: "Config") -> Iterator[Finding]:
    """That patient data is shown, where it is."""
    peers = [peer.ae_title for peer in config.peers if peer.explain]
    if config.query.explain or peers:
        whose = "everybody" if config.query.explain else ", ".join(peers)
        where = f"in the log and on {config.web.host}:{config.web.port}/explain" if config.web.enabled else "in the log"
        yield Finding("explain", True, f"what {whose} asks is shown {where}: patient data")


def _web(config: "Config") -> Finding:
    """Whether the web address is free, or has our own server behind it."""
    web = config.web
    why, is_taken = _obstacle(web.host, web.port)
    if is_taken and _answers_http(config):  # by us, or by who has the same paths
        scheme = "https" if web.tls else "http"
        return Finding("web", True, f"answers on {scheme}://{web.host}:{web.port}/healthz")
    if why:
        return Finding("web", False, f"{why}: change web.host or web.port, or set web.enabled = false")
    return Finding("web", True, f"{web.host}:{web.port} is free to listen on")


def _answers_http(config: "Config") -> bool:
    from http.client import HTTPConnection, HTTPException, HTTPSConnection

    from pacs.archive import ourselves

    web = config.web
    host = reached(web.host)
    plain = HTTPConnection(host, web.port, timeout=2)
    asked = HTTPSConnection(host, web.port, timeout=2, context=ourselves(config).context) if web.tls else plain
    with closing(asked) as connection:
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False


def _audit(config: "Config") -> Finding:
    from pacs.observability.audit import Auditor

    with closing(Auditor(Path(config.audit.file))) as auditor:
        try:
            auditor.open()
        except PacsError as error:
            return Finding("audit log", False, error.comment)
    return Finding("audit log", True, f"{config.audit.file} can be written")


# --- peers -------------------------------------------------------------------------------------------------------


def _peer(config: "Config", peer: "Peer") -> Finding:
    """Whether a peer answers us, and, where it is a PACS, whether it would send to us."""
    from pacs.archive import protection_of

    subject = f"peer {peer.ae_title} at {peer.host}:{peer.port}"
    us = Ourselves(config.server.ae_title, config.server.port)
    try:
        protection = protection_of(config, peer)
        seconds = config.limits.connect_seconds
        _echo(peer.host, peer.port, config.server.ae_title, peer.ae_title, seconds=seconds, protection=protection)
    except AssociationRejected as error:
        where = 'the [[peers]] block here to\n    ae_title = "ITS_AE_TITLE"'
        return Finding(subject, False, rejected(error, us, peer.ae_title, where=where))
    except ConfigurationError as error:
        return Finding(subject, False, error.comment)
    except PacsError as error:
        return Finding(subject, False, f"{error.comment}; check host and port, and whether it runs")
    other_way = _THE_OTHER_WAY[_would_send(config, peer, protection)]
    return Finding(subject, True, "answers C-ECHO" + other_way.format(mend=not_a_destination(us)))


_THE_OTHER_WAY = {
    True: ", and would send to us (C-MOVE)",
    False: ", and does not know us as a destination: {mend}",
    None: "",
}


def _would_send(config: "Config", peer: "Peer", protection: "Protection | None") -> bool | None:
    """Whether a peer knows us as a move destination, None where it does not say: it is asked to move nothing to us."""
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
    knows = {title: _knows(asked, title) for title in (config.server.ae_title, NOBODY)}
    if knows[config.server.ae_title] is False:
        return False
    return True if knows[config.server.ae_title] and knows[NOBODY] is False else None  # some look only at what matches


def _knows(peer: "client.Peer", destination: str) -> bool | None:
    """Whether a PACS takes a destination: it is asked to move a study there that nobody has."""
    from pydicom.uid import generate_uid

    from pacs import client

    try:
        client.move(peer, {"StudyInstanceUID": generate_uid()}, destination=destination)
    except OperationFailed as error:
        return False if error.status == DESTINATION_UNKNOWN else None
    except PacsError:
        return None
    return True


def _ourselves(config: "Config") -> Finding:
    """Whether the server of this configuration answers on the first address it listens on."""
    from pacs.archive import addresses_of

    if config.access.callers == "peers" and config.web.enabled and _answers_http(config):
        return Finding("server", True, "answers HTTP")  # a C-ECHO would be rejected, and logged each time
    return _answer_of(config, addresses_of(config)[0])


def _answer_of(config: "Config", address: "Address") -> Finding:
    """Whether the server of this configuration answers on an address."""
    from pacs.archive import ourselves

    host = reached(address.host)
    title = config.server.ae_title
    try:
        protection = ourselves(config) if address.is_secure else None
        _echo(host, address.port, title, title, seconds=config.limits.connect_seconds, protection=protection)
    except AssociationRejected:
        return Finding("server", True, "answers, and rejects its own AE title as it is told to")
    except PacsError as error:
        return Finding("server", False, error.comment)
    return Finding("server", True, f"answers C-ECHO on {host}:{address.port}{' with TLS' if protection else ''}")


def _echo(
    host: str,
    port: int,
    calling_ae_title: str,
    called_ae_title: str,
    *,
    seconds: float,
    protection: "Protection | None" = None,
) -> None:
    """One association with one C-ECHO. Raises AssociationRejected, DestinationUnreachable, AssociationLost."""
    from pacs.dimse.scu import echo

    echo(
        host,
        port,
        calling_ae_title=calling_ae_title,
        called_ae_title=called_ae_title,
        timeout=seconds,
        protection=protection,
    )
