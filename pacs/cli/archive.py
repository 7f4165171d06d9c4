"""`pacs export` and `delete`: commands on the contents of the archive, without a network."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pacs.cli.exit_status import FAILED, PARTLY
from pacs.cli.matching_keys import QueryArguments, Selects, query_options, words_argument
from pacs.cli.options import as_option, with_config
from pacs.cli.output import confirm, plural, print_error, show, size
from pacs.cli.progress import progress_bar
from pacs.cli.reasons import print_reasons
from pacs.cli.verbosity import Verbosity, say, verbosity
from pacs.dicom.levels import QueryLevel
from pacs.support.chunks import chunks

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.config import Config
    from pacs.index.writer import StoredInstance
    from pacs.observability.events import Event
    from pacs.services.maintenance import Maintenance

EXAMPLES = 3
"""Number of files or instances shown for each reason."""

BATCH = 500
"""Number of studies selected by one query."""

all_option = click.option("everything", "--all", is_flag=True, help="Select all instances of the archive.")


@contextmanager
def open_archive(config: "Config", *, creates: bool = False, audits: bool = True) -> Iterator["Archive"]:
    """Open the archive of a configuration; print its notices to standard error.

    With `creates`, it is created if it does not exist. An older schema is never upgraded here. Raises
    ConfigurationError, SchemaMismatch.
    """
    from pacs.archive import Archive, require_existing
    from pacs.observability.events import Notice
    from pacs.observability.logging import log_event

    def print_notice(event: "Event") -> None:
        if isinstance(event, Notice):
            say(f"pacs: {event.sentence}", err=True)

    if not creates:
        require_existing(config)
    with Archive(config) as archive:
        archive.events.subscribe(log_event if verbosity() > Verbosity.NORMAL else print_notice)
        if creates:
            archive.open()
        else:
            archive.open_existing(audits=audits)
        yield archive


# --- export and delete -------------------------------------------------------------------------------------------


@click.command(short_help="Copy matching instances into a folder.")
@click.argument("dest", type=click.Path(file_okay=False, path_type=Path))
@words_argument
@query_options(Selects.HERE, QueryLevel.IMAGE)
@all_option
@as_option
@with_config
def export(config: "Config", dest: Path, query: QueryArguments, *, everything: bool, send_as: tuple[str, ...]) -> None:
    """Copy matching instances into folders DEST/patient/study/series; with --as, convert them.

    Instances that cannot be read or converted are listed with the reason. The exit status is 1 when nothing was
    exported, 3 when some instances failed.
    """
    from pacs.pixels.target_names import targets_of

    targets = targets_of(send_as)
    with open_archive(config) as archive:
        instances = _selected(archive.maintenance, query, everything=everything)
        with progress_bar("exporting", len(instances)) as advance:
            exported = archive.exporter.export(instances, dest, advance, targets)
    failed = f", {len(exported.failed)} failed" if exported.failed else ""
    say(f"{plural(exported.instances, 'instance')}, {size(exported.size)} written to {dest}{failed}")
    print_reasons("failed", ((each.comment, each.sop_instance_uid) for each in exported.failed), EXAMPLES)
    if not instances:
        print_error("no matches")
    if exported.failed or not instances:
        raise click.exceptions.Exit(PARTLY if exported.instances else FAILED)


@click.command(short_help="Delete matching instances.")
@words_argument
@query_options(Selects.HERE, QueryLevel.IMAGE)
@all_option
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@with_config
def delete(config: "Config", query: QueryArguments, *, everything: bool, yes: bool) -> None:
    """Delete matching instances from index and file store, after confirmation. This cannot be undone."""
    with open_archive(config) as archive:
        instances = _selected(archive.maintenance, query, everything=everything)
        if not instances:
            say("no matches")
            return
        studies = _show_studies(archive.maintenance, instances)
        if not yes:
            question = f"Permanently delete {plural(len(instances), 'instance')} of {plural(studies, 'study')}?"
            confirm(question, otherwise="nothing was deleted")
        with progress_bar("deleting", len(instances)) as advance:
            deleted = archive.maintenance.delete(instances, advance)
    say(f"{plural(deleted, 'instance')} deleted")


def _selected(maintenance: "Maintenance", query: QueryArguments, *, everything: bool) -> "list[StoredInstance]":
    """Return the matching instances. Raises click.UsageError unless exactly one of KEY=VALUE and --all is given."""
    if everything == bool(query.keys):
        raise click.UsageError("expected either KEY=VALUE, for example PatientID=P1, or --all")
    if query.returned:
        name = query.returned[0]
        raise click.UsageError(f"{name} has no value: it would select everything; expected {name}=VALUE")
    return maintenance.instances({} if everything else query.identifier)


def _show_studies(maintenance: "Maintenance", instances: "Sequence[StoredInstance]") -> int:
    """Print the studies of the instances with their number of instances; return the number of studies."""
    from pacs.cli.values import tag_of, text_value

    counts = Counter(each.study_instance_uid for each in instances)
    columns = ("PatientID", "PatientName", "StudyDate", "StudyDescription", "StudyInstanceUID")
    found = (
        each
        for uids in chunks(counts, BATCH)
        for each in maintenance.entities(QueryLevel.STUDY, dict.fromkeys(columns) | {"StudyInstanceUID": uids})
    )
    rows = ([text_value(each, tag_of(column)) for column in columns] for each in found)
    show((*columns, "Instances"), ((*row, counts[row[-1]]) for row in rows))
    return len(counts)
