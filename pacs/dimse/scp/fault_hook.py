"""Where fault injection and observation of tests attach to a server: its settings can be replaced."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pacs.dimse.scp.handlers import Handlers
    from pacs.dimse.server.server import Settings


class FaultHook(Protocol):
    """Replaces the settings of a server whenever they are made."""

    def apply(self, settings: "Settings", handlers: "Handlers | None" = None) -> "Settings":
        """Return the settings to use instead; `handlers` are those in the table of `settings`."""

    def close(self) -> None:
        """End what still runs after the server has stopped."""


class NoFaults:
    """The hook of a server without fault injection."""

    def apply(self, settings: "Settings", _handlers: "Handlers | None" = None) -> "Settings":
        """Return the settings unchanged."""
        return settings

    def close(self) -> None:
        """Do nothing."""
