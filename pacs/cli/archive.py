"""`pacs import`, `ls`, `export` and `delete`: what is in the archive, without a network."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pacs.cli.options import configured
from pacs.cli.output import counted, json_option, show, size
from pacs.cli.progress import progress
from pacs.dicom.levels import USUAL_KEYS, QueryLevel
from pacs.errors import OutOfResources, PacsError
from pacs.support.chunks import chunks
from pacs.support.folders import files_under

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.config import Config
    from pacs.index.writer import StoredInstance
    from pacs.observability.events import Event
    from pacs.services.maintenance import Maintenance

LEVELS = dict(zip(("patients", "studies", "series", "images"), QueryLevel, strict=True))
EXAMPLES = 3
"""Paths shown for each reason to refuse files."""

BATCH = 500
"""Studies asked for at a time."""

Selection = dict[str, str]


def _selection(_ctx: click.Context, _parameter: click.Parameter, words: Sequence[str]) -> Selection:
    """KEYWORD=VALUE words as a selection."""
    pairs = [word.partition("=") for word in words]
    for keyword, equals, value in pairs:
        if not (keyword and equals and value):
            raise click.BadParameter(f"{keyword!r} is not KEYWORD=VALUE, such as PatientID=P1 or 'PatientName=DOE*'")
    return {keyword: value for keyword, _, value in pairs}


selection_argument = click.argument("selection", nargs=-1, metavar="[KEYWORD=VALUE]...", callback=_selection)
all_option = click.option("everything", "--all", is_flag=True, help="Everything there is, without KEYWORD=VALUE.")


@contextmanager
def opened(config: "Config") -> Iterator["Archive"]:
    """The archive of a configuration, ready for use; what an administrator has to know is printed."""
    from pacs.archive import Archive
    from pacs.observability.events import Notice

    def tell(event: "Event") -> None:
        if isinstance(event, Notice):
            click.echo(f"pacs: {event.sentence}", err=True)

    with Archive(config) as archive:
        archive.events.subscribe(tell)
        archive.open()
        yield archive


# --- import ------------------------------------------------------------------------------------------------------


@click.command("import", short_help="Take files and folders in.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="PATH...")
@configured
def import_(config: "Config", paths: Sequence[Path]) -> None:
    """Take files and folders in through the same checks as a C-STORE; say what was refused and why.

    The exit status is 1 when anything was refused.
    """
    files = list(_files(paths))
    stored, known, refused = 0, 0, defaultdict[str, list[Path]](list)
    with opened(config) as archive, progress("importing", len(files)) as advance:
        for file in files:
            try:
                done = archive.storage.import_file(file)
            except OutOfResources:
                raise
            except PacsError as error:
                refused[error.comment].append(file)
            else:
                stored, known = stored + (not done.duplicate), known + done.duplicate
            advance(1)
    click.echo(f"{stored} stored, {known} known already, {sum(map(len, refused.values()))} refused")
    _tell_refused(refused)


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files named and those in the folders named, in order of their names; links to folders are not followed."""
    for path in paths:
        if not path.is_dir():
            if not path.is_file():
                raise click.UsageError(f"{str(path)!r} is neither a file nor a folder")
            yield path
            continue
        yield from files_under(path)


def _tell_refused(refused: Mapping[str, Sequence[Path]]) -> None:
    """Each reason with how often it applied and some of the files; ends the command with status 1 if there is any."""
    from pacs.observability.logging import printable

    for reason, files in sorted(refused.items(), key=lambda each: -len(each[1])):
        click.echo(f"{len(files)} refused: {reason}", err=True)
        for file in files[:EXAMPLES]:
            click.echo(f"    {printable(str(file))}", err=True)
        if len(files) > EXAMPLES:
            click.echo(f"    and {len(files) - EXAMPLES} more", err=True)
    if refused:
        raise click.exceptions.Exit(1)


# --- ls ----------------------------------------------------------------------------------------------------------


@click.command(short_help="List patients, studies, series or images.")
@click.argument("level", required=False, default="studies", metavar=f"[{'|'.join(LEVELS)}]")
@selection_argument
@json_option
@configured
def ls(config: "Config", level: str, selection: Selection, *, as_json: bool) -> None:
    """List patients, studies, series or images, those that match: a table on a terminal, CSV where it is piped."""
    if "=" in level:
        selection |= _selection(click.get_current_context(), _NO_PARAMETER, [level])
        level = "studies"
    if level not in LEVELS:
        raise click.UsageError(f"{level!r} is none of {', '.join(LEVELS)}")
    with opened(config) as archive:
        found = archive.maintenance.entities(LEVELS[level], selection)
        show(USUAL_KEYS[LEVELS[level]], (tuple(each.values()) for each in found), as_json=as_json)


_NO_PARAMETER = click.Argument(["selection"])

# --- export and delete -------------------------------------------------------------------------------------------


@click.command(short_help="Write what matches as files into a folder.")
@click.argument("dest", type=click.Path(file_okay=False, path_type=Path))
@selection_argument
@all_option
@configured
def export(config: "Config", dest: Path, selection: Selection, *, everything: bool) -> None:
    """Write what matches as files into folders DEST/patient/study/series."""
    with opened(config) as archive:
        instances = _selected(archive.maintenance, selection, everything=everything)
        with progress("exporting", len(instances)) as advance:
            exported = archive.maintenance.export(instances, dest, advance)
    click.echo(f"{counted(exported.instances, 'instance')}, {size(exported.size)} written to {dest}")


@click.command(short_help="Show what matches, ask, and delete it.")
@selection_argument
@all_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@configured
def delete(config: "Config", selection: Selection, *, everything: bool, yes: bool) -> None:
    """Show what matches, ask, and delete it from index and files. It is gone then."""
    with opened(config) as archive:
        instances = _selected(archive.maintenance, selection, everything=everything)
        if not instances:
            click.echo("nothing matches")
            return
        studies = _show_studies(archive.maintenance, instances)
        if not yes:
            click.confirm(
                f"Delete {counted(len(instances), 'instance')} of {counted(studies, 'study')} for good?", abort=True
            )
        with progress("deleting", len(instances)) as advance:
            deleted = archive.maintenance.delete(instances, advance)
    click.echo(f"{counted(deleted, 'instance')} deleted")


def _selected(maintenance: "Maintenance", selection: Selection, *, everything: bool) -> "list[StoredInstance]":
    """The instances that match; everything only where that was said and nothing else."""
    if everything == bool(selection):
        raise click.UsageError("expected either KEYWORD=VALUE, such as PatientID=P1, or --all")
    return maintenance.instances(selection)


def _show_studies(maintenance: "Maintenance", instances: "Sequence[StoredInstance]") -> int:
    """Print the studies that instances belong to, and how many of each; return how many studies."""
    counts = Counter(each.study_instance_uid for each in instances)
    columns = ("PatientID", "PatientName", "StudyDate", "StudyDescription", "StudyInstanceUID")
    found = (each for uids in chunks(counts, BATCH) for each in maintenance.entities(QueryLevel.STUDY, _studies(uids)))
    rows = ((*(each[column] for column in columns), counts[each["StudyInstanceUID"]]) for each in found)
    show((*columns, "Instances"), rows)
    return len(counts)


def _studies(uids: Sequence[str]) -> Selection:
    """Select studies by their UIDs."""
    return {"StudyInstanceUID": "\\".join(uids)}
