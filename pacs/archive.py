"""The composition root: builds the parts of an archive from a `Config`, starts, reloads and stops them."""

import errno
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self

from pacs import __version__, settings
from pacs import config as configuration
from pacs.config import Config
from pacs.dicom.syntaxes import KEPT
from pacs.dimse.association.establishment import Protection
from pacs.dimse.scp.association_access import AssociationAccess, credentials
from pacs.dimse.scp.association_events import AssociationEvents
from pacs.dimse.scp.event_reports import EventReporter
from pacs.dimse.scp.explain_hook import ExplainHook, statuses
from pacs.dimse.scp.fault_hook import FaultHook, NoFaults
from pacs.dimse.scp.handlers import Handlers
from pacs.dimse.server.acceptor_policy import AcceptorPolicy
from pacs.dimse.server.association_slots import WorkerSlots
from pacs.dimse.server.server import DimseServer, Settings
from pacs.dimse.upper import tls
from pacs.dimse.upper.user_information import UserIdentity
from pacs.errors import ConfigurationError, IndexUnavailable
from pacs.index import schema
from pacs.index.database import file_of
from pacs.monitoring import Monitoring
from pacs.observability.audit import Auditor, Record
from pacs.observability.events import EventStream, FrameConverted, Notice, SchemaUpgraded, ServerReady, WebReady
from pacs.pixels.frame_job import FrameJob
from pacs.pixels.pool import DecoderPool
from pacs.services.access import Access
from pacs.services.backup import Backups
from pacs.services.commitment import Commitments
from pacs.services.explaining import Explainer
from pacs.services.exporting import Exporter
from pacs.services.fsck import Fsck
from pacs.services.healing import Healing
from pacs.services.held_claims import HeldClaims
from pacs.services.maintenance import Maintenance
from pacs.services.peers import Peer, Peers
from pacs.services.pixels import PixelService
from pacs.services.query import QueryService
from pacs.services.recovery import Recovery
from pacs.services.reindex import Reindex
from pacs.services.retrieve import RetrieveService
from pacs.services.sharing import RunningServer, sharing
from pacs.services.storage import Storage
from pacs.services.users import Users
from pacs.support import private
from pacs.support.sockets import PRIVILEGED, host_and_port
from pacs.web.listener import Application, WebServer

EXPLAINED = "requests are explained: the log holds patient data until query.explain and explain of all peers are false"
"""The notice at the start of a server that explains requests."""


def require_existing(config: Config, *, files: bool = True, index: bool = True) -> None:
    """Raise ConfigurationError unless `files` and `index` of an archive exist; create nothing."""
    folder, database = Path(config.files.url).absolute(), file_of(config.database.url) if index else None
    if files and not folder.is_dir():
        raise ConfigurationError(
            f"no archive here: {str(folder)!r} does not exist; run this command where the archive is, or give --config"
        )
    if database is not None and not database.exists():
        missing = f"no index here: {str(database.absolute())!r} does not exist"
        raise ConfigurationError(f"{missing}; run `pacs reindex` where there are files, else `pacs db upgrade`")


NO_PROTECTIONS: Mapping[str, Protection | None] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Rules:
    """The services and peers of one configuration.

    A reload replaces them together, so that every operation has those of one configuration.
    """

    storage: Storage
    peers: Peers
    access: Access
    queries: QueryService
    retrieves: RetrieveService
    protections: Mapping[str, Protection | None]
    """The TLS settings for each peer, None to connect without TLS; they are read at the start of a server."""
    own_protection: Protection | None
    """The TLS settings for the C-ECHO to this server."""

    def destination(self, ae_title: str) -> tuple[Peer, Protection | None]:
        """As `Archive._destination`."""
        peer = self.peers.destination(ae_title)
        return peer, self.protections[peer.ae_title]


