"""Keys and levels on the command line, the same in all commands that select: `find`, `ls`, `delete`, `get` and others.

A key is a keyword of PS3.6 or a tag, `PatientName` or `0010,0010`; a key in a sequence follows that of the sequence and
a dot. With `=VALUE` it is a matching key, without a return key. A backslash separates several values. Keys are given
with -k, or as words among which may also be a level: `studies PatientName=DOE*`. Options are named as in DCMTK and
dcm4che.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import wraps
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from pacs.cli.completion import complete_key
from pacs.cli.options import Command, with_options
from pacs.dicom.levels import LEVEL_SYNONYMS, PLURAL, USUAL_KEYS, QueryLevel, Root, level_named
from pacs.errors import InvalidArgument
from pacs.support.suggestion import suggestion

if TYPE_CHECKING:
    from pydicom import Dataset

_BELOW_PATIENT = frozenset(each.unique_key for each in QueryLevel if each is not QueryLevel.PATIENT)

NOT_KEYS = ("QueryRetrieveLevel", "SpecificCharacterSet")
"""Elements of an Identifier that are not keys."""

COMPUTED_OF = {
    (QueryLevel.STUDY, "Modality"): "ModalitiesInStudy",
    (QueryLevel.STUDY, "SOPClassUID"): "SOPClassesInStudy",
}
"""The key of a level that means a key below it."""

WORDS = "[LEVEL] [KEY=VALUE]..."


class Selects(Enum):
    """What a command does with its keys. Keys below the level, and dates as people type them, depend on it."""

    AT_A_PEER = auto()
    """Send them, which may ignore a key below the level: print a warning. Dates are sent as PS3.5 writes them."""
    AT_A_PEER_TO_RETRIEVE = auto()
    """The same, but the default level is that of the lowest unique key."""
    HERE = auto()
    """Select in the archive, which understands dates as typed: a key below the level is an error."""
    NOTHING = auto()
    """Explain what an archive does with them: they are taken literally."""


@dataclass(frozen=True, slots=True)
class QueryArguments:
    """The Identifier of a query or retrieve, its level and its information model."""

    identifier: "Dataset"
    root: Root
    level: QueryLevel
    keys: tuple[str, ...]
    """The top-level keys in the order of the command line, by keyword or gggg,eeee."""
    returned: tuple[str, ...]
    """Those among them without a value: the return keys."""

    def columns(self) -> tuple[str, ...]:
        """Return what to show: the keys and, where all of them are matching keys, the usual ones of the level."""
        return self.keys if self.returned else tuple(dict.fromkeys((*self.keys, *USUAL_KEYS[self.level])))

    def returning(self, names: Sequence[str]) -> "QueryArguments":
        """Return the query with more return keys. Raises click.BadParameter."""
        more = query_arguments(names, self.root.name, self.level)
        identifier = merged(self.identifier, more.identifier)
        return replace(self, identifier=identifier, keys=tuple(dict.fromkeys((*self.keys, *more.keys))))


def merged(identifier: "Dataset", more: "Dataset") -> "Dataset":
    """Return an Identifier with the keys of another one that it does not have."""
    from pydicom import Dataset

    return Dataset(dict(more.items()) | dict(identifier.items()))


class LevelName(click.ParamType):  # type: ignore[type-arg]
    """A Query/Retrieve Level, in the singular or plural; INSTANCE is dcm4che's name for IMAGE."""

    name = "level"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> QueryLevel:
        """Return the level with this name; fail with a suggestion."""
        found = value if isinstance(value, QueryLevel) else level_named(value)
        return self.fail(f"{value!r} is not a level{_known_levels(value)}", param, ctx) if found is None else found

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the names of levels."""
        names = PLURAL.values()
        return [CompletionItem(name) for name in names if name.startswith(incomplete.lower())]


def _known_levels(text: str) -> str:
    names = [each.lower() for each in (*QueryLevel.__members__, *LEVEL_SYNONYMS, *PLURAL.values())]
    return suggestion(text, names) or f"; expected one of {', '.join(PLURAL.values())}"


def complete_word(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a level or a keyword."""
    return [*LevelName().shell_complete(ctx, parameter, incomplete), *complete_key(ctx, parameter, incomplete)]


words_argument = click.argument("words", nargs=-1, metavar=WORDS, shell_complete=complete_word)

