"""The cancel monitor: one thread that watches all associations whose own threads are busy."""

import socket
import threading
from dataclasses import dataclass, field

import pytest

from pacs.dimse.association.cancel_monitor import CancelMonitor
from pacs.errors import AssociationLost


@dataclass
class Source:
    """One end of a socket pair, and the error that processing its input raises."""

    socket: socket.socket
    error: Exception | None = None
    processed: threading.Event = field(default_factory=threading.Event)
    wants_input: bool = True

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self.socket.fileno()

    def process_input(self) -> None:
        """Read what came, or fail."""
        self.processed.set()
        if self.error is not None:
            raise self.error
        self.socket.recv(100)


@pytest.mark.parametrize("error", [AssociationLost("gone"), ZeroDivisionError()])
def test_a_failure_on_one_association_leaves_the_others_watched(error):
    """After an association whose `process_input` fails, the next one is still watched."""
    monitor = CancelMonitor()
    for failure in (error, None):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            source = Source(ours, failure)
            with monitor.watching(source):
                theirs.send(b"x")
                assert source.processed.wait(5)
