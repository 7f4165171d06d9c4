"""The storage SCP of the client: the destination of a C-MOVE."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from ssl import SSLContext
from tempfile import TemporaryDirectory

from pydicom import Dataset

from pacs.client.peer import CALLING_AE_TITLE, Deadlines, check_ae_title
from pacs.client.receive.senders import LOOPBACK, SenderFilter
from pacs.client.receive.store_scp import StoreSCP
from pacs.client.without_folder import read_without_folder
from pacs.dicom.sop_classes import VERIFICATION
from pacs.dicom.syntaxes import KEPT
from pacs.dimse.association.association import Association
from pacs.dimse.messages.command import CommandField
from pacs.dimse.messages.message import Message
from pacs.dimse.server.acceptor_policy import AcceptorPolicy
from pacs.dimse.server.association_slots import AssociationBounds
from pacs.dimse.server.rejected_contexts import ContextNotingPolicy
from pacs.dimse.server.server import Address, AssociationObserver, DimseServer, Settings
from pacs.errors import InvalidArgument, ProtocolViolation
from pacs.support.sockets import host_and_port

Handler = Callable[[Association, Message], None]

_LOG = logging.getLogger("pacs")

DRAIN_SECONDS = 1.0
"""Seconds that a sender has to release its association when the receiver stops."""

MAX_ASSOCIATIONS = 16
"""Maximum number of simultaneous associations."""


class _ViolationLog(AssociationObserver):
    """Logs how a sender violated the protocol."""

    def aborted(self, violation: ProtocolViolation, address: tuple[str, int]) -> None:
        """Log an invalid association request."""
        _LOG.warning("connection of %s aborted: %s", host_and_port(*address), violation.comment)

    def ended(self, association: Association, counts: Mapping[str, int]) -> None:
        """Log a violation that ended an association."""
        if association.violation:
            sender = f"{association.calling_ae_title}@{host_and_port(*association.address)}"
            _LOG.warning("association of %s aborted: %s", sender, association.violation)


class Listener:
    """A server on a port, for the duration of a `with` block. The sender filter decides who may associate."""

    def __init__(
        self,
        hosts: Sequence[str],
        port: int,
        handlers: dict[int, Handler],
        *,
        sender_filter: SenderFilter,
        deadlines: Deadlines,
        services: Collection[str] = (),
        peers_provide: Collection[str] = (),
        tls: SSLContext | None = None,
    ) -> None:
        self._policy = ContextNotingPolicy(
            AcceptorPolicy(
                access=sender_filter,
                transfer_syntaxes=KEPT,
                services=frozenset((VERIFICATION, *services)),
                peers_provide=frozenset(peers_provide),
                unknown_sop_classes=True,
            )
        )
        settings = Settings(
            policy=self._policy,
            handlers={CommandField.C_ECHO: _echo, **handlers},
            limits=replace(deadlines.limits, artim=DRAIN_SECONDS, idle=deadlines.response),
            bounds=AssociationBounds(in_all=MAX_ASSOCIATIONS),
            tls=tls,
        )
        self.hosts = tuple(hosts)
        """The addresses that it listens on."""
        self.sender_filter = sender_filter
        self._requested_port = port
        addresses = [Address(host, port, is_secure=tls is not None) for host in hosts]
        self._server = DimseServer(addresses, settings, observer=_ViolationLog())

    def __enter__(self) -> "Listener":
        """Start listening. Raises InvalidArgument if the address is not available."""
        try:
            self._server.start()
        except OSError as error:
            where = ", ".join(host_and_port(host, self._requested_port) for host in self.hosts)
            why = error.strerror or error
            raise InvalidArgument(f"Cannot listen on {where}: {why}; choose another port") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._server.drain(DRAIN_SECONDS)
        self._server.stop()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.port

    @property
    def rejected_contexts(self) -> str:
        """The SOP Classes and transfer syntaxes that senders proposed in vain, '' if there were none."""
        return self._policy.rejected


def _echo(association: Association, message: Message) -> None:
    association.send(message.context.id, message.command.response(0))


class Receiver:
    """A running storage SCP: its address, and the files that have arrived."""

    def __init__(self, store_scp: StoreSCP, listener: Listener, ae_title: str) -> None:
        self._store_scp = store_scp
        self._listener = listener
        self.ae_title = ae_title

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._listener.port

    @property
    def arrived(self) -> tuple[Path, ...]:
        """The files of the instances that have arrived, in order of arrival."""
        return self._store_scp.paths

    @property
    def refused(self) -> str:
        """The reasons for which instances were refused, with the first instance of each, '' if there were none."""
        return self._store_scp.refusals

    def datasets(self) -> Iterator[Dataset]:
        """Yield the instances that have arrived as pydicom data sets, read one at a time."""
        return map(read_without_folder, self.arrived)

    def wait_for(self, count: int, timeout: float) -> bool:
        """Wait at most `timeout` seconds for this number of instances; return whether they have arrived."""
        return self._store_scp.wait_for(lambda arrivals: arrivals.received >= count, timeout)


@contextmanager
def receiving(
    to: Path | str | None = None,
    *,
    ae_title: str = CALLING_AE_TITLE,
    host: str = "",
    port: int = 0,
    overwrite: bool = False,
    tls: SSLContext | None = None,
) -> Iterator[Receiver]:
    """Run a storage SCP during the `with` block that writes the instances it receives to the folder `to`.

    Without a folder they are kept in a temporary one until the block ends; read them with `Receiver.datasets`.

    It accepts every Storage SOP Class and transfer syntax that the archive supports, from any address and with any
    called AE title. By default it listens on the loopback address only; `host` is another local address (0.0.0.0: all
    of IPv4). With `tls`, a server context, only encrypted associations are accepted. An instance that arrives again
    replaces the first one with `overwrite`; without it, it is refused if its content differs.

    Raises InvalidArgument if the address is not available, StorageUnavailable if the folder cannot be created, and at
    the end StorageUnavailable if an instance could not be written.
    """
    check_ae_title(ae_title)
    with nullcontext(to) if to is not None else TemporaryDirectory(prefix="pacs-receive-") as folder:
        store_scp = StoreSCP(Path(folder), overwrite=overwrite)
        handlers: dict[int, Handler] = {CommandField.C_STORE: store_scp.store}
        with Listener(
            [host or LOOPBACK], port, handlers, sender_filter=SenderFilter(), deadlines=Deadlines(), tls=tls
        ) as listener:
            yield Receiver(store_scp, listener, ae_title)
        store_scp.check()
