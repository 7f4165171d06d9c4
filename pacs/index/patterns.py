"""The few operators that SQLite and PostgreSQL spell differently, as one expression each.

Statements made of them are the same objects for both databases; the spelling comes when they are compiled, and the
value of a pattern is translated when it is bound.
"""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Dialect,
    Integer,
    String,
    TypeDecorator,
    and_,
    bindparam,
    column,
    false,
    table,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import OperatorType

from pacs.dicom.query import Comparable

LONGEST_VALUE = 1024
"""Characters that a column of text holds at most; a pattern that needs more matches nothing."""

FEW = 100
"""Up to so many values are bound one by one; longer lists travel as one JSON text, as databases limit parameters."""

_trigrams = table("patient_trigram", column("rowid", Integer), column("patient_trigram", String))

TRIGRAM, MOST_PIECES = 3, 3
"""An index of trigrams knows nothing of shorter pieces, and more pieces of a pattern would hardly narrow further."""


def among(column: ColumnElement[Any], values: Sequence[Comparable]) -> ColumnElement[bool]:
    """`column` equals any of `values`, however many there are."""
    possible = [value for value in values if is_storable(value) and isinstance(value, column.type.python_type)]
    if len(possible) <= FEW:
        return column.in_(possible) if len(possible) != 1 else column == possible[0]
    listed = _ListedNumber if column.type.python_type is int else _ListedText
    return listed(column, bindparam(None, json.dumps(possible), String(), unique=True))


def resembles(column: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
    """`column` matches a DICOM wild card pattern: `*` is any run of characters, `?` exactly one (PS3.4 C.2.2.2.4)."""
    short = collapsed(pattern)
    if len(short) - short.count("*") > LONGEST_VALUE or not is_storable(short):
        return false()
    if "*" not in short and "?" not in short:
        return column == short
    alike = _Alike(column, bindparam(None, short, WildcardPattern(), unique=True))
    prefix = short[: min(short.find(sign) for sign in "*?" if sign in short)]
    after = _successor(prefix)
    # The range is what an index can answer on either database; the pattern decides.
    return alike & (column >= prefix) & (column < after) if after else alike


def contains(column: ColumnElement[Any], part: str) -> ColumnElement[bool]:
    """`column` contains `part`, letter by letter."""
    return _Contains(column, bindparam(None, part, String(), unique=True)) if is_storable(part) else false()


def names_with_pieces(patient_key: ColumnElement[int], patterns: Sequence[str]) -> ColumnElement[bool] | None:
    """The patients whose names have the longest pieces of any of the patterns, by SQLite's index of trigrams.

    None where the index is of no use: no piece is long enough, or no pattern begins with a wild card. In a statement
    this is where the search begins, and it gives the patients one after the other as they are asked for.
    """
    for pattern in patterns:
        phrases = _phrases(pattern) if pattern.startswith(("*", "?")) else ""
        if phrases:
            matches = _Matches(_trigrams.c.patient_trigram, bindparam(None, phrases, String(), unique=True))
            return and_(patient_key == _trigrams.c.rowid, matches)
    return None


def _phrases(pattern: str) -> str:
    """The longest pieces between the wild cards of a pattern, as FTS5 asks for them; '' where none is long enough."""
    pieces = [piece for piece in collapsed(pattern).replace("?", "*").split("*") if len(piece) >= TRIGRAM]
    longest = sorted(filter(is_storable, pieces), key=len)[-MOST_PIECES:]
    return " AND ".join('"' + piece.replace('"', '""') + '"' for piece in longest)


def collapsed(pattern: str) -> str:
    """The pattern with every run of `*` made one, so that ten thousand of them cost no more than one."""
    while "**" in pattern:
        pattern = pattern.replace("**", "*")
    return pattern


class WildcardPattern(TypeDecorator[str]):
    """A DICOM wild card pattern, bound as SQLite's GLOB or PostgreSQL's LIKE writes it."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """The pattern in the language of the database, everything but `*` and `?` taken literally."""
        table = _GLOB if dialect.name == "sqlite" else _LIKE
        return value.translate(table) if value is not None else None


# `[` begins a class of characters in GLOB; `?` and `*` mean there what they mean in DICOM.
_GLOB = str.maketrans({"[": "[[]"})
_LIKE = str.maketrans({"\\": "\\\\", "%": "\\%", "_": "\\_", "*": "%", "?": "_"})


def is_storable(value: Comparable) -> bool:
    """Whether a column can hold the value at all: no NUL, no half of a surrogate pair, no number beyond 64 bits."""
    if not isinstance(value, str):
        return -(2**63) <= value < 2**63
    return "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)


def _successor(prefix: str) -> str | None:
    """The least text that is greater than every text with this prefix, in byte order; None when there is none."""
    while prefix and prefix[-1] in "\U0010ffff\ud7ff":
        prefix = prefix[:-1]
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else None


class _Operator(FunctionElement[bool]):
    """An operator on `{0}` and `{1}`, as SQLite and as other databases spell it."""

    type = Boolean()
    inherit_cache = True
    sqlite = other = ""

    def self_group(self, against: OperatorType | None = None) -> "_Operator":
        """Itself: SQLite uses no index for what is written `... = 1`."""
        return self


class _Alike(_Operator):
    inherit_cache = True
    sqlite, other = "({0} GLOB {1})", "({0} LIKE {1})"


class _Contains(_Operator):
    inherit_cache = True
    sqlite, other = "(instr({0}, {1}) > 0)", "(strpos({0}, {1}) > 0)"


class _ListedText(_Operator):
    inherit_cache = True
    sqlite = "({0} IN (SELECT value FROM json_each({1})))"
    other = "({0} IN (SELECT value FROM json_array_elements_text(CAST({1} AS json)) value))"


class _ListedNumber(_Operator):
    inherit_cache = True
    sqlite = _ListedText.sqlite
    other = "({0} IN (SELECT CAST(value AS BIGINT) FROM json_array_elements_text(CAST({1} AS json)) value))"


class _Matches(_Operator):
    inherit_cache = True
    sqlite = "({0} MATCH {1})"


@compiles(_Operator, "sqlite")
def _for_sqlite(element: _Operator, compiler: SQLCompiler, **kw: Any) -> str:
    return element.sqlite.format(*(compiler.process(clause, **kw) for clause in element.clauses))


@compiles(_Operator)
def _for_others(element: _Operator, compiler: SQLCompiler, **kw: Any) -> str:
    return element.other.format(*(compiler.process(clause, **kw) for clause in element.clauses))
