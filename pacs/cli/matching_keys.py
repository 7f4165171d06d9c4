"""`-k` and the other options that make the Identifier of a query, named as in DCMTK and dcm4che.

A key is a keyword of PS3.6 or a tag, `PatientName` or `0010,0010`; a key in a sequence follows that of the sequence and
a dot. With `=VALUE` it is a matching key, without a return key. A backslash separates several values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from pacs.cli.completion import complete_key
from pacs.cli.options import Command
from pacs.dicom.levels import QueryLevel, Root
from pacs.errors import InvalidArgument
from pacs.support.suggestion import suggestion

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.dataelem import DataElement

LEVELS = (*(each.name for each in QueryLevel), "INSTANCE")
"""The levels on the command line; INSTANCE is dcm4che's name for IMAGE."""

_BELOW_PATIENT = frozenset(each.unique_key for each in QueryLevel if each is not QueryLevel.PATIENT)

NOT_KEYS = ("QueryRetrieveLevel", "SpecificCharacterSet")
"""Elements of an Identifier that are not keys."""


@dataclass(frozen=True, slots=True)
class QueryArguments:
    """The Identifier of a query or retrieve, its level and its information model."""

    identifier: "Dataset"
    root: Root
    level: QueryLevel
    keys: tuple[str, ...]
    """The top-level keys in the order of the command line, by keyword or gggg,eeee."""


_OPTIONS = (
    click.option("keys", "-k", "-m", "-r", multiple=True, metavar="KEY[=VALUE]", shell_complete=complete_key,
                 help="Matching key; without =VALUE, a return key. KEY is a keyword, gggg,eeee or SEQUENCE.KEY."),
    click.option("root", "-P", flag_value=Root.PATIENT.name, help="Use the Patient Root information model."),
    click.option("root", "-S", flag_value=Root.STUDY.name, help="Use Study Root; the default except at PATIENT level."),
    click.option("root", "-O", flag_value=Root.PATIENT_STUDY_ONLY.name, help="Use Patient/Study Only (retired)."),
    click.option("level", "--level", "-L", type=click.Choice(LEVELS, case_sensitive=False),
                 help="Query/Retrieve Level; default: the lowest level of the given keys."),
)  # fmt: skip


def query_options(*, is_retrieve: bool = False) -> Callable[[Command], Command]:
    """Add `-k`, `--level` and the information models to a command, and pass it `query`, a QueryArguments."""

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(*args: Any, keys: Sequence[str], root: str | None, level: str | None, **arguments: Any) -> None:
            query = query_arguments(keys, root, level, is_retrieve=is_retrieve)
            command(*args, query=query, **arguments)

        wrapped: Command = run
        for option in reversed(_OPTIONS):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def query_arguments(
    words: Sequence[str], root: str | None = None, level: str | None = None, *, is_retrieve: bool = False
) -> QueryArguments:
    """Return the query of KEY[=VALUE] words; its default level is that of the lowest key, or unique key in a retrieve.

    Raises click.BadParameter for an unknown key or an impossible level.
    """
    from pacs.client.identifiers import data_set_of, level_of, with_level

    wanted = _wanted(words)
    try:
        identifier = data_set_of({key: value for key, value in wanted.items() if key != NOT_KEYS[0]})
        stated = level or wanted.get("QueryRetrieveLevel") or None
        asked = level_of("IMAGE" if stated == "INSTANCE" else stated)
        if is_retrieve and root is None and asked is None and not _BELOW_PATIENT.intersection(wanted):
            asked = QueryLevel.PATIENT  # a retrieve of a patient, which only Patient Root has
        model = Root[root] if root else Root.PATIENT if asked is QueryLevel.PATIENT else Root.STUDY
        outer = dict.fromkeys(
            key.partition(".")[0] for key in wanted if key not in NOT_KEYS or _is_returned(key, wanted)
        )
        keys = tuple(name_of(element) for key in outer for element in data_set_of({key: None}))
        return QueryArguments(identifier, model, with_level(identifier, asked, model, unique_only=is_retrieve), keys)
    except InvalidArgument as error:
        raise click.BadParameter(f"{error.comment}{_hint(wanted)}") from error


def _is_returned(key: str, wanted: dict[str, str]) -> bool:
    """Whether a key is the character set as a return key."""
    return key == "SpecificCharacterSet" and not wanted[key]


def _wanted(words: Sequence[str]) -> dict[str, str]:
    """Return the value of each key, '' for a return key.

    Drops the item numbers `[0]` of DCMTK, and a sequence without value if one of its keys is given.
    """
    pairs = [word.partition("=") for word in words]
    wanted = {key.strip().replace("[0]", ""): value for key, _, value in pairs}
    return {
        key: value for key, value in wanted.items() if value or not any(other.startswith(f"{key}.") for other in wanted)
    }


def name_of(element: "DataElement") -> str:
    """Return the keyword of an element, or its tag as gggg,eeee if it has none."""
    return element.keyword or f"{element.tag.group:04x},{element.tag.element:04x}"


def _hint(wanted: Sequence[str] | dict[str, str]) -> str:
    """Return a suggestion for the first unknown keyword, '' if there is none."""
    from pydicom.datadict import keyword_dict, tag_for_keyword

    parts = (part for path in wanted for part in path.split(".") if "," not in part)
    return next((suggestion(part, keyword_dict) for part in parts if tag_for_keyword(part) is None), "")
