"""The composition root: builds every part of the archive from a `Config`; starts, reloads, drains and stops them."""

import errno
import ssl
import threading
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Self

from pacs import config as configuration
from pacs.config import Config, split_address
from pacs.dicom.bounds import DataSetBounds
from pacs.dicom.matching_mode import MATCHING_MODES
from pacs.dicom.syntaxes import KEPT
from pacs.dimse.association import association
from pacs.dimse.association.establishment import Protection
from pacs.dimse.scp.association_access import AssociationAccess, credentials
from pacs.dimse.scp.association_events import AssociationEvents
from pacs.dimse.scp.event_reports import EventReporter
from pacs.dimse.scp.explain_hook import ExplainHook, statuses
from pacs.dimse.scp.fault_hook import Interposes, Nothing
from pacs.dimse.scp.handlers import Explain, Handlers
from pacs.dimse.scp.retrieve_task import RetrieveLimits
from pacs.dimse.server.acceptor_policy import AcceptorPolicy
from pacs.dimse.server.association_slots import AssociationBounds, WorkerSlots
from pacs.dimse.server.server import Address, Server, Settings
from pacs.dimse.upper import tls as secure
from pacs.dimse.upper.user_information import UserIdentity
from pacs.errors import ConfigurationError, StorageUnavailable
from pacs.files.local import LocalFiles
from pacs.index import schema
from pacs.index.database import Index
from pacs.monitoring import Oversight
from pacs.observability.audit import Auditor
from pacs.observability.events import EventStream, Notice, ServerReady, WebReady
from pacs.services.access import Access, Rules
from pacs.services.backup import Backups
from pacs.services.commitment import CommitmentBounds, Commitments, RetrySchedule
from pacs.services.explaining import Explainer
from pacs.services.explanations import Explanations
from pacs.services.fsck import Fsck
from pacs.services.maintenance import Maintenance
from pacs.services.peers import Peer, Peers, Right
from pacs.services.query import QueryService
from pacs.services.recovery import Recovery
from pacs.services.reindex import Reindex
from pacs.services.retrieve import RetrieveService
from pacs.services.storage import Storage
from pacs.services.tokens import subject_checker
from pacs.services.users import User, Users
from pacs.web.listener import Application, WebServer

CONNECTIONS = 32
"""How many connections to its database the pool of one process has at most."""

ALL_CONNECTIONS, FEWEST_CONNECTIONS = 64, 8
"""How many the pools of all workers have together, and each at least: PostgreSQL as it ships takes 100."""


EXPLAINED = "requests are explained: the log and /explain hold patient data until query.explain and explain are off"
"""What an administrator is told at the start, who may have forgotten it."""


