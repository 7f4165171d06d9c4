"""One handler for each DIMSE request: decode the request, call one service of `pacs.services`, send the responses."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from pydicom import Dataset

from pacs.dicom import identifier
from pacs.dicom.bounds import DataSetBounds
from pacs.dicom.commitment import BYTES_PER_REFERENCE, REQUEST_STORAGE_COMMITMENT, parse_request
from pacs.dicom.identifier import IDENTIFIER_BOUNDS
from pacs.dicom.levels import MODELS, DimseOperation, Model
from pacs.dicom.query import Query
from pacs.dicom.response_encoder import ResponseEncoder
from pacs.dicom.sop_classes import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, VERIFICATION
from pacs.dimse.association import establishment
from pacs.dimse.association.association import Association, AssociationLimits
from pacs.dimse.association.establishment import Protection
from pacs.dimse.association.storage_contexts import Proposal
from pacs.dimse.messages import status
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.messages.message import Message
from pacs.dimse.messages.status import Service
from pacs.dimse.scp.destinations import send_to_destination
from pacs.dimse.scp.event_reports import EventReporter
from pacs.dimse.scp.operation import Operation, PendingResponses, Publish, operating
from pacs.dimse.scp.parallel_associations import send_in_parallel
from pacs.dimse.scp.retrieve_task import MAX_SUBOPERATIONS, RetrieveLimits, RetrieveTask
from pacs.dimse.scp.store_sender import StoreSender, SubOperations, send_each
from pacs.dimse.server.client_defects import readable_contexts
from pacs.dimse.upper.user_information import MOST_OPERATIONS
from pacs.dimse.upper.waiting import WaitContext
from pacs.errors import DestinationUnreachable, NoSuchAction, NoSuchInstance, UnknownDestination
from pacs.index.writer import StoredInstance
from pacs.observability.audit import Auditor, Subject
from pacs.observability.events import DestinationFailed, Notice
from pacs.services.access import Access, Principal
from pacs.services.commitment import Commitments
from pacs.services.peers import Peer, Peers, Right
from pacs.services.query import QueryService
from pacs.services.retrieve import Retrieval, RetrieveService
from pacs.services.storage import Storage
from pacs.support.sockets import host_and_port

Handler = Callable[[Association, Message], None]

Explain = Callable[[Operation, Principal, Model, Dataset], None]
"""Explains a request with this Identifier once it is answered, if the principal's requests are to be explained."""

_QUERY_RETRIEVE = {
    DimseOperation.FIND: CommandField.C_FIND,
    DimseOperation.MOVE: CommandField.C_MOVE,
    DimseOperation.GET: CommandField.C_GET,
}
_ONLY_REQUEST: dict[str, CommandField] = {
    VERIFICATION: CommandField.C_ECHO,
    STORAGE_COMMITMENT: CommandField.N_ACTION,
    **{uid: _QUERY_RETRIEVE[model.operation] for uid, model in MODELS.items()},
}
"""The only request that each SOP Class outside the Storage Service has."""
LISTENS_WITHIN = 1.0
"""Seconds after which the requestor of a C-MOVE to itself must listen."""

_NOT_OF_STORAGE = frozenset(_ONLY_REQUEST.values())


def _without_tls(_peer: Peer) -> None:
    """Connect to any peer without TLS."""


