"""`pacs explain`: shows how the archive interprets a query or retrieve."""

import sys
from collections import Counter
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING

import click

from pacs.cli.archive import open_archive
from pacs.cli.matching_keys import QueryArguments, Selects, query_options, words_argument
from pacs.cli.options import with_config
from pacs.cli.output import json_option, show, show_json
from pacs.cli.verbosity import Verbosity, verbosity
from pacs.dicom.levels import DimseOperation, model_of
from pacs.dicom.matching_mode import MATCHING_MODES, MatchingMode, Negotiated
from pacs.errors import PacsError

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.config import Config
    from pacs.services.explaining import ExplainRequest, Explanation, RequestOutcome

COLUMNS = ("key", "asked", "understood", "why")
"""Columns of the table of keys."""

NEGOTIABLE = {
    "relational": "relational",
    "datetime": "combined_date_time",
    "fuzzy": "fuzzy_names",
    "empty": "empty_values",
    "multiple": "multiple_values",
}
"""Options of Extended Negotiation (PS3.4 C.5), by their name on the command line."""


def _negotiated(_ctx: click.Context, _parameter: click.Parameter, text: str) -> Negotiated:
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in NEGOTIABLE:
            raise click.BadParameter(
                f"{word!r} is not an option of Extended Negotiation; expected one of {', '.join(NEGOTIABLE)}"
            )
    return Negotiated(**{NEGOTIABLE[word]: True for word in words})


@click.command(short_help="Show how a query is interpreted.")
@words_argument
@query_options(Selects.NOTHING)
@click.option(
    "--manner", type=click.Choice(list(MATCHING_MODES)), help="Matching mode; default: that of the peer or server."
)
@click.option("manner", "--strict", flag_value="strict", help="Same as --manner strict.")
@click.option("--peer", default="", help="AE title of the requestor; its [[peers]] entry may set the matching mode.")
@click.option("--negotiated", default="", callback=_negotiated, metavar="WORD,...",
              help=f"Accepted options of Extended Negotiation: {', '.join(NEGOTIABLE)}.")  # fmt: skip
@click.option("--retrieve", is_flag=True, help="Explain a C-MOVE or C-GET instead of a C-FIND.")
@click.option(
    "--destination",
    default="",
    help="With --retrieve and --run: AE title of the move destination, whose [[peers]] entry may have send_as; "
    "default: the requestor.",
)
@click.option(
    "--run",
    is_flag=True,
    help="Also run the query: print the number of matches, and if there are none, the key that excludes them; "
    "of a retrieve the transfer syntaxes of the instances, and what they are converted into.",
)
@json_option
@with_config
def explain(
    config: "Config",
    *,
    query: QueryArguments,
    manner: str | None,
    peer: str,
    negotiated: Negotiated,
    retrieve: bool,
    destination: str,
    run: bool,
    as_json: bool,
) -> None:
    """Show how a query is interpreted: how each key is matched, and which keys are ignored and why.

    With -v, also the SQL. Uses the index of the configuration; a running server is not needed.
    """
    from pacs.services.explaining import ExplainRequest

    if destination and not (retrieve and run):
        raise click.UsageError("--destination needs --retrieve and --run")
    model = model_of(query.root, DimseOperation.MOVE if retrieve else DimseOperation.FIND)
    with open_archive(config) as archive:
        asked = ExplainRequest(query.identifier, model, _manner(archive, manner, peer), negotiated)
        explanation = archive.explainer.explain(asked)
        if run:
            explanation = replace(explanation, outcome=_outcome(archive, asked, destination, peer))
    _show(explanation, as_json=as_json)


def _manner(archive: "Archive", name: str | None, peer: str) -> MatchingMode:
    return MATCHING_MODES[name] if name else archive.access.principal(peer).matching_mode


def _outcome(archive: "Archive", asked: "ExplainRequest", destination: str, peer: str) -> "RequestOutcome":
    """Run the query, or select the instances of a retrieve for its destination or requestor, and return the outcome."""
    from pacs.dimse.scp.explain_hook import statuses
    from pacs.services.explaining import RequestOutcome

    is_query = asked.model.operation is DimseOperation.FIND
    try:
        if is_query:
            return _queried(archive, asked)
        if destination:
            archive.peers.destination(destination)
        return _selected(archive, asked, destination or peer)
    except PacsError as error:
        (status,) = statuses(asked.model.operation, error, False)
        return RequestOutcome(f"{status:04X}", error.comment, {})


def _queried(archive: "Archive", asked: "ExplainRequest") -> "RequestOutcome":
    """Count the matches; if there are none, also the matches without each of the keys."""
    from pacs.dicom.identifier import parse_query
    from pacs.services.explaining import RequestOutcome, without_each
    from pacs.support.cancellation import Cancellation

    query = parse_query(asked.dataset, asked.model.root, asked.manner, asked.negotiated)
    matches = sum(1 for _ in archive.queries.matches(query, Cancellation()))
    is_puzzling = not matches and not query.nothing_matches
    without, differs = without_each(archive.queries, query) if is_puzzling else ({}, {})
    return RequestOutcome("0000", "", {"matches": matches}, without, differs)


def _selected(archive: "Archive", asked: "ExplainRequest", receiver: str) -> "RequestOutcome":
    """Count the instances, and say into which transfer syntaxes they are converted."""
    from pacs.dicom.identifier import parse_retrieve
    from pacs.dimse.scp.explain_hook import stored_as
    from pacs.dimse.scp.retrieve_task import MAX_SUBOPERATIONS
    from pacs.services.explaining import RequestOutcome
    from pacs.support.cancellation import Cancellation

    selection = parse_retrieve(asked.dataset, asked.model.root, asked.manner, asked.negotiated)
    retrieval = archive.retrieves.select(selection, Cancellation(), MAX_SUBOPERATIONS)
    instances = Counter(each.transfer_syntax for each in retrieval.instances)
    ways = stored_as(instances, archive.peers.send_as_of(receiver))
    return RequestOutcome("0000", "", {"instances": retrieval.total}, stored_as=ways)


def _show(explanation: "Explanation", *, as_json: bool) -> None:
    """Print JSON, or text with a table of the keys on a terminal and one line per key elsewhere."""
    if as_json:
        show_json(explanation.described())
        return
    if sys.stdout.isatty():
        first, *_ = explanation.lines()
        click.echo(first)
        show(COLUMNS, map(attrgetter(*COLUMNS), explanation.keys))
    with_sql = verbosity() >= Verbosity.VERBOSE
    for line in explanation.rest(with_sql=with_sql) if sys.stdout.isatty() else explanation.lines(with_sql=with_sql):
        click.echo(line)