class Archive:
    """The archive of one configuration: its stores and services, and, once started, its server.

    `events` is its event stream, to subscribe to before it is started; one may be given. `port` is the one it listens
    on, once it is started also where any free one was asked for. Use it in a `with` block, or `close()` it.

    It serves alone, in this process, by `start()`. Of several workers one archive prepares in the process they are
    forked from, and each worker has an archive of its own that joins it: see `pacs.workers`.

    `interposition` comes between the server and its settings: faults on demand, and what watches for a test.
    """

    def __init__(
        self, config: Config, events: EventStream | None = None, interposition: Interposes | None = None
    ) -> None:
        self.config = config
        self._interposition = interposition or Nothing()
        self.events = events or EventStream()
        self.port = config.server.port
        self.index = _index(config)
        self.files = file_store(config)
        self.auditor = Auditor(Path(config.audit.file) if config.audit.file else None, self.events.publish)
        self.explainer = Explainer(self.index, statuses)
        self.explanations = Explanations(config.server.workers)
        self.oversight = self._overseen()
        self.storage = Storage(self.index, self.files, publish=self.events.publish, auditor=self.auditor)
        self.commitments = Commitments(
            self.index,
            self.files,
            unknown_sop_classes=config.storage.unknown_sop_classes,
            schedule=_schedule(config.commitment),
            bounds=_bounds(config.commitment),
            is_peer=self._is_peer,
            publish=self.events.publish,
        )
        self._reporter = self._commitment_reporter()
        self._serve_by(config)
        publish = self.events.publish
        self.maintenance = Maintenance(
            self.index, self.files, verify=config.files.verify, publish=publish, auditor=self.auditor
        )
        self.fsck = Fsck(self.index, self.files)
        self.reindex = Reindex(self.index, self.files, newest=config.storage.duplicates == "replace")
        self.backups = Backups(self.index, self.files)
        self._recovery = Recovery(self.index, self.files, publish)
        self._addresses = addresses_of(config)
        nobody = Settings(policy=AcceptorPolicy(transfer_syntaxes=()))  # who only looks into the archive needs no keys
        self._server = Server(self._addresses, nobody, observer=AssociationEvents(self.oversight.publish))
        self._protections: Mapping[str, Protection | None] = {}
        self._to_ourselves: Protection | None = None
        self._web_tls: ssl.SSLContext | None = None
        self._web: WebServer | None = None
        self._closing = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def open(self) -> None:
        """Make the index ready for use: an embedded one is upgraded, a server's is checked.

        Raises SchemaMismatch, IndexUnavailable, and ConfigurationError when there can be no audit log.
        """
        self.auditor.open()
        self.index.probe()
        schema.ensure(self.index)

    def start(self) -> None:
        """Prepare, and accept associations; ServerReady is published then. Raises as `prepare`."""
        self.prepare()
        self.oversight.begin()
        self._server.start()
        self._answer()
        self.announce()
        self._reporter.start()

    def prepare(self) -> None:
        """Do what is done once for a server: open, clear what an unclean stop left, listen; accept nothing yet.

        Raises SchemaMismatch, IndexUnavailable, StorageUnavailable, and ConfigurationError when the address to listen
        on cannot be had, or a certificate, key or token cannot be used.
        """
        self._get_ready()
        self.open()
        with self.files.start_lock():  # of two that start at once each would leave the recovery to the other
            self.files.start()
            self._recovery.begin()
        self.commitments.retry_all_soon()
        try:
            self._server.listen()
        except OSError as error:
            where = ", ".join(f"{each.host}:{each.port}" for each in addresses_of(self.config))
            why = f"cannot listen on {where} ({error.strerror})"
            raise ConfigurationError(f"{why}: expected server.host to be ours and server.port to be free") from error
        self.port = self._server.port
        self._listen_for_http()

    def _get_ready(self) -> None:
        """Make what only a server needs: certificates, users, handlers. Raises ConfigurationError."""
        config = self.config
        if config.web.enabled:
            self._web_tls = secure.web_context(certificates_of(config)) if config.web.tls else None
            self._web = self._http()
        self._server.configure(self._settings(config))

    def _listen_for_http(self) -> None:
        if self._web is None:
            return
        try:
            self._web.listen()
        except OSError as error:
            web = self.config.web
            why = f"cannot listen for HTTP on {web.host}:{web.port} ({error.strerror})"
            mend = "expected web.host to be ours and web.port to be free: name another one, or set web.enabled = false"
            if error.errno != errno.EADDRINUSE or web.port != configuration.Web().port:
                raise ConfigurationError(f"{why}: {mend}") from error
            # Nobody chose this one, and it is often taken: images are taken in all the same.
            self._web = None
            self.events.publish(Notice(sentence=f"{why}, HTTP is not answered: {mend}"))

    def _answer(self) -> None:
        """Answer HTTP from now on."""
        if self._web is not None:
            self._web.start()

    @property
    def web_port(self) -> int:
        """The port HTTP is answered on, also where any free one was asked for; 0 where it is not."""
        return self._web.port if self._web is not None else 0

    def announce(self) -> None:
        """Publish that associations are accepted, and that HTTP is answered."""
        server = self.config.server
        self.events.publish(
            ServerReady(ae_title=server.ae_title, host=server.host, port=self.port, secure_port=self.secure_port)
        )
        if self.peers.explains_any:
            self.events.publish(Notice(sentence=EXPLAINED))
        if self._web is not None:
            web = self.config.web
            self.events.publish(WebReady(host=web.host, port=self.web_port, is_secure=web.tls))

    @property
    def secure_port(self) -> int:
        """The port on which associations are encrypted, once it is started also where any was asked for; 0 for none."""
        return next(
            (port for port, each in zip(self._server.ports, self._addresses, strict=False) if each.is_secure), 0
        )

    def reload(self, config: Config) -> tuple[str, ...]:
        """Go by another configuration, as far as that can be done while it runs; no association ends by it.

        Requests see it at once, limits and certificates the next connection. The keys that differ and wait for the
        next start are returned. Raises ConfigurationError, and nothing has changed then.
        """
        usable, at_start = _usable(self.config, config)
        explained = self.peers.explained
        self.auditor.reopen()
        if self._web_tls is not None:
            secure.renew(self._web_tls, certificates_of(usable))
        self._server.configure(self._settings(usable))  # which is the last that can fail
        self.files.least_free = usable.limits.free_space
        self.config = usable
        if self.peers.explained != explained:  # what was kept may be of somebody whose is not to be any more
            self.explanations.forget()
        return at_start

    def join(self, prepared: "Archive", slots: WorkerSlots, worker: int) -> None:
        """Accept associations as a worker of the server that another archive prepared before this process was forked.

        That one's marker says for all of them that instances may have to be looked for at the next start. Raises
        StorageUnavailable.
        """
        self._get_ready()
        self.index.is_recoverable = True
        self.files.join()
        self.oversight.join(prepared.oversight, worker)
        self.explanations.join(prepared.explanations, worker)
        self._server.join(prepared._server.listeners, slots)
        self._reporter.start()
        self.port = self._server.port
        if self._web is not None and prepared._web is not None:
            self._web.join(prepared._web)
            self._web.start()

    @property
    def status(self) -> str:
        """What systemd shows of it while it serves."""
        return f"Serves as {self.config.server.ae_title} on {self.config.server.host}:{self.port}"

    def stop_listening(self) -> None:
        """Accept no more. What runs goes on."""
        self._server.stop_accepting()

    def require_recovery(self) -> None:
        """Make the next start recover although this server stops cleanly, because a worker did not."""
        self._recovery.require()

    def drain(self) -> None:
        """Accept no more, let what runs end for at most `limits.drain_seconds`, then stop."""
        self._server.drain(self.config.limits.drain_seconds)
        self.close()

    def close(self) -> None:
        """Stop what runs, at once, and let go of the index. Closing twice does no harm, nor from two threads."""
        self._server.stop()
        self._interposition.close()
        with self._closing:
            self._reporter.stop()
            if self._web is not None:
                self._web.stop()
            self.storage.check_uncertain_files()
            self.files.close()
            if self.storage.has_uncertain_files:
                self._recovery.require()
            self._recovery.end()
            self.index.close()
            self.auditor.close()

    def _overseen(self) -> Oversight:
        config = self.config
        return Oversight(
            index=self.index,
            files=self.files,
            events=self.events,
            ae_title=config.server.ae_title,
            address=lambda: (self.config.server.host, self.port),
            is_accepting=lambda: self._server.is_accepting,
            is_peer=self._is_peer,
            workers=config.server.workers,
            most_associations=lambda: self.config.limits.associations,
            protection=lambda: self._to_ourselves,
            counts=config.metrics.enabled,
            explanations=self._explained,
        )

    def _explained(self) -> Sequence[Mapping[str, Any]] | None:
        """The last explanations, None where nothing is explained."""
        return self.explanations.latest() if self.peers.explains_any else None

    def _http(self) -> WebServer:
        """The web mouth. What it is made of is imported when it answers."""

        def make() -> Application:
            from pacs.web.app import application

            return application(self.oversight.insight)

        web = self.config.web
        return WebServer(web.host, web.port, make, self._web_tls)

    def _serve_by(self, config: Config) -> None:
        """Have the services go by a configuration: also while a server runs."""
        limits = config.limits
        self.storage.duplicates = config.storage.duplicates
        self.storage.unknown_sop_classes = config.storage.unknown_sop_classes
        self.storage.bounds = DataSetBounds(
            depth=limits.nesting, elements=limits.elements, inflated=limits.inflated_size
        )
        self.peers = Peers(_peers(config), MATCHING_MODES[config.query.manner], explain=config.query.explain)
        self.access = Access(_rules(config), self.peers)
        self.queries = QueryService(
            self.index,
            self.files,
            page=limits.query_page,
            scan_limit=limits.query_scan,
            max_matches=limits.query_answers,
        )
        self.retrieves = RetrieveService(
            self.index,
            self.files,
            limits.retrieve_studies,
            verify=config.files.verify,
            publish=self.events.publish,
        )

    def _settings(self, config: Config) -> Settings:
        """What the DIMSE mouth goes by, and the services with it. Raises ConfigurationError before anything changes."""
        protections = {each.ae_title: protection_of(config, each) for each in config.peers}
        tls = secure.acceptor_context(certificates_of(config)) if config.tls.enabled else None
        to_ourselves = ourselves(config) if config.tls.only else None
        users, limits = _users(config), config.limits
        self._serve_by(config)
        self._protections, self._to_ourselves = protections, to_ourselves
        of_associations = _association_limits(limits)
        handlers = Handlers(
            storage=self.storage,
            queries=self.queries,
            retrieves=self.retrieves,
            commitments=self.commitments,
            reporter=self._reporter,
            peers=self.peers,
            access=self.access,
            publish=self.oversight.publish,
            auditor=self.auditor,
            ae_title=config.server.ae_title,
            identifier_size=limits.identifier_size,
            identifier_bounds=DataSetBounds(depth=limits.nesting, elements=limits.identifier_elements),
            retrieve_limits=_retrieve_limits(limits),
            limits=of_associations,
            protect=lambda peer: protections[peer.ae_title],
            explain=self._explaining(),
        )
        settings = Settings(
            policy=self._policy(config, users),
            handlers=handlers.table(),
            has=handlers.has,
            limits=of_associations,
            bounds=AssociationBounds(
                in_all=limits.associations,
                per_address=limits.associations_per_address,
                per_ae=limits.associations_per_ae,
            ),
            tls=tls,
        )
        return self._interposition.on(settings, handlers)

    def _explaining(self) -> Explain | None:
        """What notes the requests that are to be explained, None where none are."""
        if not self.peers.explains_any:
            return None
        return ExplainHook(self.explainer, lambda: self.access, self.explanations.keep).note

    def _destination(self, title: str) -> Peer:
        """A peer as it is configured now. Raises UnknownDestination."""
        return self.peers.destination(title)

    def _is_peer(self, title: str) -> bool:
        return self.peers.find(title) is not None

    def _commitment_reporter(self) -> EventReporter:
        config = self.config
        return EventReporter(
            self.commitments,
            self._destination,
            self.events.publish,
            config.server.ae_title,
            idle=config.commitment.same_association_seconds,
            limits=_association_limits(config.limits),
            protect=lambda peer: self._protections.get(peer.ae_title),
        )

    def _policy(self, config: Config, users: Users) -> AcceptorPolicy:
        def identify(identity: UserIdentity | None) -> str:
            return users.identify(credentials(identity) if identity is not None else None)

        return AcceptorPolicy(
            access=AssociationAccess(self.access),
            transfer_syntaxes=KEPT,
            order_for=self.peers.transfer_syntaxes_of,
            unknown_sop_classes=config.storage.unknown_sop_classes,
            identify=identify,
        )


