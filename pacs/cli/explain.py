"""`pacs explain`: how a query or retrieve is understood, without a server."""

import sys
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING

import click

from pacs.cli.archive import opened
from pacs.cli.keys import Question, questioning
from pacs.cli.options import configured
from pacs.cli.output import json_option, show, show_json
from pacs.dicom.levels import DimseOperation, model_of
from pacs.dicom.matching_mode import MATCHING_MODES, MatchingMode, Negotiated
from pacs.errors import PacsError

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.config import Config
    from pacs.services.explaining import ExplainRequest, Explanation, RequestOutcome

COLUMNS = ("key", "asked", "understood", "why")
"""What the table says of each key: how it was understood, and where that is looked for or why it is not."""

NEGOTIABLE = {
    "relational": "relational",
    "datetime": "combined_date_time",
    "fuzzy": "fuzzy_names",
    "empty": "empty_values",
    "multiple": "multiple_values",
}
"""What Extended Negotiation may agree on (PS3.4 C.5), by the word for it here."""


def _negotiated(_ctx: click.Context, _parameter: click.Parameter, text: str) -> Negotiated:
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in NEGOTIABLE:
            raise click.BadParameter(f"{word!r} is none of {', '.join(NEGOTIABLE)}")
    return Negotiated(**{NEGOTIABLE[word]: True for word in words})


@click.command(short_help="Say how a query is understood.")
@questioning()
@click.option(
    "--manner", type=click.Choice(list(MATCHING_MODES)), help="How it is understood; without it as the server does."
)
@click.option("manner", "--strict", flag_value="strict", help="The same as --manner strict.")
@click.option("--peer", default="", help="The AE title that asks, which may have a manner of its own.")
@click.option("--negotiated", default="", callback=_negotiated, metavar="WORD,...",
              help=f"What Extended Negotiation agreed on: {', '.join(NEGOTIABLE)}.")  # fmt: skip
@click.option("--retrieve", is_flag=True, help="Explain a C-MOVE or C-GET instead of a C-FIND.")
@click.option("--run", is_flag=True, help="Say how many match, too, and if none does without which key some would.")
@json_option
@configured
def explain(
    config: "Config",
    *,
    question: Question,
    manner: str | None,
    peer: str,
    negotiated: Negotiated,
    retrieve: bool,
    run: bool,
    as_json: bool,
) -> None:
    """Say how a query is understood: what is matched how and where, what is ignored and why, by which SQL.

    It is asked of the index of the configuration; no server has to run.
    """
    from pacs.services.explaining import ExplainRequest

    model = model_of(question.root, DimseOperation.MOVE if retrieve else DimseOperation.FIND)
    with opened(config) as archive:
        asked = ExplainRequest(question.identifier, model, _manner(archive, manner, peer), negotiated)
        explanation = archive.explainer.explain(asked)
        if run:
            explanation = replace(explanation, outcome=_outcome(archive, asked))
    _show(explanation, as_json=as_json)


def _manner(archive: "Archive", name: str | None, peer: str) -> MatchingMode:
    return MATCHING_MODES[name] if name else archive.access.principal(peer).matching_mode


def _outcome(archive: "Archive", asked: "ExplainRequest") -> "RequestOutcome":
    """What comes of it when it is run."""
    from pacs.dimse.scp.explain_hook import statuses
    from pacs.services.explaining import RequestOutcome

    try:
        counts, without = _counts(archive, asked)
    except PacsError as error:
        (status,) = statuses(asked.model.operation, error, False)
        return RequestOutcome(f"{status:04X}", error.comment, {})
    return RequestOutcome("0000", "", counts, without)


def _counts(archive: "Archive", asked: "ExplainRequest") -> tuple[dict[str, int], dict[str, int]]:
    """How many match, and where none does how many would without one of the keys."""
    from pacs.dicom.identifier import parse_query, parse_retrieve
    from pacs.dimse.scp.retrieve_task import MAX_SUBOPERATIONS
    from pacs.services.explaining import without_each
    from pacs.support.cancellation import Cancellation

    how = asked.dataset, asked.model.root, asked.manner, asked.negotiated
    if asked.model.operation is not DimseOperation.FIND:
        retrieval = archive.retrieves.select(parse_retrieve(*how), Cancellation(), MAX_SUBOPERATIONS)
        return {"instances": retrieval.total}, {}
    query = parse_query(*how)
    matches = sum(1 for _ in archive.queries.matches(query, Cancellation()))
    is_puzzling = not matches and not query.nothing_matches
    return {"matches": matches}, without_each(archive.queries, query) if is_puzzling else {}


def _show(explanation: "Explanation", *, as_json: bool) -> None:
    """JSON, a table of the keys where it is read on a terminal, or a line for each."""
    if as_json:
        show_json(explanation.described())
        return
    if sys.stdout.isatty():
        first, *_ = explanation.lines()
        click.echo(first)
        show(COLUMNS, map(attrgetter(*COLUMNS), explanation.keys))
    for line in explanation.rest() if sys.stdout.isatty() else explanation.lines():
        click.echo(line)
