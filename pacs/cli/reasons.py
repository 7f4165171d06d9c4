"""Lists of what failed: each reason with its count and some of the files or instances."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import click

from pacs.cli.output import safe


def print_reasons(how: str, failures: Iterable[tuple[str, str]], most: int, *, elsewhere: str = "") -> None:
    """Print each reason with its count and what it is the reason for; `how` says what happened to these.

    `elsewhere` says where all are.
    """
    reasons = defaultdict[str, list[str]](list)
    for reason, what in failures:
        reasons[reason].append(what)
    for reason, those in sorted(reasons.items(), key=lambda each: -len(each[1])):
        click.echo(f"{len(those)} {how}: {safe(reason)}", err=True)
        print_some(those, most, elsewhere=elsewhere)


def print_some(those: Sequence[str], most: int, *, elsewhere: str = "") -> None:
    """Print the first `most` lines and the number of the others; a single other one is printed, too.

    `elsewhere` says where all are.
    """
    shown = those if len(those) == most + 1 else those[:most]
    for each in shown:
        click.echo(f"    {safe(each)}", err=True)
    if rest := len(those) - len(shown):
        click.echo(f"    and {rest} more{elsewhere and f'; {elsewhere}'}", err=True)