# --- from the configuration ---------------------------------------------------------------------------------------

AT_START: dict[str, tuple[str, ...]] = {
    "server": tuple(configuration.Server.model_fields),
    "database": tuple(configuration.Database.model_fields),
    "files": ("url",),
    "web": tuple(configuration.Web.model_fields),
    "tls": ("enabled", "port", "only"),
    "log": ("format",),
    "metrics": tuple(configuration.Metrics.model_fields),
    "commitment": tuple(configuration.Commitment.model_fields),
    "audit": tuple(configuration.Audit.model_fields),
}
"""The keys that only the start takes notice of, by section."""


def _usable(before: Config, after: Config) -> tuple[Config, tuple[str, ...]]:
    """What of a later configuration can be gone by while a server runs, and the keys that differ and cannot.

    Raises ConfigurationError where both together are no configuration: what keeps strangers out of a wide open server
    must not go while it still listens there.
    """
    kept, waiting = {}, []
    for section, keys in AT_START.items():
        old, new = getattr(before, section), getattr(after, section)
        kept[section] = new.model_copy(update={key: getattr(old, key) for key in keys})
        waiting += [f"{section}.{key}" for key in keys if getattr(old, key) != getattr(new, key)]
    return configuration.revalidated(after.model_copy(update=kept)), tuple(waiting)


