"""`pacs dump`: the elements of an instance, as lines for people or as JSON."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pacs.cli.exit_status import FAILED
from pacs.cli.instance_argument import explained, find_instance, instance_argument, reading
from pacs.cli.options import with_config_loader
from pacs.cli.output import print_error, safe
from pacs.errors import InstanceUnreadable, PacsError, UndecodableDataSet
from pacs.support.regular_files import open_regular

if TYPE_CHECKING:
    from pacs.config import Config
    from pacs.dicom.described import Described
    from pacs.dicom.elements import Encoding, Source

NAME_WIDTH = 28
"""Columns for the names of elements, so that most values begin in the same column."""

NARROWEST = 24
"""Columns for a value, however deep it is nested."""

LONGEST_LINE = 4096
"""Characters of a line in a pipe, or of a value that is chosen with `-k`."""

LINES = 100
"""Lines that are printed at once."""

Paths = tuple[tuple[int, ...], ...]


def _paths(_ctx: click.Context, _parameter: click.Parameter, words: Sequence[str]) -> Paths:
    """Parse the keys: keywords or tags, after those of their sequences and dots."""
    from pacs.dicom.identifier_builder import path_of
    from pacs.errors import InvalidArgument
    from pacs.support.suggestion import suggestion

    try:
        return tuple(tuple(path_of(word)) for word in words)
    except InvalidArgument as error:
        from pydicom.datadict import keyword_dict, tag_for_keyword

        unknown = [part for word in words for part in word.split(".") if "," not in part and not tag_for_keyword(part)]
        hint = suggestion(unknown[0], keyword_dict) if unknown else ""
        raise click.BadParameter(f"{error.comment}{hint}") from error


@click.command(short_help="Show the elements of an instance.")
@instance_argument
@click.option(
    "paths", "-k", "--key", multiple=True, metavar="KEY", callback=_paths,
    help="Show only this element: a keyword, gggg,eeee or SEQUENCE.KEY; may be given several times.",
)  # fmt: skip
@click.option("as_json", "--json", is_flag=True, help="Print the DICOM JSON Model (PS3.18 F).")
@with_config_loader
def dump(read_config: Callable[[], Config], what: str, *, paths: Paths, as_json: bool) -> None:
    """Show the elements of a file, or of the instance of the archive with a SOP Instance UID.

    Long values are shortened to the width of the terminal, but not those that -k selects. In JSON, values of more than
    64 KiB and compressed pixel data have a BulkDataURI with their position in the data set. What comes before damage is
    shown; the exit status is 1 then.
    """
    from pacs.dicom.elements import Encoding, Source, encoding_of
    from pacs.dicom.part10 import file_meta_bytes, find_data_set

    with find_instance(what, read_config) as found, ExitStack() as stack:
        with reading(what):
            file = stack.enter_context(open_regular(found) if isinstance(found, Path) else found.open())
            head = find_data_set(file)
            meta = file_meta_bytes(file, head.data_offset)
        encoding = encoding_of(head.transfer_syntax)
        elements = _Elements(Source(file, encoding), encoding, paths, what, is_certain=head.data_offset > 0)
        information = _Elements(Source(io.BytesIO(meta), Encoding()), Encoding(), paths, what, is_certain=True)
        if as_json:
            shift = 0 if encoding.deflated else head.data_offset
            _print_json(elements, found.resolve().as_uri() if isinstance(found, Path) else f"urn:oid:{what}", shift)
        else:
            _print(_lines(information, has_whole_values=bool(paths)))
            _print(_lines(elements, has_whole_values=bool(paths)))
        for error in elements.errors:
            raise error
    if paths and not information.count + elements.count:
        print_error(f"{what} has none of these elements")
        raise click.exceptions.Exit(FAILED)


def _print_json(elements: _Elements, uri: str, shift: int) -> None:
    """Print JSON; the offsets in its BulkDataURIs are those in the data set and `shift`."""
    from pacs.dicom.json_model import json_pieces

    _print(json_pieces(elements, lambda offset, length: f"{uri}?offset={offset + shift}&length={length}"), end="")


class _Elements:
    """The chosen elements of a data set. Its errors are kept, so that output before them is complete.

    `is_certain` says that it is a data set at all.
    """

    def __init__(self, source: Source, encoding: Encoding, paths: Paths, what: str, *, is_certain: bool) -> None:
        self.errors: list[PacsError] = []
        self.count = 0
        self._what = what
        self._source, self._encoding, self._paths, self._is_certain = source, encoding, paths, is_certain

    def __iter__(self) -> Iterator[Described]:
        from pacs.dicom.described import BOUNDS, described
        from pacs.dicom.part10 import NOT_DICOM

        try:
            with reading(self._what):
                for element in described(self._source, self._encoding, BOUNDS):
                    self._is_certain |= element.token.tag >> 16 > 1
                    if not self._is_certain:
                        break
                    if self._is_chosen(element.path):
                        self.count += 1
                        yield element
            if not self._is_certain:
                self.errors.append(UndecodableDataSet(NOT_DICOM))
        except UndecodableDataSet as error:
            found = explained(error, is_certain=self._is_certain)
            where = f" (after {self._source.position} bytes of the data set)" if self._is_certain else ""
            self.errors.append(UndecodableDataSet(found.comment + where))
        except InstanceUnreadable as error:
            self.errors.append(error)

    def _is_chosen(self, path: tuple[int, ...]) -> bool:
        """Whether an element is a chosen one, within one, or a sequence around one."""
        return not self._paths or any(all(a == b for a, b in zip(each, path, strict=False)) for each in self._paths)


def _print(pieces: Iterable[str], end: str = "\n") -> None:
    """Print pieces of text, many at once."""
    iterator = iter(pieces)
    while batch := list(islice(iterator, LINES)):
        click.echo(end.join(batch) + end, nl=False)


# --- lines ----------------------------------------------------------------------------------------------------------


def _lines(elements: Iterable[Described], *, has_whole_values: bool) -> Iterator[str]:
    """Yield a line for each element, item and encapsulated value."""
    from pacs.dicom.elements import TokenKind

    width = _width()
    items, fragments, size = [0], 0, 0
    for element in elements:
        token = element.token
        indent = "  " * (2 * len(items) - 2)
        match token.kind:
            case TokenKind.ELEMENT if token.tag:
                head = f"{indent}{_head(element)}"
                room = LONGEST_LINE if has_whole_values else max(NARROWEST, width - len(head))
                yield (head + _shortened(safe_value(element, room), room)).rstrip()
            case TokenKind.SEQUENCE:
                yield f"{indent}{_head(element)}".rstrip()
                items.append(0)
            case TokenKind.ITEM:
                items[-1] += 1
                yield f"{indent[2:]}item {items[-1]}"
            case TokenKind.SEQUENCE_END:
                items.pop()
            case TokenKind.ENCAPSULATED:
                fragments, size = -1, 0  # the first one is the Basic Offset Table
            case TokenKind.FRAGMENT:
                fragments, size = fragments + 1, size + (token.length if fragments >= 0 else 0)
            case TokenKind.ENCAPSULATED_END:
                yield f"{indent}{_head(element)}{size} bytes in {max(0, fragments)} fragments"


def _width() -> int:
    """Return the columns of the terminal; many in a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else LONGEST_LINE


