"""Exit statuses of the commands."""

from pacs.errors import ConfigurationError, DestinationUnreachable, InvalidArgument, PacsError

FAILED = 1
MISTAKE = 2
"""The command line or the configuration is wrong."""

PARTLY = 3
"""Some instances succeeded and some failed."""

UNREACHABLE = 4
"""An AE did not accept an association."""

INTERRUPTED = 130
"""Ctrl-C; the value that shells use."""

_EXIT_STATUS: dict[type, int] = {
    PacsError: FAILED,
    ConfigurationError: MISTAKE,
    InvalidArgument: MISTAKE,
    DestinationUnreachable: UNREACHABLE,
}


def exit_status(error: PacsError) -> int:
    """Return the exit status for an error: that of its class or nearest base class."""
    return next(_EXIT_STATUS[base] for base in type(error).__mro__ if base in _EXIT_STATUS)