def addresses_of(config: Config) -> list[Address]:
    """Where a server of this configuration listens: first plain, then on the same hosts with TLS."""
    server, tls = config.server, config.tls
    plain = [Address(server.host, server.port), *(Address(*split_address(each)) for each in server.listen)]
    hosts = dict.fromkeys(each.host for each in plain)
    encrypted = [Address(host, tls.port, is_secure=True) for host in hosts] if tls.enabled else []
    return encrypted if tls.only else plain + encrypted


def certificates_of(config: Config) -> secure.Certificates:
    """The files that TLS needs."""
    tls = config.tls
    return secure.Certificates(certificate=tls.certificate, key=tls.key, ca=tls.ca, of_clients=tls.client_certificates)


def protection_of(config: Config, peer: configuration.Peer) -> Protection | None:
    """How a configured peer is called with TLS, None where it is not. Raises ConfigurationError."""
    if not peer.tls:
        return None
    context = secure.requestor_context(certificates_of(config), is_pinned=bool(peer.certificates))
    return Protection(context, frozenset(peer.certificates))


def ourselves(config: Config) -> Protection:
    """How a server of this configuration calls itself with TLS. Raises ConfigurationError."""
    certificates = certificates_of(config)
    context = secure.requestor_context(certificates, is_pinned=True)
    return Protection(context, frozenset({secure.fingerprint_of(certificates.certificate)}))