@dataclass(frozen=True, slots=True)
class Handlers:
    """The handlers of an SCP and the services they call."""

    storage: Storage
    queries: QueryService
    retrieves: RetrieveService
    commitments: Commitments
    reporter: EventReporter
    peers: Peers
    access: Access
    publish: Publish
    ae_title: str
    """The AE title of this server: Retrieve AE Title of each match, calling AE title of store sub-operations."""
    identifier_size: int = 1 << 20
    identifier_bounds: DataSetBounds = IDENTIFIER_BOUNDS
    window: int = MOST_OPERATIONS
    """The C-STORE requests without a response that are proposed to a move destination (PS3.7 D.3.3.3)."""
    retrieve_limits: RetrieveLimits = field(default_factory=RetrieveLimits)
    limits: AssociationLimits = field(default_factory=AssociationLimits)
    """Limits of associations to move destinations; `limits.message` is the time for a C-STORE response."""
    protect: Callable[[Peer], Protection | None] = _without_tls
    """Returns the TLS settings for a peer, None to connect without TLS."""
    gdcm_one_syntax: bool = True
    """Whether the remedy for `client_defects.ONE_SYNTAX` is applied."""
    auditor: Auditor = field(default_factory=Auditor)
    explain: Explain | None = None

    def table(self) -> Mapping[int, Handler]:
        """Return the handlers by Command Field (PS3.7 E.1)."""
        return {
            CommandField.C_ECHO: self.echo,
            CommandField.C_STORE: self.store,
            CommandField.C_FIND: self.find,
            CommandField.C_MOVE: self.move,
            CommandField.C_GET: self.get,
            CommandField.N_ACTION: self.commit,
        }

    @staticmethod
    def has(sop_class_uid: str, field: int) -> bool:
        """Return whether a SOP Class has a request with this Command Field."""
        only = _ONLY_REQUEST.get(sop_class_uid)
        return field == only if only is not None else field not in _NOT_OF_STORAGE

    # --- C-ECHO -------------------------------------------------------------------------------------------------

    def echo(self, association: Association, message: Message) -> None:
        """Answer a C-ECHO (Verification, PS3.4 A.4)."""
        with operating(Service.ECHO, association, message, self.publish) as operation:
            operation.respond(operation.request.response(status.SUCCESS))

    # --- C-STORE ------------------------------------------------------------------------------------------------

    def store(self, association: Association, message: Message) -> None:
        """Store an instance (PS3.4 B.2): Success means that its bytes are on disk and its row is committed."""
        with operating(Service.STORE, association, message, self.publish, self.auditor) as operation:
            request = operation.request
            self._authorize(association, Right.STORE)
            with self.storage.receive(
                request.affected_sop_class_uid or "",
                request.affected_sop_instance_uid or "",
                message.context.transfer_syntax,
                association.calling_ae_title,
            ) as reception:
                for fragment in message.fragments():
                    reception.write(fragment)
                stored = reception.finish()
            if self.auditor.is_on:
                operation.subject = Subject(patients=(stored.patient_id,), studies=(stored.study_instance_uid,))
            code = status.COERCION if stored.warnings else status.SUCCESS
            operation.respond(request.response(code, error_comment="; ".join(stored.warnings)))

    # --- C-FIND -------------------------------------------------------------------------------------------------

    def find(self, association: Association, message: Message) -> None:
        """Answer a query (PS3.4 C.4.1) with a Pending response for each match, sent before the next page is read."""
        with operating(Service.FIND, association, message, self.publish, self.auditor) as operation:
            principal = self._authorize(association, Right.FIND)
            model = MODELS[message.context.abstract_syntax]
            keys = self._identifier(operation, message, principal, model)
            query = identifier.parse_query(keys, model.root, principal.matching_mode, association.negotiated(model.uid))
            operation.retrieve_level = query.level.name
            self._send_matches(operation, query)
            operation.respond(operation.request.response(status.SUCCESS))

    def _send_matches(self, operation: Operation, query: Query) -> None:
        encoder = ResponseEncoder(query, self.ae_title, operation.context.transfer_syntax)
        code = status.PENDING_WITH_UNSUPPORTED_KEYS if query.ignored else status.PENDING
        responses = PendingResponses(operation, code)
        try:
            for page in self.queries.pages(query, operation.cancellation):
                for found in page:
                    responses.add(encoder.identifier(found.match, found.from_file))
                    if found.from_file is not None:  # reading the next file takes a while
                        responses.flush()
                responses.flush()
            responses.flush()
        finally:
            operation.counts = {"matches": responses.sent}

    # --- C-MOVE and C-GET ---------------------------------------------------------------------------------------

    def move(self, association: Association, message: Message) -> None:
        """Send instances to a configured AE (PS3.4 C.4.2). The destination is checked before anything else (V2)."""
        with operating(Service.MOVE, association, message, self.publish, self.auditor) as operation:
            principal = self._authorize(association, Right.MOVE)
            destination = self._destination(operation, principal)
            retrieval = self._select(operation, message, principal)

            def connect(proposals: tuple[Proposal, ...], wait_context: WaitContext) -> StoreSender:
                opened = self._connect(operation, destination, proposals, wait_context)
                return self._sender(operation, retrieval, opened, proposals, destination.send_as)

            task = RetrieveTask(operation, retrieval, self.retrieve_limits, self.publish)
            count = min(destination.associations, retrieval.total)
            what = connect, retrieval.instances, task.wait_context
            if count > 1:
                sub_operations = send_in_parallel(*what, count, destination.send_as)
            else:
                sub_operations = send_to_destination(*what, destination.send_as)
            self._run(task, retrieval, sub_operations)

    def get(self, association: Association, message: Message) -> None:
        """Send instances on the same association (PS3.4 C.4.3), in contexts where the requestor is SCP of Storage."""
        with operating(Service.GET, association, message, self.publish, self.auditor) as operation:
            principal = self._authorize(association, Right.GET)
            retrieval = self._select(operation, message, principal)
            request = operation.request
            sender = StoreSender(
                association,
                self.retrieves,
                retrieval,
                self.limits.message,
                send_as=self.peers.send_as_of(association.calling_ae_title),
                priority=request.priority or 0,
                avoid=request.message_id,
            )
            task = RetrieveTask(operation, retrieval, self.retrieve_limits, self.publish)
            with closing(sender):
                self._run(task, retrieval, send_each(sender, retrieval.instances, task.wait_context))

    def _destination(self, operation: Operation, principal: Principal) -> Peer:
        """Return the move destination. Raises UnknownDestination, NotAuthorized."""
        title = operation.request.move_destination or ""
        operation.destination = title
        try:
            return self.access.destination(principal, title)
        except UnknownDestination:
            known = ", ".join(self.peers.titles) or "none"
            remedy = (
                f"add it with `pacs peers add {shlex.quote(title)} HOST PORT` and reload the configuration (SIGHUP)"
            )
            sentence = f"C-MOVE to unknown AE title {title!r} (configured: {known}); {remedy}"
            self.publish(Notice(sentence=sentence, association=operation.association.id))
            raise

    def _select(self, operation: Operation, message: Message, principal: Principal) -> Retrieval:
        """Select the instances that the Identifier of a retrieve names."""
        model = MODELS[message.context.abstract_syntax]
        keys = self._identifier(operation, message, principal, model)
        negotiated = operation.association.negotiated(model.uid)
        selection = identifier.parse_retrieve(keys, model.root, principal.matching_mode, negotiated)
        operation.retrieve_level = selection.level.name
        retrieval = self.retrieves.select(selection, operation.cancellation, MAX_SUBOPERATIONS)
        if self.auditor.is_on:
            operation.subject = _subject(operation.subject, retrieval.instances)
        return retrieval

    def _connect(
        self, operation: Operation, destination: Peer, proposals: tuple[Proposal, ...], wait_context: WaitContext
    ) -> Association:
        """Open an association to a move destination, on behalf of the AE that requested the C-MOVE (V8, P1).

        Some requestors that are their own destination, such as odil and GDCM, listen only after their request.
        """
        is_requestor = destination.ae_title == operation.association.calling_ae_title
        try:
            return establishment.request(
                destination.host,
                destination.port,
                calling_ae_title=self.ae_title,
                called_ae_title=destination.ae_title,
                contexts=proposals,
                limits=self.limits,
                wait_context=wait_context,
                protection=self.protect(destination),
                listens_within=LISTENS_WITHIN if is_requestor else 0.0,
                window=self.window,
            )
        except DestinationUnreachable as error:
            where = f"{destination.ae_title} at {host_and_port(destination.host, destination.port)}"
            sentence = f"move destination {where}: {error.comment}; test it with `pacs check`"
            requested_on = operation.association.id
            self.publish(
                DestinationFailed(sentence=sentence, association=requested_on, destination=destination.ae_title)
            )
            raise

    def _sender(
        self,
        operation: Operation,
        retrieval: Retrieval,
        association: Association,
        proposed: tuple[Proposal, ...],
        send_as: tuple[str, ...],
    ) -> StoreSender:
        """Return the sender of a C-MOVE on an association to its destination."""
        request = operation.request
        return StoreSender(
            association,
            self.retrieves,
            retrieval,
            self.limits.message,
            send_as=send_as,
            priority=request.priority or 0,
            proposed=proposed,
            contexts=readable_contexts(association.agreement) if self.gdcm_one_syntax else None,
            originator=(operation.association.calling_ae_title, request.message_id),
        )

    def _run(self, task: RetrieveTask, retrieval: Retrieval, sub_operations: SubOperations) -> None:
        try:
            task.run(sub_operations)
        finally:
            self.retrieves.note_use(retrieval)

    # --- N-ACTION -----------------------------------------------------------------------------------------------

    def commit(self, association: Association, message: Message) -> None:
        """Take a request for storage commitment (PS3.4 J.3.2); it is durable before the response and reported later."""
        with operating(Service.COMMIT, association, message, self.publish, self.auditor) as operation:
            self._authorize(association, Right.COMMIT)
            _check_action(operation.request)
            limit = self.commitments.bounds.instances
            data = message.read(limit * BYTES_PER_REFERENCE)
            request = parse_request(data, message.context.transfer_syntax, limit)
            if self.auditor.is_on:
                operation.subject = Subject(instances=[each.sop_instance_uid for each in request.references])
            claim = self.commitments.request(association.calling_ae_title, request)
            operation.counts = {"instances": len(request.references)}
            operation.respond(operation.request.response(status.SUCCESS))
            self.reporter.schedule(claim, association)

    # --- of several services ------------------------------------------------------------------------------------

    def _authorize(self, association: Association, right: Right) -> Principal:
        """Return the principal of an association. Raises NotAuthorized if it lacks a right."""
        principal = self.access.principal(association.calling_ae_title)
        self.access.require(principal, right)
        return principal

    def _identifier(self, operation: Operation, message: Message, principal: Principal, model: Model) -> Dataset:
        """Decode the Identifier of a query or retrieve, and hand it to the audit log and to `explain`."""
        data = message.read(self.identifier_size)
        keys = identifier.decode(data, message.context.transfer_syntax, self.identifier_bounds)
        if self.auditor.is_on:
            operation.subject = Subject(keys=identifier.key_values(keys))
        if self.explain is not None:
            self.explain(operation, principal, model, keys)
        return keys


def _check_action(request: Command) -> None:
    """Raise NoSuchInstance or NoSuchAction unless it is the action of the Push Model (PS3.4 J.3.2, J.3.5)."""
    if request.requested_sop_instance_uid != STORAGE_COMMITMENT_INSTANCE:
        raise NoSuchInstance(f"Requested SOP Instance UID is not {STORAGE_COMMITMENT_INSTANCE}")
    if request.action_type != REQUEST_STORAGE_COMMITMENT:
        raise NoSuchAction(f"Action Type ID is not {REQUEST_STORAGE_COMMITMENT}")


def _subject(subject: Subject, instances: Sequence[StoredInstance]) -> Subject:
    """Return the audit subject of a retrieve, with the studies and patients of its instances, each once."""
    studies = dict.fromkeys(each.study_instance_uid for each in instances)
    patients = dict.fromkeys(each.patient_id for each in instances)
    return replace(subject, studies=studies, patients=patients)
