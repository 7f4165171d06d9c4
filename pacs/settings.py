"""Translates a `Config` into the settings of the other parts, which do not know the configuration."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path

from pacs import config as configuration
from pacs.config import Config, split_address
from pacs.dicom.bounds import DataSetBounds
from pacs.dicom.matching_mode import MATCHING_MODES
from pacs.dimse.association import association
from pacs.dimse.association.establishment import Protection
from pacs.dimse.scp.retrieve_task import RetrieveLimits
from pacs.dimse.server.association_slots import AssociationBounds
from pacs.dimse.server.server import Address
from pacs.dimse.upper import tls
from pacs.errors import ConfigurationError, StorageUnavailable
from pacs.files.local import LocalFiles
from pacs.index.database import Index
from pacs.services import commitment
from pacs.services.access import Rules
from pacs.services.peers import Peer, Peers, Right
from pacs.services.tokens import subject_checker
from pacs.services.users import User, Users
from pacs.support.cores import cores

MOST_CONNECTIONS = 32
"""Maximum size of the database connection pool of one process."""

ALL_CONNECTIONS, LEAST_CONNECTIONS = 64, 8
"""Maximum size of the pools of all workers together, and minimum of each; PostgreSQL allows 100 by default."""

MOST_WORKERS = 4
"""Maximum number of worker processes that `server.workers = "auto"` chooses."""

QUERY_PAGE = 200
"""Number of matches that a query reads from the index at a time."""

# --- reload -------------------------------------------------------------------------------------------------------

AT_START: dict[str, tuple[str, ...]] = {
    "server": tuple(configuration.ServerSection.model_fields),
    "database": tuple(configuration.DatabaseSection.model_fields),
    "files": ("url",),
    "limits": ("decoders",),
    "web": tuple(configuration.WebSection.model_fields),
    "tls": ("enabled", "port", "only"),
    "log": ("format",),
    "metrics": tuple(configuration.MetricsSection.model_fields),
    "commitment": tuple(configuration.CommitmentSection.model_fields),
    "audit": tuple(configuration.AuditSection.model_fields),
}
"""The keys that take effect only when the server starts, by section."""


def reloadable(before: Config, after: Config) -> tuple[Config, tuple[str, ...]]:
    """Return `after` with the keys that take effect at the start as in `before`, and which of those differ.

    Raises ConfigurationError if the combination is not valid: access control that protects an open listener must not
    be removed while the server still listens there.
    """
    kept, waiting = {}, []
    for section, keys in AT_START.items():
        old, new = getattr(before, section), getattr(after, section)
        kept[section] = new.model_copy(update={key: getattr(old, key) for key in keys})
        waiting += [f"{section}.{key}" for key in keys if getattr(old, key) != getattr(new, key)]
    return configuration.revalidated(after.model_copy(update=kept)), tuple(waiting)


def peers_file(config: Config) -> Path:
    """Return the path of `peers.toml`."""
    return Path(config.files.url).parent / configuration.PEERS_FILE


def workers(config: Config) -> int:
    """Return the number of worker processes of the server; 1 is a single process."""
    chosen = config.server.workers
    return min(cores(), MOST_WORKERS) if chosen == "auto" else chosen


# --- stores -------------------------------------------------------------------------------------------------------


def index(config: Config, workers: int, notify: Callable[[str], object]) -> Index:
    """Return the index for one of `workers` processes, which share the database connections and a write lock.

    `notify` gets a sentence when the file of the database is lost or back.
    """
    server, database = config.server, config.database
    connections = min(MOST_CONNECTIONS, max(LEAST_CONNECTIONS, ALL_CONNECTIONS // workers))
    return Index(
        database.url,
        connections=connections,
        wait=database.wait_seconds,
        is_shared=server.workers != 1 or server.shared,  # the same for commands, which may have other cores
        notify=notify,
    )


def file_store(config: Config) -> LocalFiles:
    """Return the file store. Raises ConfigurationError, StorageUnavailable."""
    url = config.files.url
    if url.startswith("s3://"):
        raise ConfigurationError(f"files.url = {url!r}: object storage is not supported yet; expected a folder")
    with naming_folder(config):
        return LocalFiles(Path(url), config.limits.free_space)


@contextmanager
def naming_folder(config: Config) -> Iterator[None]:
    """Add the folder to a StorageUnavailable, for the operator; peers are told no paths."""
    try:
        yield
    except StorageUnavailable as error:
        hint = f"check that files.url = {config.files.url!r} is a writable folder"
        raise StorageUnavailable(f"{error.comment}; {hint}") from error


# --- TLS ----------------------------------------------------------------------------------------------------------


def certificates(config: Config) -> tls.Certificates:
    """Return the certificate files of the server."""
    keys = config.tls
    return tls.Certificates(certificate=keys.certificate, key=keys.key, ca=keys.ca, of_clients=keys.client_certificates)


def peer_protection(config: Config, peer: configuration.PeerEntry) -> Protection | None:
    """Return how to connect to a peer with TLS, None without TLS. Raises ConfigurationError."""
    if not peer.tls:
        return None
    context = tls.requestor_context(certificates(config), is_pinned=bool(peer.certificates))
    return Protection(context, frozenset(peer.certificates))


def own_protection(config: Config) -> Protection:
    """Return how the server connects to itself with TLS. Raises ConfigurationError."""
    files = certificates(config)
    context = tls.requestor_context(files, is_pinned=True)
    return Protection(context, frozenset({tls.fingerprint_of(files.certificate)}))


# --- associations -------------------------------------------------------------------------------------------------


def listen_addresses(config: Config) -> list[Address]:
    """Return the addresses for associations: first those without TLS, then the same hosts with TLS."""
    server, keys = config.server, config.tls
    plain = [Address(server.host, server.port), *(Address(*split_address(each)) for each in server.listen)]
    hosts = dict.fromkeys(each.host for each in plain)
    secure = [Address(host, keys.port, is_secure=True) for host in hosts] if keys.enabled else []
    return secure if keys.only else plain + secure


def association_limits(limits: configuration.LimitsSection) -> association.AssociationLimits:
    """Return the timeouts and sizes of one association."""
    return association.AssociationLimits(
        negotiation=limits.negotiation_seconds,
        idle=limits.idle_seconds,
        message=limits.message_seconds,
        least_rate=limits.least_rate,
        write=limits.write_seconds,
        connect=limits.connect_seconds,
        max_pdu=limits.pdu_size,
    )


def association_bounds(limits: configuration.LimitsSection) -> AssociationBounds:
    """Return the maximum numbers of associations."""
    return AssociationBounds(
        in_all=limits.associations,
        per_address=limits.associations_per_address,
        per_ae=limits.associations_per_ae,
    )


# --- services -----------------------------------------------------------------------------------------------------


def data_set_bounds(limits: configuration.LimitsSection) -> DataSetBounds:
    """Return the limits of a data set to store."""
    return DataSetBounds(elements=limits.elements, inflated=limits.inflated_size)


def identifier_bounds(limits: configuration.LimitsSection) -> DataSetBounds:
    """Return the limits of the Identifier of a query or retrieve."""
    return DataSetBounds(elements=limits.identifier_elements)


def retrieve_limits(limits: configuration.LimitsSection) -> RetrieveLimits:
    """Return when a retrieve sends Pending responses, and how long it continues after a C-CANCEL."""
    return RetrieveLimits(
        pending_every=limits.pending_every, pending_seconds=limits.pending_seconds, cancel_grace=limits.cancel_grace
    )


def decoders(config: Config, workers: int) -> int:
    """Return how many decoder processes each of `workers` processes may have."""
    chosen = config.limits.decoders
    in_all = cores() if chosen == "auto" else chosen
    return math.ceil(in_all / workers)


def commitment_schedule(keys: configuration.CommitmentSection) -> commitment.RetrySchedule:
    """Return when reports of storage commitment are repeated."""
    return commitment.RetrySchedule(
        first=keys.first_retry_seconds, longest=keys.longest_retry_seconds, give_up=keys.give_up_seconds
    )


def commitment_bounds(keys: configuration.CommitmentSection) -> commitment.CommitmentBounds:
    """Return the limits of storage commitment."""
    return commitment.CommitmentBounds(
        instances=keys.instances, active=keys.active, active_of_peer=keys.active_per_peer
    )


def peers(config: Config) -> Peers:
    """Return the configured peers."""
    return Peers(map(_peer, config.peers), MATCHING_MODES[config.query.manner], explain=config.query.explain)


def _peer(peer: configuration.PeerEntry) -> Peer:
    return Peer(
        ae_title=peer.ae_title,
        host=peer.host,
        port=peer.port,
        matching_mode=MATCHING_MODES[peer.manner] if peer.manner else None,
        transfer_syntaxes=peer.transfer_syntaxes,
        send_as=peer.send_as,
        associations=peer.associations,
        rights=frozenset(map(Right, peer.services)),
        addresses=tuple(map(ip_network, peer.addresses)),
        certificates=frozenset(peer.certificates),
        destinations=None if peer.destinations is None else frozenset(peer.destinations),
        lenient_roles=peer.roles == "lenient",
        explain=peer.explain,
    )


def access_rules(config: Config) -> Rules:
    """Return the rules for callers that are not peers."""
    access = config.access
    return Rules(
        titles=(config.server.ae_title, *config.server.aliases),
        any_called_title=access.called_ae == "any",
        any_caller=access.callers == "anyone",
        rights=frozenset(map(Right, access.services)),
    )


def users(config: Config) -> Users:
    """Return the users. Raises ConfigurationError if tokens cannot be verified."""
    jwt = config.jwt
    check = subject_checker(jwt.key, jwt.algorithm, jwt.audience, jwt.issuer) if jwt.key else None
    return Users((User(each.name, each.passcode) for each in config.users), config.access.users, check)