def _rules(config: Config) -> Rules:
    access = config.access
    return Rules(
        titles=(config.server.ae_title, *config.server.aliases),
        any_called_title=access.called_ae == "any",
        any_caller=access.callers == "anyone",
        rights=frozenset(map(Right, access.services)),
    )


def _users(config: Config) -> Users:
    """The users. Raises ConfigurationError when tokens cannot be checked."""
    jwt = config.jwt
    check = subject_checker(jwt.key, jwt.algorithm, jwt.audience, jwt.issuer) if jwt.key else None
    return Users((User(each.name, each.passcode) for each in config.users), config.access.users, check)


def _association_limits(limits: configuration.Limits) -> association.AssociationLimits:
    return association.AssociationLimits(
        negotiation=limits.negotiation_seconds,
        idle=limits.idle_seconds,
        message=limits.message_seconds,
        least_rate=limits.least_rate,
        write=limits.write_seconds,
        connect=limits.connect_seconds,
        max_pdu=limits.pdu_size,
    )


def _retrieve_limits(limits: configuration.Limits) -> RetrieveLimits:
    return RetrieveLimits(
        pending_every=limits.pending_every, pending_seconds=limits.pending_seconds, cancel_grace=limits.cancel_grace
    )


def _schedule(commitment: configuration.Commitment) -> RetrySchedule:
    return RetrySchedule(
        first=commitment.first_retry_seconds,
        longest=commitment.longest_retry_seconds,
        give_up=commitment.give_up_seconds,
    )


def _bounds(commitment: configuration.Commitment) -> CommitmentBounds:
    return CommitmentBounds(
        instances=commitment.instances, active=commitment.active, active_of_peer=commitment.active_per_peer
    )


def _index(config: Config) -> Index:
    """The index; with several workers each has a part of the connections, and takes turns with the others."""
    workers = config.server.workers
    connections = min(CONNECTIONS, max(FEWEST_CONNECTIONS, ALL_CONNECTIONS // workers))
    database = config.database
    return Index(database.url, connections=connections, wait=database.wait_seconds, is_shared=workers > 1)


def file_store(config: Config) -> LocalFiles:
    """The file store of a configuration. Raises ConfigurationError, StorageUnavailable."""
    if config.files.url.startswith("s3://"):
        raise ConfigurationError("files.url: object stores are not supported yet; expected a folder")
    try:
        return LocalFiles(Path(config.files.url), config.limits.free_space)
    except StorageUnavailable as error:
        why = f"{error.comment}: {config.files.url} has to be a folder we may write to, see files.url"
        raise StorageUnavailable(why) from error


def _peers(config: Config) -> tuple[Peer, ...]:
    """The configured peers as the services know them."""
    return tuple(
        Peer(
            ae_title=each.ae_title,
            host=each.host,
            port=each.port,
            matching_mode=MATCHING_MODES[each.manner] if each.manner else None,
            transfer_syntaxes=each.transfer_syntaxes,
            associations=each.associations,
            rights=frozenset(map(Right, each.services)),
            addresses=tuple(map(ip_network, each.addresses)),
            certificates=frozenset(each.certificates),
            destinations=None if each.destinations is None else frozenset(each.destinations),
            explain=each.explain,
        )
        for each in config.peers
    )
