"""`pacs import`, and its report."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from pacs.cli.archive import EXAMPLES, open_archive
from pacs.cli.exit_status import FAILED, PARTLY
from pacs.cli.options import with_config
from pacs.cli.output import csv_row, print_error, safe
from pacs.cli.progress import progress_bar
from pacs.cli.reasons import print_reasons
from pacs.cli.verbosity import Verbosity, say, verbosity
from pacs.errors import NotAnInstance, NotDICOM, OutOfResources, PacsError
from pacs.files.io_errors import Writing
from pacs.support import private
from pacs.support.folders import files_under

if TYPE_CHECKING:
    from pacs.config import Config
    from pacs.services.storage import Storage

STORED, KNOWN, REFUSED, LEFT_OUT = "stored", "already stored", "refused", "left out"


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """What became of a file: a line of the report. `status` is the one that a C-STORE of it would get."""

    path: str
    outcome: str
    reason: str = ""
    status: str = ""
    sop_instance_uid: str = ""


Add = Callable[[ImportedFile], None]

COLUMNS = tuple(each.name for each in fields(ImportedFile))


def _report_path(_ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() not in (".csv", ".json"):
        raise click.BadParameter(f"{str(path)!r} ends in neither .csv nor .json")
    return path


@click.command("import", short_help="Store files and folders in the archive.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="PATH...")
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path), callback=_report_path, metavar="FILE.csv|FILE.json",
    help="Write what became of each file: path, outcome, reason, status, SOP Instance UID. "
    "CSV is escaped as by `pacs ls`.",
)  # fmt: skip
@with_config
def import_(config: "Config", paths: Sequence[Path], report: Path | None) -> None:
    """Store files and folders in the archive, with the same checks as a C-STORE.

    Preamble and File Meta Information may be missing, or name a wrong native transfer syntax. Refused files are listed
    with the reason. Files that are not DICOM, and DICOMDIRs, are left out. The exit status is 1 when nothing was stored
    and nothing is stored already, 3 when some files were refused.
    """
    files, done = list(_files(paths)), list[ImportedFile]()
    with (
        open_archive(config, creates=True) as archive,
        _written(report) as add,
        progress_bar("importing", len(files)) as advance,
    ):
        for file in files:
            done.append(imported := _imported(archive.storage, file))
            add(imported)
            advance(1)
    _print_summary(done, paths, report)


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the given files and the files below the given folders, sorted; links to folders are not followed."""
    for path in paths:
        if not path.is_dir():
            if not path.is_file():
                raise click.UsageError(f"{str(path)!r} is neither a file nor a folder")
            yield path
            continue
        yield from files_under(path)


def _imported(storage: "Storage", file: Path) -> ImportedFile:
    """Store a file and return what became of it. Raises OutOfResources: the following files would fail, too."""
    from pacs.dimse.messages import status

    try:
        stored = storage.import_file(file)
    except OutOfResources:
        raise
    except (NotDICOM, NotAnInstance) as error:
        return ImportedFile(str(file), LEFT_OUT, error.comment)
    except PacsError as error:
        code = f"0x{status.refusal(status.Service.STORE, error).status:04X}"
        return ImportedFile(str(file), REFUSED, error.comment, code, error.sop_instance_uid)
    code = f"0x{status.COERCION if stored.warnings else status.SUCCESS:04X}"
    outcome = KNOWN if stored.duplicate else STORED
    return ImportedFile(str(file), outcome, "; ".join(stored.warnings), code, stored.sop_instance_uid)


def _print_summary(done: Sequence[ImportedFile], paths: Iterable[Path], report: Path | None) -> None:
    """Print counts and reasons; end the command with its exit status."""
    elsewhere = f"{report} has all" if report else "--report FILE.csv lists all"
    counts = Counter(each.outcome for each in done)
    left_out = f", {counts[LEFT_OUT]} left out" if counts[LEFT_OUT] else ""
    say(f"{counts[STORED]} stored, {counts[KNOWN]} already stored, {counts[REFUSED]} refused{left_out}")
    for outcome in (REFUSED, LEFT_OUT):
        found = ((each.reason, _named(each)) for each in done if each.outcome == outcome)
        print_reasons(outcome, found, EXAMPLES, elsewhere=elsewhere)
    is_any = bool(counts[STORED] or counts[KNOWN])
    if not is_any and not counts[REFUSED]:
        print_error(f"no DICOM file found in {', '.join(map(str, paths))}")
    if counts[REFUSED] or not is_any:
        raise click.exceptions.Exit(PARTLY if is_any else FAILED)


def _named(imported: ImportedFile) -> str:
    """Return the path of a file, and its SOP Instance UID if it is known."""
    uid = imported.sop_instance_uid
    return f"{imported.path} (SOP Instance UID {uid})" if uid else imported.path


# --- the report --------------------------------------------------------------------------------------------------


@contextmanager
def _written(report: Path | None) -> Iterator[Add]:
    """Yield a function that writes a line of the report, and prints it with -v. Raises StorageUnavailable."""
    step = _print_step if verbosity() > Verbosity.NORMAL else _print_nothing
    if report is None:
        yield step
        return
    writing = Writing(f"The report {str(report)!r} cannot be written")
    with writing:
        out = open(report, "w", 1, "utf-8", "backslashreplace", newline="", opener=private.opener)  # noqa: SIM115
        lines = _Json(out) if report.suffix.lower() == ".json" else _Csv(out)

    def add(imported: ImportedFile) -> None:
        with writing:
            lines.add(imported)
        step(imported)

    try:
        yield add
    finally:
        with writing:
            lines.close()


def _print_step(imported: ImportedFile) -> None:
    reason = f": {imported.reason}" if imported.reason else ""
    click.echo(safe(f"{imported.outcome} {_named(imported)}{reason}"), err=True)


def _print_nothing(_imported: ImportedFile) -> None:
    """Print no line for a file."""


class _Csv:
    """A report with a line for each file, below the names of the columns."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._writer = out, csv.writer(out, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def add(self, imported: ImportedFile) -> None:
        """Write a line."""
        self._writer.writerow(csv_row(astuple(imported)))

    def close(self) -> None:
        """Close the file."""
        self._out.close()


class _Json:
    """A report that is an array of objects, also after an import that ended with an error."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._before = out, "[\n"

    def add(self, imported: ImportedFile) -> None:
        """Write an object."""
        self._out.write(self._before + json.dumps(asdict(imported)))
        self._before = ",\n"

    def close(self) -> None:
        """End the array and close the file."""
        with self._out:
            self._out.write("[]\n" if self._before == "[\n" else "\n]\n")
