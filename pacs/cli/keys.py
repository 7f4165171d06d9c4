"""`-k`: what is asked for, in the words that DCMTK and dcm4che have for it.

A key is a keyword of PS3.6 or a tag, `PatientName` or `0010,0010`; in a sequence it stands behind that one's and a dot.
With `=` and a value it has to match, without it is asked to be returned. Several values have a backslash between them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from pacs.cli.options import Command
from pacs.dicom.levels import QueryLevel, Root
from pacs.errors import InvalidArgument
from pacs.support.suggestion import suggestion

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.dataelem import DataElement

LEVELS = (*(each.name for each in QueryLevel), "INSTANCE")
"""The levels as they can be said: dcm4che calls IMAGE also INSTANCE."""

_BELOW_PATIENT = frozenset(each.unique_key for each in QueryLevel if each is not QueryLevel.PATIENT)

NOT_ASKED = ("QueryRetrieveLevel", "SpecificCharacterSet")
"""What stands in an Identifier and is no key."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: the Identifier, with its level, and the information model it belongs to."""

    identifier: "Dataset"
    root: Root
    level: QueryLevel
    keys: tuple[str, ...]
    """What was asked for outside of sequences, by keyword or gggg,eeee, in the order in which it was."""


_OPTIONS = (
    click.option("keys", "-k", "-m", "-r", multiple=True, metavar="KEY[=VALUE]",
                 help="Match a key, or without =VALUE have it returned: a keyword or gggg,eeee, in sequences A.B."),
    click.option("root", "-P", flag_value=Root.PATIENT.name, help="Patient Root."),
    click.option("root", "-S", flag_value=Root.STUDY.name, help="Study Root, meant at every level but PATIENT."),
    click.option("root", "-O", flag_value=Root.PATIENT_STUDY_ONLY.name, help="Patient/Study Only (retired)."),
    click.option("level", "--level", "-L", type=click.Choice(LEVELS, case_sensitive=False),
                 help="The level; without it the lowest of which a key is asked for."),
)  # fmt: skip


def questioning(*, is_retrieve: bool = False) -> Callable[[Command], Command]:
    """Give a command `-k`, `--level` and the information models, and what they make as `question`."""

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(*args: Any, keys: Sequence[str], root: str | None, level: str | None, **arguments: Any) -> None:
            question = question_of(keys, root, level, is_retrieve=is_retrieve)
            command(*args, question=question, **arguments)

        wrapped: Command = run
        for option in reversed(_OPTIONS):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def question_of(
    words: Sequence[str], root: str | None = None, level: str | None = None, *, is_retrieve: bool = False
) -> Question:
    """What KEY[=VALUE] words ask for: at the level of the lowest key, in a retrieve of the lowest unique key.

    Raises click.BadParameter for what is no key, or a level that cannot be.
    """
    from pacs.client.identifiers import data_set_of, level_of, with_level

    wanted = _wanted(words)
    try:
        identifier = data_set_of({key: value for key, value in wanted.items() if key != NOT_ASKED[0]})
        stated = level or wanted.get("QueryRetrieveLevel") or None
        asked = level_of("IMAGE" if stated == "INSTANCE" else stated)
        if is_retrieve and root is None and asked is None and not _BELOW_PATIENT.intersection(wanted):
            asked = QueryLevel.PATIENT  # what is asked for is a patient, which only Patient Root has
        model = Root[root] if root else Root.PATIENT if asked is QueryLevel.PATIENT else Root.STUDY
        outer = dict.fromkeys(key.partition(".")[0] for key in wanted if key not in NOT_ASKED)
        keys = tuple(name_of(element) for key in outer for element in data_set_of({key: None}))
        return Question(identifier, model, with_level(identifier, asked, model, unique_only=is_retrieve), keys)
    except InvalidArgument as error:
        raise click.BadParameter(f"{error.comment}{_hint(wanted)}") from error


def _wanted(words: Sequence[str]) -> dict[str, str]:
    """The value of each key, '' for one that is only to be returned.

    DCMTK's way to write the item of a sequence, `[0]`, says nothing more; nor does a sequence of which a part is asked.
    """
    pairs = [word.partition("=") for word in words]
    wanted = {key.strip().replace("[0]", ""): value for key, _, value in pairs}
    return {
        key: value for key, value in wanted.items() if value or not any(other.startswith(f"{key}.") for other in wanted)
    }


def name_of(element: "DataElement") -> str:
    """The keyword of an element, or its tag as gggg,eeee where it has none."""
    return element.keyword or f"{element.tag.group:04x},{element.tag.element:04x}"


def _hint(wanted: Sequence[str] | dict[str, str]) -> str:
    """The keyword that was probably meant by one that is none, '' where all are."""
    from pydicom.datadict import keyword_dict, tag_for_keyword

    parts = (part for path in wanted for part in path.split(".") if "," not in part)
    return next((suggestion(part, keyword_dict) for part in parts if tag_for_keyword(part) is None), "")