_OPTIONS = (
    click.option("keys", "-k", "-m", "-r", multiple=True, metavar="KEY[=VALUE]", shell_complete=complete_key,
                 help="Matching key; without =VALUE, a return key. KEY is a keyword, gggg,eeee or SEQUENCE.KEY."),
    click.option("level", "--level", "-L", type=LevelName(), metavar="LEVEL",
                 help="Query/Retrieve Level: patient, study, series or image; default: the lowest level of the keys."),
)  # fmt: skip
_MODELS = (
    click.option("root", "-P", flag_value=Root.PATIENT.name, help="Use the Patient Root information model."),
    click.option("root", "-S", flag_value=Root.STUDY.name, help="Use Study Root; the default except at PATIENT level."),
    click.option("root", "-O", flag_value=Root.PATIENT_STUDY_ONLY.name, help="Use Patient/Study Only (retired)."),
)


def query_options(
    selects: Selects = Selects.AT_A_PEER, default: QueryLevel | None = None
) -> Callable[[Command], Command]:
    """Add `-k`, `--level` and the information models to a command, and pass it `query`, a QueryArguments.

    The command also has words (`words_argument`, or those after PEER). `default` replaces the default level.
    """

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(
            *args: Any,
            words: Sequence[str],
            keys: Sequence[str],
            level: QueryLevel | None,
            root: str | None = None,
            **arguments: Any,
        ) -> None:
            query = query_arguments([*_keys(words), *keys], root, _level(words, level, default), selects)
            check_levels(query, selects)
            command(*args, query=query, **arguments)

        return with_options(*_OPTIONS, *(() if selects is Selects.HERE else _MODELS))(run)

    return decorate


def _keys(words: Sequence[str]) -> list[str]:
    """Return the words that are KEY=VALUE. Raises click.UsageError for one that is neither that nor a level."""
    for word in words:
        if "=" not in word and level_named(word) is None:
            raise click.UsageError(f"{word!r} is neither a level nor KEY=VALUE{_meant(word)}")
    return [word for word in words if "=" in word]


def _level(words: Sequence[str], option: QueryLevel | None, default: QueryLevel | None) -> QueryLevel | None:
    """Return the level of words and `--level`. Raises click.UsageError if there are two."""
    levels = {found for word in words if (found := level_named(word)) is not None}
    levels |= {option} if option is not None else set()
    if len(levels) > 1:
        raise click.UsageError(f"two levels are given: {' and '.join(each.name for each in sorted(levels))}")
    return levels.pop() if levels else default


def _meant(word: str) -> str:
    from pydicom.datadict import tag_for_keyword

    return f"; did you mean -k {word}?" if tag_for_keyword(word) is not None else _known_levels(word)


def query_arguments(
    words: Sequence[str],
    root: str | None = None,
    level: QueryLevel | None = None,
    selects: Selects = Selects.AT_A_PEER,
) -> QueryArguments:
    """Return the query of KEY[=VALUE] words; its default level is that of the lowest key, or unique key in a retrieve.

    Raises click.BadParameter for an unknown key or an impossible level.
    """
    from pacs.client.identifiers import level_of, with_level
    from pacs.dicom.identifier_builder import data_set_of

    wanted, is_retrieve = _wanted(words), selects is Selects.AT_A_PEER_TO_RETRIEVE
    try:
        identifier = data_set_of({key: value for key, value in wanted.items() if key != NOT_KEYS[0]})
        if selects is Selects.HERE:
            _refuse_empty_values(wanted)
        if selects in (Selects.AT_A_PEER, Selects.AT_A_PEER_TO_RETRIEVE):
            _standardise_dates(identifier)
        asked = level_of(wanted.get(NOT_KEYS[0]) or None) if level is None else level
        if is_retrieve and root is None and asked is None and not _BELOW_PATIENT.intersection(wanted):
            asked = QueryLevel.PATIENT  # a retrieve of a patient, which only Patient Root has
        model = Root[root] if root else Root.PATIENT if asked is QueryLevel.PATIENT else Root.STUDY
        found = with_level(identifier, asked, model, unique_only=is_retrieve)
        keys = _top_level(key for key in wanted if key not in NOT_KEYS or _is_returned(key, wanted))
        returned = _top_level(key for key, value in wanted.items() if key != NOT_KEYS[0] and not value)
        return QueryArguments(identifier, model, found, keys, returned)
    except InvalidArgument as error:
        raise click.BadParameter(f"{error.comment}{_hint(wanted)}") from error


