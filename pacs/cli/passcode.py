"""`pacs passcode`."""

import sys

import click


@click.command(short_help="Hash a passcode for [[users]].")
def passcode() -> None:
    """Print the hash of a passcode, for a block of [[users]] in the configuration file.

    It is asked for twice on a terminal, and else is the first line of standard input: an option would be seen by
    everybody in the list of processes.
    """
    from pacs.services.users import hash_passcode

    if sys.stdin.isatty():
        chosen = click.prompt("Passcode", hide_input=True, confirmation_prompt=True, err=True)
    else:
        chosen = sys.stdin.readline().rstrip("\r\n")
    if not chosen:
        raise click.UsageError("there is no passcode: type it, or give it as the first line of standard input")
    click.echo(f'passcode = "{hash_passcode(chosen)}"')
