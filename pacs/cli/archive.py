"""`pacs ls`, `export` and `delete`: commands on the contents of the archive, without a network."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pacs.cli.exit_status import FAILED, PARTLY
from pacs.cli.options import as_option, with_config
from pacs.cli.output import json_option, plural, print_error, show, size
from pacs.cli.progress import progress_bar
from pacs.cli.reasons import print_reasons
from pacs.cli.verbosity import Verbosity, say, verbosity
from pacs.dicom.levels import USUAL_KEYS, QueryLevel
from pacs.support.chunks import chunks

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.config import Config
    from pacs.index.writer import StoredInstance
    from pacs.observability.events import Event
    from pacs.services.maintenance import Maintenance

LEVELS = dict(zip(("patients", "studies", "series", "images"), QueryLevel, strict=True))
EXAMPLES = 3
"""Number of files or instances shown for each reason."""

BATCH = 500
"""Number of studies selected by one query."""

Selection = dict[str, str]


def _selection(_ctx: click.Context, _parameter: click.Parameter, words: Sequence[str]) -> Selection:
    """Parse KEYWORD=VALUE arguments."""
    pairs = [word.partition("=") for word in words]
    for keyword, equals, value in pairs:
        if not (keyword and equals and value):
            raise click.BadParameter(
                f"{keyword!r} is not KEYWORD=VALUE; expected for example PatientID=P1 or 'PatientName=DOE*'"
            )
    return {keyword: value for keyword, _, value in pairs}


selection_argument = click.argument("selection", nargs=-1, metavar="[KEYWORD=VALUE]...", callback=_selection)
all_option = click.option("everything", "--all", is_flag=True, help="Select all instances of the archive.")


@contextmanager
def open_archive(config: "Config") -> Iterator["Archive"]:
    """Open the archive of a configuration; print its notices to standard error."""
    from pacs.archive import Archive
    from pacs.observability.events import Notice
    from pacs.observability.logging import log_event

    def print_notice(event: "Event") -> None:
        if isinstance(event, Notice):
            say(f"pacs: {event.sentence}", err=True)

    with Archive(config) as archive:
        archive.events.subscribe(log_event if verbosity() > Verbosity.NORMAL else print_notice)
        archive.open()
        yield archive


# --- ls ----------------------------------------------------------------------------------------------------------


@click.command(short_help="List patients, studies, series or images.")
@click.argument("level", required=False, default="studies", metavar=f"[{'|'.join(LEVELS)}]")
@selection_argument
@json_option
@with_config
def ls(config: "Config", level: str, selection: Selection, *, as_json: bool) -> None:
    """List matching patients, studies, series or images: as a table on a terminal, else as CSV."""
    if "=" in level:
        selection |= _selection(click.get_current_context(), _NO_PARAMETER, [level])
        level = "studies"
    if level not in LEVELS:
        raise click.UsageError(f"{level!r} is not a level; expected one of {', '.join(LEVELS)}")
    with open_archive(config) as archive:
        found = archive.maintenance.entities(LEVELS[level], selection)
        show(USUAL_KEYS[LEVELS[level]], (tuple(each.values()) for each in found), as_json=as_json)


_NO_PARAMETER = click.Argument(["selection"])

# --- export and delete -------------------------------------------------------------------------------------------


@click.command(short_help="Copy matching instances into a folder.")
@click.argument("dest", type=click.Path(file_okay=False, path_type=Path))
@selection_argument
@all_option
@as_option
@with_config
def export(config: "Config", dest: Path, selection: Selection, *, everything: bool, send_as: tuple[str, ...]) -> None:
    """Copy matching instances into folders DEST/patient/study/series; with --as, convert them.

    Instances that cannot be read or converted are listed with the reason. The exit status is 1 when nothing was
    exported, 3 when some instances failed.
    """
    from pacs.pixels.target_names import targets_of

    targets = targets_of(send_as)
    with open_archive(config) as archive:
        instances = _selected(archive.maintenance, selection, everything=everything)
        with progress_bar("exporting", len(instances)) as advance:
            exported = archive.exporter.export(instances, dest, advance, targets)
    failed = f", {len(exported.failed)} failed" if exported.failed else ""
    say(f"{plural(exported.instances, 'instance')}, {size(exported.size)} written to {dest}{failed}")
    print_reasons("failed", ((each.comment, each.sop_instance_uid) for each in exported.failed), EXAMPLES)
    if exported.failed:
        raise click.exceptions.Exit(PARTLY if exported.instances else FAILED)


@click.command(short_help="Delete matching instances.")
@selection_argument
@all_option
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@with_config
def delete(config: "Config", selection: Selection, *, everything: bool, yes: bool) -> None:
    """Delete matching instances from index and file store, after confirmation. This cannot be undone."""
    with open_archive(config) as archive:
        instances = _selected(archive.maintenance, selection, everything=everything)
        if not instances:
            say("no matches")
            return
        studies = _show_studies(archive.maintenance, instances)
        if not yes:
            _confirm(f"Permanently delete {plural(len(instances), 'instance')} of {plural(studies, 'study')}?")
        with progress_bar("deleting", len(instances)) as advance:
            deleted = archive.maintenance.delete(instances, advance)
    say(f"{plural(deleted, 'instance')} deleted")


def _confirm(question: str) -> None:
    """Ask for confirmation. Raises click.Abort, also at the end of standard input."""
    try:
        click.confirm(question, abort=True)
    except click.Abort:
        click.echo(err=True)
        print_error("nothing was deleted; use --yes to delete without confirmation")
        raise


def _selected(maintenance: "Maintenance", selection: Selection, *, everything: bool) -> "list[StoredInstance]":
    """Return the matching instances. Raises click.UsageError unless exactly one of KEYWORD=VALUE and --all is given."""
    if everything == bool(selection):
        raise click.UsageError("expected either KEYWORD=VALUE, for example PatientID=P1, or --all")
    return maintenance.instances(selection)


def _show_studies(maintenance: "Maintenance", instances: "Sequence[StoredInstance]") -> int:
    """Print the studies of the instances with their number of instances; return the number of studies."""
    counts = Counter(each.study_instance_uid for each in instances)
    columns = ("PatientID", "PatientName", "StudyDate", "StudyDescription", "StudyInstanceUID")
    found = (each for uids in chunks(counts, BATCH) for each in maintenance.entities(QueryLevel.STUDY, _studies(uids)))
    rows = ((*(each[column] for column in columns), counts[each["StudyInstanceUID"]]) for each in found)
    show((*columns, "Instances"), rows)
    return len(counts)


def _studies(uids: Sequence[str]) -> Selection:
    """Select studies by their UIDs."""
    return {"StudyInstanceUID": "\\".join(uids)}
