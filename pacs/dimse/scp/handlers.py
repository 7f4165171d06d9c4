"""The services of PS3.4 as they answer on an association: decode, call one service of the core, encode."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydicom import Dataset

from pacs.dicom import identifier
from pacs.dicom.bounds import DataSetBounds
from pacs.dicom.commitment import BYTES_PER_REFERENCE, CommitmentRequest, parse_request
from pacs.dicom.identifier import IDENTIFIER_BOUNDS, RetrieveSelection
from pacs.dicom.levels import MODELS, Model
from pacs.dicom.levels import DimseOperation as Asked
from pacs.dicom.query import Query
from pacs.dicom.response_encoder import ResponseEncoder
from pacs.dimse.association import establishment
from pacs.dimse.association.association import Association, Limits
from pacs.dimse.association.establishment import Protection
from pacs.dimse.association.proposals import Proposal
from pacs.dimse.messages import status
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.messages.message import Message
from pacs.dimse.messages.status import Service
from pacs.dimse.scp.destinations import send_to_destination
from pacs.dimse.scp.event_reports import Reporter
from pacs.dimse.scp.operation import Operation, PendingResponses, Publish, operating
from pacs.dimse.scp.parallel_associations import send_in_parallel
from pacs.dimse.scp.retrieve_task import RetrieveLimits, RetrieveTask
from pacs.dimse.scp.store_sender import StoreSender, SubOperations, send_each
from pacs.dimse.server.acceptor_policy import (
    REQUEST_STORAGE_COMMITMENT,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    VERIFICATION,
    negotiated,
)
from pacs.dimse.upper.waiting import WaitContext
from pacs.errors import DestinationUnreachable, NoSuchAction, NoSuchInstance, UnknownDestination
from pacs.index.writer import StoredInstance
from pacs.observability.audit import Auditor, Subject
from pacs.observability.events import DestinationFailed, Notice
from pacs.services.access import Access
from pacs.services.commitment import Commitments
from pacs.services.peers import Peer, Peers, Right
from pacs.services.query import QueryService
from pacs.services.retrieve import Retrieval, RetrieveService
from pacs.services.storage import Storage

Handler = Callable[[Association, Message], None]

Explain = Callable[[Operation, Model, Dataset], None]
"""Notes the Identifier of an operation, which may have to be explained."""

_QUERY_RETRIEVE = {
    Asked.FIND: CommandField.C_FIND,
    Asked.MOVE: CommandField.C_MOVE,
    Asked.GET: CommandField.C_GET,
}
_OF_ONE_CLASS = {VERIFICATION: CommandField.C_ECHO, STORAGE_COMMITMENT: CommandField.N_ACTION}
_OF_ONE_SERVICE = frozenset((*_OF_ONE_CLASS.values(), *_QUERY_RETRIEVE.values()))


def _operation_of(sop_class_uid: str) -> CommandField | None:
    """The only operation of a SOP Class of another service than Storage, None for other classes."""
    if sop_class_uid in MODELS:
        return _QUERY_RETRIEVE[MODELS[sop_class_uid].operation]
    return _OF_ONE_CLASS.get(sop_class_uid)


def _open(_peer: Peer) -> None:
    """Nobody is called with TLS."""


@dataclass(frozen=True, slots=True)
class Handlers:
    """What the server does with each request, built from the services of the core."""

    storage: Storage
    queries: QueryService
    retrieves: RetrieveService
    commitments: Commitments
    reporter: Reporter
    peers: Peers
    access: Access
    publish: Publish
    ae_title: str
    """Ours: the Retrieve AE Title of every answer, and the calling AE title of store sub-operations."""
    identifier_size: int = 1 << 20
    identifier_bounds: DataSetBounds = IDENTIFIER_BOUNDS
    retrieve_limits: RetrieveLimits = field(default_factory=RetrieveLimits)
    limits: Limits = field(default_factory=Limits)
    """Of the associations to move destinations; `limits.message` is the time for a C-STORE response."""
    protect: Callable[[Peer], Protection | None] = _open
    """How a peer is called with TLS, None where it is not."""
    auditor: Auditor = field(default_factory=Auditor)
    explain: Explain | None = None
    """None where nobody's requests are explained."""

    def table(self) -> Mapping[int, Handler]:
        """The handler of each request, by Command Field (PS3.7 E.1)."""
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
        """Whether a SOP Class has an operation: those of Query/Retrieve and Verification have one each, and no other
        has that one.
        """
        theirs = _operation_of(sop_class_uid)
        return theirs == field if theirs is not None else field not in _OF_ONE_SERVICE

    # --- C-ECHO and C-STORE -------------------------------------------------------------------------------------

    def echo(self, association: Association, message: Message) -> None:
        """Verification (PS3.4 A.4)."""
        with operating(Service.ECHO, association, message, self.publish) as operation:
            operation.respond(operation.request.response(status.SUCCESS))

    def store(self, association: Association, message: Message) -> None:
        """Storage as SCP (PS3.4 B.2): success is said when the bytes are on disk and the row is committed."""
        with operating(Service.STORE, association, message, self.publish, self.auditor) as operation:
            request = operation.request
            self.access.require(association.calling_ae_title, Right.STORE)
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
        """Query (PS3.4 C.4.1): a Pending response for each match, on the wire before the next page is looked for."""
        with operating(Service.FIND, association, message, self.publish, self.auditor) as operation:
            self.access.require(association.calling_ae_title, Right.FIND)
            query = self._query(operation, message)
            self._answer(operation, query)
            operation.respond(operation.request.response(status.SUCCESS))

    def _query(self, operation: Operation, message: Message) -> Query:
        association, model = operation.association, MODELS[message.context.abstract_syntax]
        query = identifier.parse_query(
            self._identifier(operation, message),
            model.root,
            self.peers.matching_mode_of(association.calling_ae_title),
            negotiated(model.uid, association.extended.get(model.uid)),
        )
        operation.retrieve_level = query.level.name
        return query

    def _identifier(self, operation: Operation, message: Message) -> Dataset:
        """The Identifier of a request, of whose keys the audit log has a note."""
        data = message.read(self.identifier_size)
        asked = identifier.decode(data, message.context.transfer_syntax, self.identifier_bounds)
        if self.auditor.is_on:
            operation.subject = Subject(keys=identifier.key_values(asked))
        if self.explain is not None:
            self.explain(operation, MODELS[message.context.abstract_syntax], asked)
        return asked

    def _answer(self, operation: Operation, query: Query) -> None:
        identifiers = ResponseEncoder(query, self.ae_title, operation.context.transfer_syntax)
        code = status.PENDING_WITH_UNSUPPORTED_KEYS if query.ignored else status.PENDING
        responses = PendingResponses(operation, code)
        try:
            for page in self.queries.pages(query, operation.cancellation):
                for answer in page:
                    responses.add(identifiers.identifier(answer.match, answer.from_file))
                    if answer.from_file is not None:
                        responses.flush()
                responses.flush()
            responses.flush()
        finally:
            operation.counts = {"matches": responses.sent}

    # --- C-MOVE and C-GET ---------------------------------------------------------------------------------------

    def move(self, association: Association, message: Message) -> None:
        """Retrieve to a configured AE (PS3.4 C.4.2). The destination is checked before anything else (V2)."""
        with operating(Service.MOVE, association, message, self.publish, self.auditor) as operation:
            self.access.require(association.calling_ae_title, Right.MOVE)
            destination = self._destination(operation)
            retrieval = self._select(operation, message)

            def connect(proposals: tuple[Proposal, ...], wait_context: WaitContext) -> StoreSender:
                return self._connect(operation, destination, proposals, wait_context)

            count = min(destination.associations, retrieval.total)
            task = self._task(operation, retrieval)
            if count > 1:
                sub_operations = send_in_parallel(connect, retrieval.instances, task.wait_context, count)
            else:
                sub_operations = send_to_destination(connect, retrieval.instances, task.wait_context)
            self._run(task, retrieval, sub_operations)

    def get(self, association: Association, message: Message) -> None:
        """Retrieve on the same association (PS3.4 C.4.3), in the contexts where the requestor is SCP of Storage."""
        with operating(Service.GET, association, message, self.publish, self.auditor) as operation:
            self.access.require(association.calling_ae_title, Right.GET)
            retrieval = self._select(operation, message)
            request = operation.request
            sender = StoreSender(
                association,
                self.retrieves,
                self.limits.message,
                priority=request.priority or 0,
                avoid=request.message_id,
            )
            task = self._task(operation, retrieval)
            self._run(task, retrieval, send_each(sender, retrieval.instances, task.wait_context))

    def _destination(self, operation: Operation) -> Peer:
        title = operation.request.move_destination or ""
        operation.destination = title
        try:
            return self.access.destination(operation.association.calling_ae_title, title)
        except UnknownDestination:
            known = ", ".join(self.peers.titles) or "none"
            mend = "add it with `pacs peers add TITLE HOST PORT` and have the server read it (SIGHUP)"
            sentence = f"C-MOVE to unknown AE title {title!r}; known are: {known}; {mend}"
            self.publish(Notice(sentence=sentence, association=operation.association.id))
            raise

    def _select(self, operation: Operation, message: Message) -> Retrieval:
        model = MODELS[message.context.abstract_syntax]
        selection = self._selection(operation, message, model)
        operation.retrieve_level = selection.level.name
        retrieval = self.retrieves.select(selection, operation.cancellation)
        if self.auditor.is_on:
            operation.subject = _subject(operation.subject, retrieval.instances)
        return retrieval

    def _selection(self, operation: Operation, message: Message, model: Model) -> RetrieveSelection:
        asked = self._identifier(operation, message)
        manner = self.peers.matching_mode_of(operation.association.calling_ae_title)
        return identifier.parse_retrieve(asked, model.root, manner, operation.association.negotiated(model.uid))

    def _task(self, operation: Operation, retrieval: Retrieval) -> RetrieveTask:
        return RetrieveTask(operation, retrieval, self.retrieve_limits, self.publish)

    def _run(self, task: RetrieveTask, retrieval: Retrieval, sub_operations: SubOperations) -> None:
        try:
            task.run(sub_operations)
        finally:
            self.retrieves.note_use(retrieval)

    def _connect(
        self, operation: Operation, destination: Peer, proposals: tuple[Proposal, ...], wait_context: WaitContext
    ) -> StoreSender:
        """An association to a move destination, on behalf of the AE that asked (V8, P1)."""
        request = operation.request
        try:
            association = establishment.request(
                destination.host,
                destination.port,
                calling_ae_title=self.ae_title,
                called_ae_title=destination.ae_title,
                contexts=proposals,
                limits=self.limits,
                wait_context=wait_context,
                protection=self.protect(destination),
            )
        except DestinationUnreachable as error:
            where = f"{destination.ae_title} at {destination.host}:{destination.port}"
            sentence = f"move destination {where}: {error.comment}; `pacs check` asks it again"
            associated = operation.association.id
            self.publish(DestinationFailed(sentence=sentence, association=associated, destination=destination.ae_title))
            raise
        return StoreSender(
            association,
            self.retrieves,
            self.limits.message,
            priority=request.priority or 0,
            originator=(operation.association.calling_ae_title, request.message_id),
        )

    # --- N-ACTION -----------------------------------------------------------------------------------------------

    def commit(self, association: Association, message: Message) -> None:
        """Request Storage Commitment (PS3.4 J.3.2): answered when it is durable; what comes of it is reported later."""
        with operating(Service.COMMIT, association, message, self.publish, self.auditor) as operation:
            self.access.require(association.calling_ae_title, Right.COMMIT)
            _check_action(operation.request)
            asked = self._asked(message)
            if self.auditor.is_on:
                operation.subject = Subject(instances=[each.sop_instance_uid for each in asked.references])
            claim = self.commitments.request(association.calling_ae_title, asked)
            operation.counts = {"instances": len(asked.references)}
            operation.respond(operation.request.response(status.SUCCESS))
            self.reporter.asked(claim, association)

    def _asked(self, message: Message) -> CommitmentRequest:
        most = self.commitments.bounds.instances
        data = message.read(most * BYTES_PER_REFERENCE)
        return parse_request(data, message.context.transfer_syntax, most)


def _check_action(request: Command) -> None:
    """Raise NoSuchInstance or NoSuchAction for any other action than that of the Push Model (PS3.4 J.3.2, J.3.5)."""
    if request.requested_sop_instance_uid != STORAGE_COMMITMENT_INSTANCE:
        raise NoSuchInstance(f"Storage commitment is asked of {STORAGE_COMMITMENT_INSTANCE}")
    if request.action_type != REQUEST_STORAGE_COMMITMENT:
        raise NoSuchAction(f"The Action Type ID of a request is {REQUEST_STORAGE_COMMITMENT}")


def _subject(asked: Subject, instances: Sequence[StoredInstance]) -> Subject:
    """What a retrieve is about: the studies and patients of the instances it selected, each once."""
    studies = dict.fromkeys(each.study_instance_uid for each in instances)
    patients = dict.fromkeys(each.patient_id for each in instances)
    return replace(asked, studies=studies, patients=patients)