def _top_level(paths: Iterator[str]) -> tuple[str, ...]:
    """Return the names of the top-level keys of some paths, each once."""
    from pacs.cli.values import name_of_tag
    from pacs.dicom.identifier_builder import data_set_of

    outer = dict.fromkeys(path.partition(".")[0] for path in paths)
    return tuple(name_of_tag(int(tag)) for key in outer for tag in data_set_of({key: None}).keys())  # noqa: SIM118


def _is_returned(key: str, wanted: dict[str, str]) -> bool:
    """Whether a key is the character set as a return key."""
    return key == "SpecificCharacterSet" and not wanted[key]


def _wanted(words: Sequence[str]) -> dict[str, str]:
    """Return the value of each key, '' for a return key.

    Drops the item numbers `[0]` of DCMTK, a return key that is a matching key too, and a sequence without value if one
    of its keys is given. Raises click.BadParameter for a key with two values.
    """
    wanted: dict[str, str] = {}
    for word in words:
        key, _, value = word.partition("=")
        key = _by_name(key.strip().replace("[0]", ""))
        if value and wanted.get(key, value) not in ("", value):
            raise click.BadParameter(f"{key} has two values; expected several values as in '{key}=A\\B'")
        wanted[key] = value or wanted.get(key, "")
    return {
        key: value for key, value in wanted.items() if value or not any(other.startswith(f"{key}.") for other in wanted)
    }


def _by_name(key: str) -> str:
    """Return a key by keywords where it has tags, so that each element has one name; an unknown one as it is."""
    from pacs.cli.values import name_of_tag
    from pacs.dicom.identifier_builder import path_of

    try:
        return ".".join(map(name_of_tag, path_of(key)))
    except InvalidArgument:  # of which `data_set_of` says more
        return key


def _refuse_empty_values(wanted: dict[str, str]) -> None:
    """Raise click.BadParameter for an empty value beside others: a query ignores it, and selects by the others."""
    from pacs.dicom.dataset import dictionary_vr
    from pacs.dicom.identifier_builder import path_of
    from pacs.dicom.values import ONE_VALUE

    for key, value in wanted.items():
        values = [value] if dictionary_vr(path_of(key)[-1]) in ONE_VALUE else value.split("\\")
        if len(values) > 1 and not all(map(str.strip, values)):
            raise click.BadParameter(f"'{key}={value}' has an empty value; a backslash separates values")


def _standardise_dates(identifier: "Dataset") -> None:
    """Write dates as PS3.5 does, which other AEs require."""
    from pacs.dicom.dataset import View, items, raw, vr
    from pacs.dicom.typed_ranges import standard_date

    view = View.of(identifier)
    for element in list(identifier.values()):
        for item in items(element):
            _standardise_dates(item)
        if vr(element) == "DA" and element.value:
            text = "\\".join(map(standard_date, view.text(element).split("\\")))
            identifier[element.tag] = raw(element.tag, "DA", text.encode())


def check_levels(query: QueryArguments, selects: Selects) -> None:
    """Refuse keys below the level, or warn that a peer may ignore a matching key below the level."""
    for sentence in _lower_keys(query, matching_only=selects is not Selects.HERE):
        if selects is Selects.HERE:
            raise click.UsageError(sentence)
        if selects is not Selects.NOTHING:
            click.echo(f"warning: PEER may ignore this key: {sentence}", err=True)


def _lower_keys(query: QueryArguments, *, matching_only: bool) -> Iterator[str]:
    """Yield a sentence for each key below the level of a query."""
    from pacs.dicom.attributes import NOT_KEYS as NEVER_KEYS
    from pacs.dicom.attributes import attribute

    for tag in query.identifier.keys():  # noqa: SIM118
        known = None if tag in NEVER_KEYS else attribute(tag)
        if known is None or known.level <= query.level or (matching_only and known.keyword in query.returned):
            continue
        instead = COMPUTED_OF.get((query.level, known.keyword))
        meant = f"{instead}, or the level {PLURAL[known.level]}" if instead else f"the level {PLURAL[known.level]}"
        yield f"{known.keyword} is a key of {PLURAL[known.level]}, not of {PLURAL[query.level]}; did you mean {meant}?"


def _hint(wanted: Sequence[str] | dict[str, str]) -> str:
    """Return a suggestion for the first unknown keyword, '' if there is none."""
    from pydicom.datadict import keyword_dict, tag_for_keyword

    parts = (part for path in wanted for part in path.split(".") if "," not in part)
    return next((suggestion(part, keyword_dict) for part in parts if tag_for_keyword(part) is None), "")
