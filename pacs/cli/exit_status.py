"""With what a command ends, for scripts: one number for each kind of outcome."""

from pacs.errors import ConfigurationError, DestinationUnreachable, InvalidArgument, PacsError

FAILED = 1
MISTAKE = 2
"""In the command, or in the configuration."""

PARTLY = 3
"""Some of it came out well and some did not."""

UNREACHABLE = 4
"""An AE could not be called."""

INTERRUPTED = 130
"""Ctrl-C, as a shell has it."""

_EXIT_STATUS: dict[type, int] = {
    PacsError: FAILED,
    ConfigurationError: MISTAKE,
    InvalidArgument: MISTAKE,
    DestinationUnreachable: UNREACHABLE,
}


def exit_status(error: PacsError) -> int:
    """With what an error ends a command; a class that is not listed ends it as its nearest base class does."""
    return next(_EXIT_STATUS[base] for base in type(error).__mro__ if base in _EXIT_STATUS)
