"""`pacs completion`, and what the shell completes in arguments of `pacs`."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, get_completion_class

from pacs.errors import PacsError

if TYPE_CHECKING:
    from pacs.config import Config

SHELLS = ("bash", "zsh", "fish")

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


@click.command(short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script with which SHELL completes commands, options, peers and keys of pacs.

    For bash, append `eval "$(pacs completion bash)"` to ~/.bashrc. For zsh, append `eval "$(pacs completion zsh)"` to
    ~/.zshrc. For fish, write the script to ~/.config/fish/completions/pacs.fish.
    """
    root = click.get_current_context().find_root()
    script = get_completion_class(shell)
    assert script is not None, "click has all three"
    click.echo(script(root.command, {}, "pacs", "_PACS_COMPLETE").source())


def complete_file(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete the path of a file."""
    return [CompletionItem(incomplete, type="file")]


def complete_peer(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the AE title of a configured peer or of the server."""
    config = _config(ctx)
    titles = [*(each.ae_title for each in config.peers), config.server.ae_title] if config else []
    return _beginning(titles, incomplete)


def complete_title(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the AE title of a configured peer."""
    config = _config(ctx)
    return _beginning((each.ae_title for each in config.peers) if config else (), incomplete)


def complete_first(first: Complete, rest: Complete) -> Complete:
    """Return how the first of several arguments is completed, and the others."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        has_first = bool(ctx.params.get(str(parameter.name)))
        return (rest if has_first else first)(ctx, parameter, incomplete)

    return complete


def complete_key(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a keyword of PS3.6."""
    from pydicom.datadict import keyword_dict

    return _beginning(sorted(keyword_dict), incomplete) if incomplete else []


def complete_setting(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a key of the configuration."""
    from pacs.config import keys

    return _beginning((key for key in keys() if "[" not in key), incomplete)


def _beginning(words: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(each) for each in words if each.startswith(incomplete)]


def _config(ctx: click.Context) -> "Config | None":
    """Return the configuration of the command that is being typed, None if it is not valid."""
    from pacs.config import load

    try:
        return load(ctx.params.get("config_file"))
    except PacsError:
        return None
