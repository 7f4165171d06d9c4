"""`-q`, `-v` and `-d` of every command: how much it prints besides its results and errors."""

from enum import IntEnum
from typing import Any

import click

_KEY = "pacs.verbosity"


class Verbosity(IntEnum):
    """How much a command prints besides its results and errors."""

    QUIET = 0
    """Nothing: no progress, no notices and no summary."""
    NORMAL = 1
    VERBOSE = 2
    """Also each step, and the log at level INFO."""
    DEBUG = 3
    """Also the log at level DEBUG, with associations and messages, and the traceback of an error."""


LOG_LEVELS = {Verbosity.QUIET: "WARNING", Verbosity.VERBOSE: "INFO", Verbosity.DEBUG: "DEBUG"}

_HELP = {
    "-q": "Print only results and errors.",
    "-v": "Print each step.",
    "-d": "Print the log, with associations and messages, and tracebacks; may show patient data.",
}


def verbosity() -> Verbosity:
    """Return the verbosity of the running command."""
    ctx = click.get_current_context(silent=True)
    return ctx.meta.get(_KEY, Verbosity.NORMAL) if ctx else Verbosity.NORMAL


def say(text: str, *, err: bool = False) -> None:
    """Print a summary or a notice, unless the command is quiet."""
    if verbosity() is not Verbosity.QUIET:
        click.echo(text, err=err)


def add_verbosity(command: click.Command, *, sets_log_level: bool = False) -> None:
    """Add `-q`, `-v` and `-d` to a command and those below it; the last one given counts.

    With `sets_log_level` they set `log.level` of the configuration; otherwise -v and -d turn the log on.
    """
    if isinstance(command, click.Group):
        for child in command.commands.values():
            add_verbosity(child)
        if not command.invoke_without_command:
            return

    def remember(ctx: click.Context, parameter: click.Parameter, is_given: bool) -> None:
        if is_given:
            _set(ctx, Verbosity[str(parameter.name).upper()], sets_log_level=sets_log_level)

    for (short, text), level in zip(_HELP.items(), LOG_LEVELS, strict=True):
        attributes: Any = {"is_flag": True, "expose_value": False, "is_eager": True, "callback": remember}
        command.params.append(click.Option([short, f"--{level.name.lower()}"], help=text, **attributes))


def _set(ctx: click.Context, level: Verbosity, *, sets_log_level: bool) -> None:
    ctx.meta[_KEY] = level
    if sets_log_level:
        ctx.ensure_object(dict)["log.level"] = LOG_LEVELS[level]
    elif level > Verbosity.NORMAL:
        from pacs.observability.logging import setup_logging

        setup_logging(LOG_LEVELS[level])
