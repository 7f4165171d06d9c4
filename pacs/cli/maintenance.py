"""`pacs fsck`, `reindex`, `backup` and `restore`: looking after what is in the archive."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pacs.cli.archive import opened
from pacs.cli.options import configured
from pacs.cli.output import counted, json_option, show, size
from pacs.cli.progress import progress

if TYPE_CHECKING:
    from pacs.config import Config

COLUMNS = ("Problem", "File", "SOPInstanceUID", "Explanation", "Done")

EXAMPLES = 10
"""Files shown of those that are wrong."""


@click.command(short_help="Compare index and files, and mend what is wrong.")
@click.option(
    "--repair", is_flag=True, help="Mend what is wrong. Damaged files are moved to quarantine/, never deleted."
)
@click.option("--quick", is_flag=True, help="Look at names and sizes only, not into the files.")
@json_option
@configured
def fsck(config: "Config", *, repair: bool, quick: bool, as_json: bool) -> None:
    """Compare index and files in both directions, while a server runs or not, and list what is wrong.

    Every file is read and compared with the digest of what was received. The exit status is 1 when something is wrong
    and was not mended.
    """
    with opened(config) as archive:
        report = archive.fsck.run(quick=quick, repair=repair, progress=progress)
    found = report.findings
    if found or as_json:
        rows = ((each.problem, each.file, each.sop_instance_uid, each.explanation, each.done) for each in found)
        show(COLUMNS, rows, as_json=as_json)
    mended = sum(each.is_repaired for each in found)
    said = f"{counted(report.images, 'instance')}, {counted(report.files, 'file')}: "
    said += f"{len(found)} wrong, {mended} mended" if found else "all is well"
    click.echo(said, err=True)
    if not report.is_well:
        if not repair:
            click.echo("pacs fsck --repair mends what can be mended", err=True)
        raise click.exceptions.Exit(1)


@click.command(short_help="Make the index anew from the files alone.")
@configured
def reindex(config: "Config") -> None:
    """Make the index say what the files say, while a server runs or not; it may be empty or lost.

    The exit status is 1 when there are files that hold no instance: `pacs fsck` says more about them.
    """
    with opened(config) as archive:
        done = archive.reindex.run(progress)
    click.echo(
        f"{counted(done.images, 'instance')} in the index: {done.added} added, "
        f"{counted(done.corrected, 'row')} corrected, {done.removed} removed"
    )
    _tell("not taken in", done.unusable)


@click.command(short_help="Copy index and files into a folder.")
@click.argument("dest", type=click.Path(file_okay=False, path_type=Path))
@click.option("--link", is_flag=True, help="Link files instead of copying them, on the same file system.")
@click.option("--prune", is_flag=True, help="Remove files from the backup that the archive has no more.")
@configured
def backup(config: "Config", dest: Path, *, link: bool, prune: bool) -> None:
    """Copy index and files, as one moment has them, into DEST, a new folder or one with an earlier backup.

    Every file that is copied is compared with its digest; of what an earlier backup has only the size is looked at, and
    it is not copied again. The server may run.
    """
    with opened(config) as archive:
        done = archive.backups.make(dest, link=link, prune=prune, progress=progress)
    click.echo(f"{counted(done.instances, 'instance')}, {size(done.size)} in {dest}: {done.copied} new")
    if done.deleted:
        click.echo(f"{counted(done.deleted, 'instance')} deleted meanwhile, and left out")
    if done.replaced:
        click.echo(f"{counted(done.replaced, 'instance')} replaced meanwhile, and taken as they are now")
    if done.pruned:
        click.echo(f"{counted(done.pruned, 'file')} of earlier backups removed")
    _tell("left out", done.failed, "pacs fsck --repair")


@click.command(short_help="Make an empty archive from a backup.")
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@configured
def restore(config: "Config", source: Path) -> None:
    """Put the backup in SOURCE into the configured database and folder, which have to be empty.

    Every file is compared with its digest. The database may be of another kind than the one that was backed up.
    """
    with opened(config) as archive:
        done = archive.backups.restore(source, progress)
    click.echo(f"{counted(done.instances, 'instance')}, {size(done.size)} restored from {source}")
    _tell("left out", done.failed)


def _tell(what: str, files: Mapping[str, str], mend: str = "") -> None:
    """The files that something is wrong with, and why; ends the command with status 1 if there are any."""
    from pacs.observability.logging import printable

    if not files:
        return
    click.echo(f"{counted(len(files), 'file')} {what}" + (f"; `{mend}` says more" if mend else "") + ":", err=True)
    for key, why in list(files.items())[:EXAMPLES]:
        click.echo(f"    {printable(key)}: {why}", err=True)
    if len(files) > EXAMPLES:
        click.echo(f"    and {len(files) - EXAMPLES} more", err=True)
    raise click.exceptions.Exit(1)
