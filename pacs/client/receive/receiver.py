"""The built-in storage SCP: what a C-MOVE sends to."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from ssl import SSLContext

from pacs.client.peer import CALLING_AE_TITLE, Deadlines, check_ae_title
from pacs.client.receive.senders import LOOPBACK, Door
from pacs.client.receive.store_scp import Intake
from pacs.dicom.syntaxes import KEPT
from pacs.dimse.association.association import Association
from pacs.dimse.messages.command import CommandField
from pacs.dimse.messages.message import Message
from pacs.dimse.server.acceptor_policy import VERIFICATION, AcceptorPolicy
from pacs.errors import InvalidArgument

Handler = Callable[[Association, Message], None]

DRAIN_SECONDS = 1.0
"""How long a sender has to release its association when the receiver stops."""

MOST_ASSOCIATIONS = 16
"""How many may send at once."""


class Listener:
    """Listens on a port for as long as a `with` block runs, and serves whom the door lets in."""

    def __init__(
        self,
        hosts: Sequence[str],
        port: int,
        handlers: dict[int, Handler],
        *,
        door: Door,
        deadlines: Deadlines,
        services: Collection[str] = (),
        peers_provide: Collection[str] = (),
        tls: SSLContext | None = None,
    ) -> None:
        # Only here: it brings the log of a server with it, which no client needs to be loaded.
        from pacs.dimse.server.association_slots import AssociationBounds
        from pacs.dimse.server.server import Address, Server, Settings

        policy = AcceptorPolicy(
            access=door,
            transfer_syntaxes=KEPT,
            services=frozenset((VERIFICATION, *services)),
            peers_provide=frozenset(peers_provide),
            unknown_sop_classes=True,
        )
        settings = Settings(
            policy=policy,
            handlers={CommandField.C_ECHO: _echo, **handlers},
            limits=replace(deadlines.limits, artim=DRAIN_SECONDS, idle=deadlines.response),
            bounds=AssociationBounds(in_all=MOST_ASSOCIATIONS),
            tls=tls,
        )
        self.hosts = tuple(hosts)
        """The addresses it listens on."""
        self.door = door
        self._asked_port = port
        self._server = Server([Address(host, port, is_secure=tls is not None) for host in hosts], settings)

    def __enter__(self) -> "Listener":
        """Begin to listen. Raises InvalidArgument where that address cannot be had."""
        try:
            self._server.start()
        except OSError as error:
            where = f"{', '.join(self.hosts)}, port {self._asked_port}"
            raise InvalidArgument(f"Cannot listen on {where}: {error.strerror or error}; name another port") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._server.drain(DRAIN_SECONDS)
        self._server.stop()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.port

    @property
    def is_busy(self) -> bool:
        """Whether anybody has an association with it."""
        return self._server.associations > 0


def _echo(association: Association, message: Message) -> None:
    association.send(message.context.id, message.command.response(0))


class Receiver:
    """A running storage SCP: where it listens, and what has arrived."""

    def __init__(self, intake: Intake, listener: Listener, ae_title: str) -> None:
        self._intake = intake
        self._listener = listener
        self.ae_title = ae_title

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._listener.port

    @property
    def arrived(self) -> tuple[Path, ...]:
        """The files of the instances that have arrived, in order of arrival."""
        return self._intake.paths

    def wait_for(self, count: int, timeout: float) -> bool:
        """Wait until so many instances have arrived, for at most `timeout` seconds; whether they have."""
        return self._intake.wait_for(lambda arrivals: arrivals.received >= count, timeout)


@contextmanager
def receiving(
    to: Path | str,
    *,
    ae_title: str = CALLING_AE_TITLE,
    host: str = "",
    port: int = 0,
    overwrite: bool = False,
    tls: SSLContext | None = None,
) -> Iterator[Receiver]:
    """A storage SCP for the `with` block: what is sent to it becomes files in the folder `to`.

    It takes every Storage SOP Class and transfer syntax the archive keeps, from whoever can reach it, by whatever
    title: that is this machine alone, unless `host` is another address of ours to listen on (0.0.0.0 is all of IPv4).
    With `tls`, a context for a server, it takes encrypted associations only. What comes a second time is replaced with
    `overwrite`; without it, it is refused where its content is another.

    Raises InvalidArgument where it cannot listen there, StorageUnavailable where the folder cannot be made, and at the
    end where it could not take something that came.
    """
    check_ae_title(ae_title)
    intake = Intake(Path(to), overwrite=overwrite)
    handlers: dict[int, Handler] = {CommandField.C_STORE: intake.store}
    with Listener([host or LOOPBACK], port, handlers, door=Door(), deadlines=Deadlines(), tls=tls) as listener:
        yield Receiver(intake, listener, ae_title)
    intake.check()
