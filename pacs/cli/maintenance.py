"""`pacs fsck`, `reindex`, `backup` and `restore`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pacs.cli.archive import open_archive
from pacs.cli.exit_status import FAILED, PARTLY
from pacs.cli.options import with_config
from pacs.cli.output import json_option, plural, show, size
from pacs.cli.progress import progress_bar
from pacs.cli.reasons import print_some
from pacs.cli.verbosity import say

if TYPE_CHECKING:
    from pacs.config import Config
    from pacs.services.fsck import Report

COLUMNS = ("Problem", "File", "SOPInstanceUID", "Explanation", "Done")

EXAMPLES = 10
"""Number of files shown in a list of problems."""


@click.command(short_help="Check index and files, and repair them.")
@click.option(
    "--repair", is_flag=True, help="Repair what is found. Damaged files are moved to quarantine/, never deleted."
)
@click.option("--quick", is_flag=True, help="Compare only names and sizes; do not read the files.")
@json_option
@with_config
def fsck(config: "Config", *, repair: bool, quick: bool, as_json: bool) -> None:
    """Compare index and files in both directions and list the differences. A server may be running.

    Reads every file and compares it with the digest recorded when it was received. The exit status is 1 when a problem
    was found and not repaired. What a process that died has left, and the next start removes, is listed and no problem.
    """
    from pacs.archive import require_existing

    require_existing(config, index=not repair)
    with open_archive(config, creates=repair) as archive:
        report = archive.fsck.run(quick=quick, repair=repair, progress=progress_bar)
    found = report.findings
    if found or as_json:
        rows = ((each.problem, each.file, each.sop_instance_uid, each.explanation, each.done) for each in found)
        show(COLUMNS, rows, as_json=as_json)
    say(_summary(report), err=True)
    if not report.is_well:
        if not repair:
            say("run `pacs fsck --repair` to repair what can be repaired", err=True)
        raise click.exceptions.Exit(FAILED)


def _summary(report: "Report") -> str:
    damage = report.damage
    problems = f"{plural(len(damage), 'problem')}, {sum(each.is_repaired for each in damage)} repaired"
    summary = f"{plural(report.images, 'instance')}, {plural(report.files, 'file')}: "
    summary += problems if damage else "no problems"
    left = [each for each in report.findings if not each.is_damage]
    if not left:
        return summary
    is_done = all(each.is_repaired for each in left)
    what = "removed" if is_done else "the next start or `pacs fsck --repair` removes what is left"
    return f"{summary}; {plural(len(left), 'leftover')} of processes that died: {what}"


@click.command(short_help="Rebuild the index from the files.")
@with_config
def reindex(config: "Config") -> None:
    """Rebuild the index from the files. The index may be empty or lost; a server may be running.

    The exit status is 3 when there are files without a readable instance, 1 when there are only such files; `pacs fsck`
    describes them.
    """
    from pacs.archive import require_existing

    require_existing(config, index=False)
    with open_archive(config, creates=True) as archive:
        done = archive.reindex.run(progress_bar)
    say(
        f"{plural(done.images, 'instance')} in the index: {done.added} added, "
        f"{plural(done.corrected, 'row')} corrected, {done.removed} removed"
    )
    _print_files("not indexed", done.unusable, done.images)


@click.command(short_help="Copy index and files into a folder.")
@click.argument("dest", type=click.Path(file_okay=False, path_type=Path))
@click.option("--link", is_flag=True, help="Link files instead of copying them, on the same file system.")
@click.option("--prune", is_flag=True, help="Remove files from the backup that are no longer in the archive.")
@with_config
def backup(config: "Config", dest: Path, *, link: bool, prune: bool) -> None:
    """Copy a consistent snapshot of index and files into DEST, a new folder or one with an earlier backup.

    Every copied file is compared with its digest. Files that an earlier backup has with the same size are not copied
    again. The server may be running. The exit status is 3 when damaged or missing files were left out, 1 when all were.
    """
    with open_archive(config) as archive:
        done = archive.backups.make(dest, link=link, prune=prune, progress=progress_bar)
    say(f"{plural(done.instances, 'instance')}, {size(done.size)} in {dest}: {done.copied} new")
    if done.deleted:
        say(f"{plural(done.deleted, 'instance')} deleted during the backup and left out")
    if done.replaced:
        say(f"{plural(done.replaced, 'instance')} replaced during the backup; the backup has the new version")
    if done.pruned:
        say(f"{plural(done.pruned, 'file')} of earlier backups removed")
    _print_files("left out", done.failed, done.instances, "pacs fsck --repair")


@click.command(short_help="Restore a backup into an empty archive.")
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@with_config
def restore(config: "Config", source: Path) -> None:
    """Restore the backup in SOURCE into the configured database and folder, which must be empty.

    Every file is compared with its digest. The backup of a SQLite archive can be restored into PostgreSQL, and vice
    versa. The exit status is 3 when damaged or missing files were left out, 1 when all were.
    """
    with open_archive(config, creates=True) as archive:
        done = archive.backups.restore(source, progress_bar)
    say(f"{plural(done.instances, 'instance')}, {size(done.size)} restored from {source}")
    _print_files("left out", done.failed, done.instances)


def _print_files(what: str, files: Mapping[str, str], succeeded: int, command: str = "") -> None:
    """Print files with a problem and the reasons; end the command with status 1 or 3 if there are any."""
    if not files:
        return
    click.echo(
        f"{plural(len(files), 'file')} {what}" + (f"; run `{command}` for details" if command else "") + ":", err=True
    )
    print_some([f"{key}: {why}" for key, why in files.items()], EXAMPLES)
    raise click.exceptions.Exit(PARTLY if succeeded else FAILED)
