"""`pacs config`: show the configuration in force, and write a file with every key."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pacs.cli.completion import complete_setting
from pacs.cli.options import with_sources
from pacs.cli.output import confirm, json_option, show
from pacs.cli.verbosity import say
from pacs.errors import ConfigurationError

if TYPE_CHECKING:
    from pacs.config import Sources

COLUMNS = ("key", "value", "source")


@click.group()
def config() -> None:
    """Show the configuration, or write a new configuration file."""


@config.command("show", short_help="Show every value and where it comes from.")
@click.argument("keys", nargs=-1, metavar="[KEY]...", shell_complete=complete_setting)
@json_option
@with_sources
def show_config(sources: "Sources", keys: Sequence[str], *, as_json: bool) -> None:
    """Show every value in force and its source: a file with the line, an environment variable, an option, or default.

    KEY is a section or a key, such as server or server.port; without KEY all are shown. Secrets are masked.
    """
    from pacs.config import values_in_force

    values = [each for each in values_in_force(sources) if not keys or any(_is_below(each.key, key) for key in keys)]
    for key in keys:
        if not any(_is_below(each.key, key) for each in values):
            raise click.BadParameter(f"there is no value of {key!r}; `pacs config show` lists them", param_hint="KEY")
    show(COLUMNS, [(each.key, _shown(each.value, as_json=as_json), each.source) for each in values], as_json=as_json)


def _is_below(key: str, section: str) -> bool:
    return key == section or key.startswith((f"{section}.", f"{section}["))


def _shown(value: Any, *, as_json: bool) -> Any:
    """Return a value as it is for JSON, else as text, '' for none."""
    if as_json or isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


@config.command("init", short_help="Write a configuration file with every key.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default="config.toml")
@click.option("--yes", is_flag=True, help="Replace an existing file without confirmation.")
def init(file: Path, *, yes: bool) -> None:
    """Write FILE, by default ./config.toml, with every key, its default and a comment.

    An existing file is replaced only after confirmation.
    """
    from pacs.config import template
    from pacs.files.disk import write_text

    if file.exists() and not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"{str(file)!r} exists; expected another FILE, or --yes to replace it")
        confirm(f"Replace {file}?", otherwise=f"{file} was not replaced")
    try:
        write_text(file, template())
        file.chmod(0o644)  # the user of the server is often another one
    except OSError as error:
        raise ConfigurationError(f"cannot write {str(file)!r} ({error.strerror})") from error
    say(f"{file} has every key with its default: change it, and run `pacs check`")
