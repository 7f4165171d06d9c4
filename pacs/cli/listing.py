"""`pacs ls`, and the output of matches, also those of `pacs find`."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from pacs.cli.archive import open_archive
from pacs.cli.matching_keys import QueryArguments, Selects, check_levels, merged, query_options, words_argument
from pacs.cli.options import with_config
from pacs.cli.output import is_table, json_option, show
from pacs.cli.verbosity import say
from pacs.dicom.levels import QueryLevel

if TYPE_CHECKING:
    from pydicom import Dataset

    from pacs.config import Config
    from pacs.services.maintenance import Maintenance

PATIENT, STUDY, SERIES, IMAGE = QueryLevel

TABLE_COLUMNS: dict[QueryLevel, tuple[str, ...]] = {
    PATIENT: (
        "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "NumberOfPatientRelatedStudies",
        "NumberOfPatientRelatedInstances",
    ),
    STUDY: (
        "PatientID", "PatientName", "StudyDate", "AccessionNumber", "ModalitiesInStudy", "StudyDescription",
        "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
    ),
    SERIES: (
        "PatientID", "PatientName", "StudyDate", "Modality", "SeriesNumber", "SeriesDescription",
        "NumberOfSeriesRelatedInstances",
    ),
    IMAGE: (
        "PatientID", "PatientName", "StudyDate", "Modality", "SeriesNumber", "InstanceNumber", "NumberOfFrames",
        "Rows", "Columns",
    ),
}  # fmt: skip
"""The columns of a table on a terminal: no UIDs, which are 64 characters long."""

NEWEST_FIRST: dict[QueryLevel, tuple[str, ...]] = {
    PATIENT: ("PatientID", "IssuerOfPatientID"),
    STUDY: ("-StudyDate", "-StudyTime"),
    SERIES: ("-StudyDate", "-StudyTime", "StudyInstanceUID", "SeriesNumber"),
    IMAGE: ("-StudyDate", "-StudyTime", "StudyInstanceUID", "SeriesNumber", "SeriesInstanceUID", "InstanceNumber"),
}
"""The order without `--sort`; patients are then sorted by their newest studies."""

_SortKey = tuple[bool, Any]
_Sorted = tuple[list[_SortKey], list[Any]]
"""The sort keys of a match and its row."""


def _names(_ctx: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, ...]:
    """Split KEY,KEY; a tag gggg,eeee has a comma too."""
    return tuple(name.strip() for name in re.findall(r"-?[0-9a-fA-F]{4},[0-9a-fA-F]{4}|[^,]+", text))


@click.command(short_help="List patients, studies, series or images.")
@words_argument
@query_options(Selects.HERE)
@click.option("--columns", default="", callback=_names, metavar="KEY,...", help="Columns, instead of the usual ones.")
@click.option("--sort", default="", callback=_names, metavar="KEY,...",
              help="Sort by these keys; -KEY is the reverse order. Default: the newest study first.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="List only the first N.")
@json_option
@with_config
def ls(
    config: "Config",
    query: QueryArguments,
    *,
    columns: tuple[str, ...],
    sort: tuple[str, ...],
    limit: int | None,
    as_json: bool,
) -> None:
    """List matching patients, studies, series or images, those of the newest study first.

    Keys match as in `pacs find`, the level is that of the lowest key or STUDY: pacs ls series PatientID=P1 -k Modality.
    The output is a table on a terminal, else CSV, or with --json JSON. UIDs are in a table only where they are asked
    for, by -k KEY or --columns. A table longer than the terminal is shown in $PAGER. In CSV, unprintable characters are
    escaped, and an apostrophe is put before what a spreadsheet would take for a formula; JSON has the exact values.
    """
    shown = columns or _columns(query, as_json=as_json)
    order = sort or NEWEST_FIRST[query.level]
    wanted = query.returning([*shown, *(name.removeprefix("-") for name in order)])
    check_levels(wanted, Selects.HERE)
    names = _by_keyword(shown)
    with open_archive(config, audits=False) as archive:
        matches = archive.maintenance.entities(query.level, wanted.identifier)
        rows = _sorted(matches, order, _row_maker(names, as_json=as_json))
        if query.level is PATIENT and not sort:
            rows = _by_newest_study(rows, archive.maintenance, wanted.identifier)
    _show(query, names, (row for _, row in rows[:limit]), as_json=as_json, total=len(rows))


def _by_keyword(names: Sequence[str]) -> list[str]:
    """Return the names of elements, those by tag by keyword."""
    from pacs.cli.values import name_of_tag, tag_of

    return [name_of_tag(tag_of(name)) for name in names]


def _columns(query: QueryArguments, *, as_json: bool) -> tuple[str, ...]:
    """Return the usual columns and the keys, or the keys alone if there is a return key."""
    if query.returned or not is_table(as_json=as_json):
        return query.columns()
    return _without_uids(query, (*TABLE_COLUMNS[query.level], *query.keys))


def _without_uids(query: QueryArguments, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns, each once, without UIDs that are no return keys."""
    return tuple(dict.fromkeys(each for each in columns if each in query.returned or not each.endswith("UID")))


