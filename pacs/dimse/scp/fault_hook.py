"""Where something may come between a server and the settings it goes by. Mostly nothing does."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pacs.dimse.scp.handlers import Handlers
    from pacs.dimse.server.server import Settings


class Interposes(Protocol):
    """What may change the settings of a server as they are made."""

    def on(self, settings: "Settings", handlers: "Handlers | None" = None) -> "Settings":
        """The settings that are gone by instead; `handlers` are those in the table of `settings`."""

    def close(self) -> None:
        """The server has stopped."""


class Nothing:
    """Lets a server go by its settings as they are."""

    def on(self, settings: "Settings", _handlers: "Handlers | None" = None) -> "Settings":
        """The same."""
        return settings

    def close(self) -> None:
        """There is nothing to end."""
