"""Options of the commands that need the configuration."""

from collections.abc import Callable
from functools import reduce, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pacs.cli.completion import complete_setting

if TYPE_CHECKING:
    from pacs.config import Config, Sources

Command = Callable[..., None]


def with_config(command: Command) -> Command:
    """Add `--config` and `--set` to a command, and pass it the Config as first argument."""

    @with_config_loader
    @wraps(command)
    def run(read: Callable[[], "Config"], **arguments: Any) -> None:
        command(read(), **arguments)

    return run


def with_config_loader(command: Command) -> Command:
    """Like `with_config`, but pass a function that loads the Config each time it is called."""

    def loader(file: Path | None, settings: dict[str, Any]) -> Callable[[], "Config"]:
        from pacs.config import load

        return lambda: load(file, None, settings)

    return _with_configuration(command, loader)


def with_sources(command: Command) -> Command:
    """Add `--config` and `--set` to a command, and pass it the Sources of the configuration as first argument."""

    def sources(file: Path | None, settings: dict[str, Any]) -> "Sources":
        from pacs.config import read_sources

        return read_sources(file, None, settings)

    return _with_configuration(command, sources)


def _with_configuration(command: Command, made: Callable[[Path | None, dict[str, Any]], Any]) -> Command:
    """Add `--config` and `--set` to a command, and pass it what is made of them as first argument."""

    @config_option
    @settings_option
    @wraps(command)
    def run(*, config_file: Path | None, settings: dict[str, Any], **arguments: Any) -> None:
        command(made(config_file, settings), **arguments)

    return run


def with_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return a decorator that adds options to a command, in this order."""
    return lambda command: reduce(lambda decorated, option: option(decorated), reversed(options), command)


config_option = click.option(
    "config_file",
    "--config",
    envvar="PACS_CONFIG",
    type=click.Path(path_type=Path),
    help="Configuration file; default: ./config.toml if it exists.",
)


settings_option = click.option(
    "settings",
    "--set",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=complete_setting,
    callback=lambda ctx, _parameter, pairs: _settings(ctx, pairs),
    help="Set a configuration key, for example server.port=0; may be given several times.",
)


class Seconds(click.ParamType):  # type: ignore[type-arg]
    """A duration in seconds: more than 0, or with `or_none` also 0. `meant` is an option for which it is mistaken."""

    name = "seconds"
    MOST = 1_000_000.0
    """About 11 days; the system calls that wait take no more than 24."""

    def __init__(self, *, or_none: bool = False, meant: str = "") -> None:
        self._or_none, self._meant = or_none, meant

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; fail for what is none, or out of range."""
        try:
            seconds = float(value)
        except ValueError:
            hint = f"; did you mean {self._meant} {value}?" if self._meant else "; expected for example 2.5"
            self.fail(f"{value!r} is not a number of seconds{hint}", param, ctx)
        if not (0 < seconds <= self.MOST or (self._or_none and seconds == 0)):
            least = "at least 0" if self._or_none else "more than 0"
            self.fail(f"{value} seconds: expected {least} and at most {self.MOST:.0f}", param, ctx)
        return seconds


def setting_option(key: str, *names: str, **attributes: Any) -> Callable[[Command], Command]:
    """Return an option that sets one configuration key, like `--set KEY=VALUE`."""

    def remember(ctx: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value is not None:
            ctx.ensure_object(dict)[key] = value

    return click.option(*names, expose_value=False, callback=remember, is_eager=True, **attributes)


def _settings(ctx: click.Context, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings of `--set` and of the options for single keys, by dotted key."""
    settings = dict(ctx.ensure_object(dict))
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE; expected for example server.port=0")
        settings[key] = value
    return settings


as_option = click.option(
    "--as", "send_as", multiple=True, metavar="SYNTAX",
    help="Convert into this transfer syntax: explicit, implicit, rle, jpegls, j2k, htj2k, or a keyword or UID; "
    "may be given several times, each for what cannot be converted into the ones before.",
)  # fmt: skip