def _row_maker(columns: Sequence[str], *, as_json: bool) -> "Callable[[Dataset], list[Any]]":
    """Return a function that makes the row of a match."""
    from pacs.cli.values import json_value, tag_of, text_value

    value, tags = json_value if as_json else text_value, [tag_of(column) for column in columns]
    return lambda match: [value(match, tag) for tag in tags]


# --- order -------------------------------------------------------------------------------------------------------


def _sorted(
    matches: "Iterable[Dataset]", order: Sequence[str], make_row: "Callable[[Dataset], list[Any]]"
) -> list[_Sorted]:
    """Return the rows of matches, sorted by keys, of which the first counts most."""
    from pacs.cli.values import tag_of

    keys = [(tag_of(name.removeprefix("-")), name.startswith("-")) for name in order]
    rows = [([_sort_key(match, *key) for key in keys], make_row(match)) for match in matches]
    for place, (_, is_reverse) in reversed(list(enumerate(keys))):
        rows.sort(key=lambda row: row[0][place], reverse=is_reverse)
    return rows


def _sort_key(match: "Dataset", tag: int, is_reverse: bool) -> _SortKey:
    """Return the place of a match in the order of one key: without a value, or with an invalid one, it is last."""
    from pacs.cli.values import text_value
    from pacs.dicom.dataset import vr
    from pacs.dicom.values import comparable

    text = text_value(match, tag).partition("\\")[0]
    value = comparable(vr(match.get_item(tag)), text) if text else None
    return (not is_reverse, "") if value is None else (is_reverse, value)


def _by_newest_study(rows: list[_Sorted], maintenance: "Maintenance", wanted: "Dataset") -> list[_Sorted]:
    """Sort patients, whose sort keys are ID and issuer, by their newest studies."""
    from pacs.cli.values import tag_of
    from pacs.dicom.identifier_builder import data_set_of

    dates = data_set_of(dict.fromkeys(("StudyDate", "StudyTime")))
    newest: dict[tuple[_SortKey, ...], str] = {}
    of_patient = [tag_of(name) for name in NEWEST_FIRST[PATIENT]]
    for study in maintenance.entities(STUDY, merged(wanted, dates)):
        patient = tuple(_sort_key(study, tag, False) for tag in of_patient)
        moment = "".join(_row_maker(("StudyDate", "StudyTime"), as_json=False)(study))
        newest[patient] = max(moment, newest.get(patient, ""))
    return sorted(rows, key=lambda row: newest.get(tuple(row[0]), ""), reverse=True)


# --- matches of a query ------------------------------------------------------------------------------------------


def show_matches(query: QueryArguments, matches: "Iterable[Dataset]", *, as_json: bool) -> None:
    """Print the matches of a C-FIND, in a table without UIDs that are no return keys."""
    columns = query.columns()
    if is_table(as_json=as_json):
        columns = _without_uids(query, columns)
    _show(query, columns, map(_row_maker(columns, as_json=as_json), matches), as_json=as_json)


def _show(
    query: QueryArguments,
    columns: Sequence[str],
    rows: Iterable[list[Any]],
    *,
    as_json: bool,
    total: int | None = None,
) -> None:
    if not show(columns, rows, as_json=as_json, counted=query.level.name.lower(), total=total):
        say("no matches", err=True)
