"""The watcher: one thread that looks after all associations whose own threads are busy."""

import socket
import threading
from dataclasses import dataclass, field

import pytest

from pacs.dimse.association.cancel_monitor import Watcher
from pacs.errors import AssociationLost


@dataclass
class Attended:
    """What the watcher looks after: one end of a pair of sockets, and what attending to it raises."""

    socket: socket.socket
    error: Exception | None = None
    attended: threading.Event = field(default_factory=threading.Event)
    is_attentive: bool = True

    def fileno(self) -> int:
        """The descriptor of the socket."""
        return self.socket.fileno()

    def attend(self) -> None:
        """Read what came, or fail."""
        self.attended.set()
        if self.error is not None:
            raise self.error
        self.socket.recv(100)


@pytest.mark.parametrize("error", [AssociationLost("gone"), ZeroDivisionError()])
def test_what_fails_on_one_association_does_not_end_the_care_for_others(error):
    """After an association on which attending fails, the next one is still looked after."""
    watcher = Watcher()
    for failure in (error, None):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            attended = Attended(ours, failure)
            with watcher.watching(attended):
                theirs.send(b"x")
                assert attended.attended.wait(5)
