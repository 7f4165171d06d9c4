"""SQL expressions that SQLite and PostgreSQL write differently: wild cards, containment, long lists, trigrams.

A statement with them is the same object for both databases. The dialect decides when it is compiled, and when the value
of a pattern is bound.
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
"""The most characters of a text column; a pattern that needs more matches nothing."""

FEW = 100
"""The most values that are bound one by one; a longer list is one JSON text, as databases limit parameters."""

_trigrams = table("patient_trigram", column("rowid", Integer), column("patient_trigram", String))

TRIGRAM, MOST_PIECES = 3, 3
"""A trigram index does not have shorter pieces, and more pieces of a pattern would hardly narrow the search."""


def among(column: ColumnElement[Any], values: Sequence[Comparable]) -> ColumnElement[bool]:
    """Return the condition that `column` equals any of `values`, which may be many."""
    possible = [value for value in values if is_storable(value) and isinstance(value, column.type.python_type)]
    if len(possible) <= FEW:
        return column.in_(possible) if len(possible) != 1 else column == possible[0]
    return is_listed(column, bindparam(None, json.dumps(possible), String(), unique=True))


def is_listed(column: ColumnElement[Any], values: ColumnElement[str]) -> ColumnElement[bool]:
    """Return the condition that `column` equals any of `values`, an array in JSON."""
    return (_ListedNumber if column.type.python_type is int else _ListedText)(column, values)


def resembles(column: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
    """Return the condition that `column` matches a DICOM wild card pattern of `*` and `?` (PS3.4 C.2.2.2.4)."""
    short = collapsed(pattern)
    if len(short) - short.count("*") > LONGEST_VALUE or not is_storable(short):
        return false()
    if "*" not in short and "?" not in short:
        return column == short
    alike = _Alike(column, bindparam(None, short, WildcardPattern(), unique=True))
    prefix = short[: min(short.find(sign) for sign in "*?" if sign in short)]
    after = _successor(prefix)
    # The range can use an index on both databases; the pattern decides.
    return alike & (column >= prefix) & (column < after) if after else alike


def contains(column: ColumnElement[Any], part: str) -> ColumnElement[bool]:
    """Return the condition that `column` contains `part` literally."""
    return _Contains(column, bindparam(None, part, String(), unique=True)) if is_storable(part) else false()


def without_index(column: ColumnElement[str]) -> ColumnElement[str]:
    """Return the value of `column` such that SQLite uses no index of it, neither for a condition nor for the order."""
    return _WithoutIndex(column)


def names_with_pieces(patient_key: ColumnElement[int], patterns: Sequence[str]) -> ColumnElement[bool] | None:
    """Return the condition that a patient's name has the longest pieces of a pattern, by SQLite's trigram index.

    None when the index is useless: no piece is long enough, or no pattern begins with a wild card. SQLite starts with
    this condition and gets the patients one after the other.
    """
    for pattern in patterns:
        phrases = _phrases(pattern) if pattern.startswith(("*", "?")) else ""
        if phrases:
            matches = _Matches(_trigrams.c.patient_trigram, bindparam(None, phrases, String(), unique=True))
            return and_(patient_key == _trigrams.c.rowid, matches)
    return None


def _phrases(pattern: str) -> str:
    """Return the longest pieces between the wild cards of a pattern as an FTS5 query; '' when all are too short."""
    pieces = [piece for piece in collapsed(pattern).replace("?", "*").split("*") if len(piece) >= TRIGRAM]
    longest = sorted(filter(is_storable, pieces), key=len)[-MOST_PIECES:]
    return " AND ".join('"' + piece.replace('"', '""') + '"' for piece in longest)


def collapsed(pattern: str) -> str:
    """Return the pattern with each run of `*` reduced to one, so that many of them take no more time."""
    while "**" in pattern:
        pattern = pattern.replace("**", "*")
    return pattern


class WildcardPattern(TypeDecorator[str]):
    """A DICOM wild card pattern that is bound as a pattern of SQLite's GLOB or PostgreSQL's LIKE."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the pattern for the database; everything but `*` and `?` is literal."""
        table = _GLOB if dialect.name == "sqlite" else _LIKE
        return value.translate(table) if value is not None else None


# `[` begins a character class in GLOB; `?` and `*` have the same meaning as in DICOM.
_GLOB = str.maketrans({"[": "[[]"})
_LIKE = str.maketrans({"\\": "\\\\", "%": "\\%", "_": "\\_", "*": "%", "?": "_"})


def is_storable(value: Comparable) -> bool:
    """Whether a column can store the value: no NUL, no lone surrogate, no number beyond 64 bits."""
    if not isinstance(value, str):
        return -(2**63) <= value < 2**63
    return "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)


def _successor(prefix: str) -> str | None:
    """Return the smallest text greater than every text with this prefix, in byte order; None without one."""
    while prefix and prefix[-1] in "\U0010ffff\ud7ff":
        prefix = prefix[:-1]
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else None


class _Operator(FunctionElement[bool]):
    """An operator on `{0}` and `{1}`, in the syntax of SQLite and of other databases."""

    type = Boolean()
    inherit_cache = True
    sqlite = other = ""

    def self_group(self, against: OperatorType | None = None) -> "_Operator":
        """Return itself: SQLite uses no index for `... = 1`."""
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


class _WithoutIndex(FunctionElement[str]):
    type = String()
    inherit_cache = True


@compiles(_WithoutIndex, "sqlite")
def _unary_plus(element: _WithoutIndex, compiler: SQLCompiler, **kw: Any) -> str:
    return "+" + compiler.process(*element.clauses, **kw)


@compiles(_WithoutIndex)
def _unchanged(element: _WithoutIndex, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(*element.clauses, **kw)


@compiles(_Operator, "sqlite")
def _for_sqlite(element: _Operator, compiler: SQLCompiler, **kw: Any) -> str:
    return element.sqlite.format(*(compiler.process(clause, **kw) for clause in element.clauses))


@compiles(_Operator)
def _for_others(element: _Operator, compiler: SQLCompiler, **kw: Any) -> str:
    return element.other.format(*(compiler.process(clause, **kw) for clause in element.clauses))