def _head(element: Described) -> str:
    from pacs.dicom.elements import TokenKind

    tag = element.token.tag
    others = {TokenKind.SEQUENCE: "SQ", TokenKind.ENCAPSULATED_END: "OB"}
    vr = others.get(element.token.kind, element.token.vr)
    vr = element.vr if " or " in vr else vr
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X}) {vr} {safe(element.name):{NAME_WIDTH}} "


def safe_value(element: Described, most: int) -> str:
    """Return the value of an element as text of about `most` characters, without control characters."""
    from pacs.dicom.described import BINARY

    if element.vr in BINARY:
        return _bytes(element, most)
    values = element.values()
    if element.vr == "AT":
        texts = [f"({int(each) >> 16:04X},{int(each) & 0xFFFF:04X})" for each in values[:most]]
    elif element.vr == "UI":
        texts = [_named(str(each)) for each in values[:most]]
    else:
        texts = [f"{each:.7g}" if element.vr == "FL" else str(each) for each in values[:most]]
    return safe_text("\\".join(texts), most) + ("" if element.is_whole else "…")


def safe_text(text: str, most: int) -> str:
    """Escape control characters of the first `most` characters."""
    from pacs.observability.logging import printable

    return printable(text, most)


def _named(uid: str) -> str:
    """Return a UID with its name in PS3.6 if it has one."""
    from pydicom.uid import UID_dictionary

    return f"{uid} ({UID_dictionary[uid][0]})" if uid in UID_dictionary else uid


def _bytes(element: Described, most: int) -> str:
    shown = element.data[: max(0, most // 3)]
    more = "" if len(shown) == element.token.length else "…"
    return f"{element.token.length} bytes: {shown.hex(' ')}{more}" if element.token.length else ""


def _shortened(text: str, room: int) -> str:
    """Return a text that fits into `room` columns; its end becomes `…`. Some characters take two columns."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= room else set_cell_size(text, room - 1).rstrip() + "…"
