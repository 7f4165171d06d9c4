"""`pacs passcode`."""

import click


@click.command(short_help="Hash a passcode for [[users]].")
@click.password_option("--passcode", prompt="Passcode", help="The passcode; it is asked for where it is not given.")
def passcode(passcode: str) -> None:
    """Print the hash of a passcode, for a block of [[users]] in the configuration file."""
    from pacs.services.users import hashed

    click.echo(f'passcode = "{hashed(passcode)}"')
