"""`pacs passcode`."""

import sys

import click


@click.command(short_help="Hash a passcode for the configuration.")
def passcode() -> None:
    """Print the hash of a passcode for a [[users]] entry of the configuration file.

    On a terminal the passcode is entered twice; otherwise it is the first line of standard input. It cannot
    be given as an option, because other users can see the options of running processes.
    """
    from pacs.services.users import hash_passcode

    if sys.stdin.isatty():
        chosen = click.prompt("Passcode", hide_input=True, confirmation_prompt=True, err=True)
    else:
        chosen = sys.stdin.readline().rstrip("\r\n")
    if not chosen:
        raise click.UsageError("no passcode given; enter it, or pass it as the first line of standard input")
    click.echo(f'passcode = "{hash_passcode(chosen)}"')