class Archive:
    """The archive of one configuration: its stores and services, and once started its server.

    Use it in a `with` block, or call `close`. `start` serves in this process. With several workers, the supervisor
    calls `prepare` on its archive, and each forked worker calls `join` on an archive of its own: see `pacs.workers`.

    `events` is the event stream, to which subscribers can be added before the start. `port` is the port for
    associations, after the start also where the configuration has 0. `fault_hook` injects faults or observes.
    `workers` is the number of processes of the server.
    """

    def __init__(
        self,
        config: Config,
        events: EventStream | None = None,
        fault_hook: FaultHook | None = None,
        *,
        workers: int = 1,
    ) -> None:
        self.config, self.workers = config, workers
        self.events = events or EventStream()
        self._fault_hook = fault_hook or NoFaults()
        self._closing = threading.Lock()
        self._build_stores(config)
        self._build_services(config)
        self._in_force = self._rules(config)
        self._build_server(config)

    def _build_stores(self, config: Config) -> None:
        """Build index, file store and audit log. Raises ConfigurationError, StorageUnavailable."""
        self.index = settings.index(config, self.workers, self._publish_notice)
        self.files = settings.file_store(config)
        self.auditor = Auditor(Path(config.audit.file) if config.audit.file else None, self.events.publish)

    def _build_services(self, config: Config) -> None:
        """Build the services that do not change with a reload."""
        publish = self.events.publish
        self.decoders = DecoderPool(settings.decoders(config, self.workers), self._publish_frame)
        self._storage = Storage(self.index, self.files, publish=publish, auditor=self.auditor)
        self.healing = Healing(self.index, self.files, publish, config.database.heal)
        self.commitments = Commitments(
            self.index,
            self.files,
            unknown_sop_classes=config.storage.unknown_sop_classes,
            schedule=settings.commitment_schedule(config.commitment),
            bounds=settings.commitment_bounds(config.commitment),
            is_peer=self._is_peer,
            publish=publish,
            admit=self.healing.admit_query,
        )
        self._held_claims: list[HeldClaims] = []
        """Those of each worker, in the process that they are forked from."""
        self.explainer = Explainer(self.index, statuses)
        self.maintenance = Maintenance(self.index, self.files, publish=publish, auditor=self.auditor)
        self.exporter = Exporter(
            self.index,
            self.files,
            PixelService(self.files, self.decoders),
            verify=config.files.verify,
            publish=publish,
            auditor=self.auditor,
        )
        self.fsck = Fsck(self.index, self.files)
        self.reindex = Reindex(self.index, self.files, newest=config.storage.duplicates == "replace")
        self.backups = Backups(self.index, self.files, settings.peers_file(config))
        self._recovery = Recovery(self.index, self.files, publish, lambda: self.storage.has_uncertain_files)

    def _publish_notice(self, sentence: str) -> None:
        self.events.publish(Notice(sentence=sentence))

    def _publish_frame(self, job: FrameJob, duration: float, error: Exception | None) -> None:
        result = type(error).__name__ if error is not None else "converted"
        self.events.publish(
            FrameConverted(
                transfer_syntax=job.source,
                target=job.target,
                duration=duration,
                result=result,
                comment=str(error or ""),
            )
        )

    def _rules(
        self,
        config: Config,
        protections: Mapping[str, Protection | None] = NO_PROTECTIONS,
        own_protection: Protection | None = None,
    ) -> "_Rules":
        """Return the services and peers for a configuration. Nothing in use changes."""
        limits, peers = config.limits, settings.peers(config)
        return _Rules(
            storage=self._storage.under(
                config.storage.duplicates,
                settings.data_set_bounds(limits),
                unknown_sop_classes=config.storage.unknown_sop_classes,
            ),
            peers=peers,
            access=Access(settings.access_rules(config), peers),
            queries=QueryService(
                self.index,
                self.files,
                page=settings.QUERY_PAGE,
                scan_limit=limits.query_scan,
                max_matches=limits.query_answers,
                admit=self.healing.admit_query,
            ),
            retrieves=RetrieveService(
                self.index,
                self.files,
                PixelService(self.files, self.decoders),
                limits.retrieve_studies,
                verify=config.files.verify,
                publish=self.events.publish,
                admit=self.healing.admit_query,
            ),
            protections=protections,
            own_protection=own_protection,
        )

    def _build_server(self, config: Config) -> None:
        """Build the DIMSE server, without handlers and certificates, which only `start` needs, and its monitoring."""
        self.port = config.server.port
        self._addresses = settings.listen_addresses(config)
        self._web: WebServer | None = None
        self._web_tls: ssl.SSLContext | None = None
        self.monitoring = self._new_monitoring(config)
        self._reporter = self._new_reporter(config)
        without_services = Settings(policy=AcceptorPolicy(transfer_syntaxes=()))
        self._server = DimseServer(
            self._addresses, without_services, observer=AssociationEvents(self.monitoring.publish, self._audit)
        )

    def _new_monitoring(self, config: Config) -> Monitoring:
        return Monitoring(
            index=self.index,
            files=self.files,
            healing=self.healing,
            events=self.events,
            ae_title=config.server.ae_title,
            address=lambda: (self.config.server.host, self.port),
            is_accepting=lambda: self._server.is_accepting,
            is_peer=self._is_peer,
            workers=self.workers,
            most_associations=lambda: self.config.limits.associations,
            protection=lambda: self._in_force.own_protection,
            counts=config.metrics.enabled,
        )

    def _new_reporter(self, config: Config) -> EventReporter:
        return EventReporter(
            self.commitments,
            self._destination,
            self.events.publish,
            config.server.ae_title,
            idle=config.commitment.same_association_seconds,
            limits=settings.association_limits(config.limits),
        )

    def _audit(self, record: Record) -> None:
        """Write a record to the audit log, unless it is about the C-ECHO of this server to itself."""
        if not self.monitoring.is_own(record.calling_ae_title):
            self.auditor.write(record)

    def _is_peer(self, ae_title: str) -> bool:
        return self.peers.find(ae_title) is not None

    def _destination(self, ae_title: str) -> tuple[Peer, Protection | None]:
        """Return a peer as it is configured now, and the TLS settings for it. Raises UnknownDestination."""
        return self._in_force.destination(ae_title)

    # --- the services in force ----------------------------------------------------------------------------------------

    @property
    def storage(self) -> Storage:
        """Stores instances."""
        return self._in_force.storage

    @property
    def queries(self) -> QueryService:
        """Answers queries."""
        return self._in_force.queries

    @property
    def retrieves(self) -> RetrieveService:
        """Selects and reads instances."""
        return self._in_force.retrieves

    @property
    def peers(self) -> Peers:
        """The table of known AEs."""
        return self._in_force.peers

    @property
    def access(self) -> Access:
        """The access control."""
        return self._in_force.access

    # --- start --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def open(self) -> None:
        """Open audit log and index; create the schema of a new SQLite index, check any other.

        Raises SchemaMismatch, IndexUnavailable, and ConfigurationError for the audit log.
        """
        self.auditor.open()
        self.index.probe()
        schema.create_or_check(self.index)

    def open_existing(self, *, audits: bool = True) -> None:
        """As `open`, but create nothing except, with `audits`, the audit log."""
        if audits:
            self.auditor.open()
        self.index.probe()
        schema.check(self.index)

    def start(self) -> None:
        """Prepare, then accept associations and publish ServerReady. Raises as `prepare`."""
        self.prepare()
        self.monitoring.start()
        self._server.start()
        if self._web is not None:
            self._web.start()
        self.announce()
        self._reporter.start()
        self.healing.start()
        self.monitoring.count_holdings()

    def prepare(self) -> None:
        """Do what a server does once: open the stores, recover from an unclean stop, listen; accept nothing yet.

        Raises SchemaMismatch, IndexUnavailable, StorageUnavailable, and ConfigurationError for an address, certificate,
        key or token settings.
        """
        self._configure_servers()
        self.index.probe()
        # One process recovers; others that start at the same time wait.
        with settings.naming_folder(self.config), self.files.start_lock():
            self._publish_sharing()
            self._upgrade_schema()
            self.open()
            self.index.probe_writing()
            is_alone = not self.files.is_running()
            self.files.start()
            self._recovery.begin()
            self._recovery.describe(self._own_description().encode())
            self.healing.look()
            self._reporter.resume(is_alone=is_alone)
            self._restrict()
        self._held_claims = [HeldClaims() for _ in range(self.workers)]
        self._listen()
        self._recovery.describe(self._own_description().encode())  # now with the port
        self._listen_for_http()

    def preload(self) -> None:
        """Import what `start` leaves to a thread, before workers are forked, so that they share it."""
        if self._web is not None:
            self._web.preload()

    def _restrict(self) -> None:
        """Let no other user read what an earlier version, or a program with another umask, has created."""
        audit = [Path(self.config.audit.file)] if self.config.audit.file else []
        peers = [settings.peers_file(self.config)]
        for each in private.restrict([*self.index.paths, Path(self.config.files.url), *peers, *audit]):
            why = "contains patient data, belongs to another user, and may be read by all users of this machine"
            self._publish_notice(f"{str(each)!r} {why}: run `chmod o-rwx` on it as its owner")

    def _upgrade_schema(self) -> None:
        if before := schema.upgrade_older(self.index):
            self.events.publish(SchemaUpgraded(before=before, after=schema.head()))

    def _publish_sharing(self) -> None:
        """Publish which running servers have the same files. Raises ConfigurationError when they may not."""
        running = self.files.running_servers()
        for each in sharing(running, self._own_description(), may_share=self.config.server.shared):
            self._publish_notice(each)

    def _own_description(self) -> RunningServer:
        server = self.config.server
        return RunningServer(server.ae_title, host_and_port(server.host, self.port), self.index.identity())

    def join(self, prepared: "Archive", slots: WorkerSlots, worker: int) -> None:
        """Accept associations as a worker of the server that `prepared` in the supervisor process has prepared.

        The marker of the supervisor makes the next start recover after an unclean stop. Raises StorageUnavailable.
        """
        self.monitoring.join(prepared.monitoring, worker)  # first, so that what goes wrong is recorded as this worker's
        self._configure_servers()
        self.index.join(prepared.index)
        self.healing.join(prepared.healing)
        self.files.join(prepared.files)
        self._recovery.join(prepared._recovery)
        self._server.join(prepared._server.listeners, slots)
        with suppress(IndexUnavailable):  # then the claims expire
            self.commitments.take_over(prepared._held_claims[worker])
        self._reporter.start()
        self.healing.start()
        self.monitoring.count_holdings(worker)
        self.port = self._server.port
        if self._web is not None and prepared._web is not None:
            self._web.join(prepared._web)
            self._web.start()

    def announce(self) -> None:
        """Publish that the server accepts associations and HTTP requests."""
        server = self.config.server
        self.events.publish(
            ServerReady(
                ae_title=server.ae_title,
                host=server.host,
                port=self.port,
                secure_port=self.secure_port,
                version=__version__,
                database=self.index.dialect,
                workers=self.workers,
            )
        )
        if self.peers.explains_any:
            self._publish_notice(EXPLAINED)
        if self._web is not None:
            web = self.config.web
            self.events.publish(WebReady(host=web.host, port=self.web_port, is_secure=web.tls))

    def _configure_servers(self) -> None:
        """Load certificates, users and handlers. Raises ConfigurationError."""
        config = self.config
        if config.web.enabled:
            self._web_tls = tls.web_context(settings.certificates(config)) if config.web.tls else None
            self._web = WebServer(config.web.host, config.web.port, self._web_application, self._web_tls)
        self._in_force, server_settings = self._configured(config)
        self._server.configure(server_settings)

    def _web_application(self) -> Application:
        from pacs.web.app import application

        return application(self.monitoring.insight)

    def _listen(self) -> None:
        try:
            self._server.listen()
        except OSError as error:
            where = ", ".join(host_and_port(each.host, each.port) for each in self._addresses)
            why = f"cannot listen on {where} ({error.strerror})"
            hint = PRIVILEGED if error.errno == errno.EACCES else "check server.host, and choose a free server.port"
            raise ConfigurationError(f"{why}; {hint}") from error
        self.port = self._server.port

    def _listen_for_http(self) -> None:
        """Listen for HTTP; go on without it if the default port is in use. Raises ConfigurationError."""
        if self._web is None:
            return
        try:
            self._web.listen()
        except OSError as error:
            web = self.config.web
            why = f"cannot listen for HTTP on {host_and_port(web.host, web.port)} ({error.strerror})"
            hint = "check web.host, choose a free web.port, or set web.enabled = false"
            if error.errno != errno.EADDRINUSE or web.port != configuration.WebSection().port:
                raise ConfigurationError(f"{why}; {hint}") from error
            self._web = None
            self._publish_notice(f"{why}, the server runs without HTTP; {hint}")

    # --- while it runs ------------------------------------------------------------------------------------------------

    @property
    def secure_port(self) -> int:
        """The port for associations with TLS, after the start also where the configuration has 0; 0 without TLS."""
        return next(
            (port for port, each in zip(self._server.ports, self._addresses, strict=False) if each.is_secure), 0
        )

    @property
    def web_port(self) -> int:
        """The port for HTTP, after the start also where the configuration has 0; 0 without HTTP."""
        return self._web.port if self._web is not None else 0

    @property
    def status(self) -> str:
        """The status that systemd shows while the server runs."""
        server = self.config.server
        return f"Serving as {server.ae_title} on {host_and_port(server.host, self.port)}"

    def reload(self, config: Config) -> tuple[str, ...]:
        """Apply another configuration to the running server; no association ends.

        It applies to the next request; limits and certificates apply to the next association. Returns the changed keys
        that take effect only at the next start. Raises ConfigurationError, in which case nothing has changed.
        """
        usable, at_start = settings.reloadable(self.config, config)
        rules, server_settings = self._configured(usable)
        self.auditor.reopen()
        if self._web_tls is not None:
            tls.renew(self._web_tls, settings.certificates(usable))  # the last step that can fail
        self._in_force = rules
        self._reporter.limits = server_settings.limits
        self.commitments.unknown_sop_classes = usable.storage.unknown_sop_classes
        self.files.least_free = usable.limits.free_space
        self.config = usable
        self._server.configure(server_settings)
        return at_start

    def _configured(self, config: Config) -> tuple[_Rules, Settings]:
        """Return the services and the settings of the DIMSE server for a configuration. Raises ConfigurationError."""
        protections = {each.ae_title: settings.peer_protection(config, each) for each in config.peers}
        acceptor_tls = tls.acceptor_context(settings.certificates(config)) if config.tls.enabled else None
        own_protection = settings.own_protection(config) if config.tls.only else None
        rules = self._rules(config, protections, own_protection)
        handlers = self._handlers(config, rules)
        server_settings = Settings(
            policy=self._acceptor_policy(config, rules, settings.users(config)),
            handlers=handlers.table(),
            has=handlers.has,
            limits=settings.association_limits(config.limits),
            bounds=settings.association_bounds(config.limits),
            tls=acceptor_tls,
            pynetdicom_hold=config.clients.pynetdicom_hold,
        )
        return rules, self._fault_hook.apply(server_settings, handlers)

    def _handlers(self, config: Config, rules: _Rules) -> Handlers:
        limits = config.limits
        explain = ExplainHook(self.explainer, lambda: self.access).note if rules.peers.explains_any else None
        return Handlers(
            storage=rules.storage,
            queries=rules.queries,
            retrieves=rules.retrieves,
            commitments=self.commitments,
            reporter=self._reporter,
            peers=rules.peers,
            access=rules.access,
            publish=self.monitoring.publish,
            auditor=self.auditor,
            ae_title=config.server.ae_title,
            identifier_size=limits.identifier_size,
            identifier_bounds=settings.identifier_bounds(limits),
            retrieve_limits=settings.retrieve_limits(limits),
            limits=settings.association_limits(limits),
            protect=lambda peer: rules.protections[peer.ae_title],
            gdcm_one_syntax=config.clients.gdcm_one_syntax,
            explain=explain,
        )

    def _acceptor_policy(self, config: Config, rules: _Rules, users: Users) -> AcceptorPolicy:
        def identify(identity: UserIdentity | None) -> str:
            return users.identify(credentials(identity) if identity is not None else None)

        return AcceptorPolicy(
            access=AssociationAccess(rules.access),
            transfer_syntaxes=KEPT,
            order_for=rules.peers.transfer_syntaxes_of,
            send_as_for=rules.peers.send_as_of,
            has_lenient_roles=rules.peers.has_lenient_roles,
            unknown_sop_classes=config.storage.unknown_sop_classes,
            identify=identify,
        )

    # --- stop ---------------------------------------------------------------------------------------------------------

    def stop_listening(self) -> None:
        """Accept no more associations; running ones continue."""
        self._server.stop_accepting()

    def require_recovery(self) -> None:
        """Make the next start recover although this server stops cleanly, because a worker did not."""
        self._recovery.require()

    @property
    def needs_recovery(self) -> bool:
        """Whether the next start has to recover although this process stops cleanly."""
        return self._recovery.is_needed

    def drain(self) -> None:
        """Accept no more associations, wait up to `limits.drain_seconds` for running operations, and close."""
        self._server.drain(self.config.limits.drain_seconds)
        self.close()

    def close(self) -> None:
        """Stop immediately and close the stores. Does nothing the second time; safe to call from two threads."""
        self.decoders.close()
        self._server.stop()
        self._fault_hook.close()
        with self._closing:
            self._reporter.stop()
            self.healing.stop()
            self.monitoring.stop()
            if self._web is not None:
                self._web.stop()
            self.storage.check_uncertain_files()
            self.files.close()
            self._recovery.end()
            self.index.close()
            self.auditor.close()
