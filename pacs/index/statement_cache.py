"""A cache of compiled statements that differ only in values.

Most queries are for one patient, one study or one accession number. Building and compiling such a statement takes
longer than running it, so its text is cached by shape: the attributes that have a single value. For all other queries
the statement is built each time.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Dialect

from pacs.dicom.attributes import Kept, by_keyword
from pacs.dicom.levels import QueryLevel, Root
from pacs.dicom.query import Key, Query, Single
from pacs.index.database import driver_rows
from pacs.index.dialects import is_storable

StatementBuilder = Callable[..., Any]
"""A function that builds a statement from a query and further arguments (`pacs.index.statements`)."""

SHAPES = 256
"""The number of cached shapes."""

_PLACEHOLDER = "\ue000value of {}\ue000"
"""The placeholder of a key's value in the statement of a shape."""

_ROW_ID = -(2**62)
"""The placeholder of a row id."""

_Shape = tuple[QueryLevel, bool, tuple[str, ...]]


def execute(
    connection: Connection, build: StatementBuilder, query: Query, *arguments: object, row_id: int | None = None
) -> list[Any]:
    """Return the `driver_rows` of the statement for a query, further hashable arguments, and a row id."""
    values = _single_values(query)
    if values is None:
        last = () if row_id is None else (row_id,)
        return driver_rows(connection.execute(build(query, *arguments, *last)))
    if row_id is not None:
        values[_ROW_ID] = row_id
        arguments = (*arguments, _ROW_ID)
    text, parameters = _compiled(connection.dialect, build, _shape(query), arguments)
    filled = [(name, values.get(value, value)) for name, value in parameters]
    for_driver = tuple(value for _, value in filled) if connection.dialect.positional else dict(filled)
    return driver_rows(connection.exec_driver_sql(text, for_driver))


def _shape(query: Query) -> _Shape:
    return query.level, query.unknown_matches, tuple(key.attribute.keyword for key in query.keys)


def _single_values(query: Query) -> dict[object, object] | None:
    """Return the value of each key by its placeholder; None unless every key has a single text in a column."""
    values: dict[object, object] = {}
    for key in query.keys:
        matching = key.matching
        if key.attribute.kept is not Kept.COLUMN or not isinstance(matching, Single) or len(matching.accepted) != 1:
            return None
        (value,) = matching.accepted
        if not isinstance(value, str) or key.attribute.vr == "IS" or not is_storable(value):
            return None
        values[_PLACEHOLDER.format(key.attribute.keyword)] = value
    return values if not query.combined else None


@lru_cache(maxsize=SHAPES)
def _compiled(
    dialect: Dialect, build: StatementBuilder, shape: _Shape, arguments: tuple[object, ...]
) -> tuple[str, list[tuple[str, object]]]:
    """Return the text of the statement of a shape and its parameters, with placeholders, which may occur twice."""
    level, unknown_matches, keywords = shape
    keys = tuple(Key(by_keyword(keyword), Single((_PLACEHOLDER.format(keyword),))) for keyword in keywords)
    query = Query(Root.PATIENT, level, keys, unknown_matches=unknown_matches)
    state = build(query, *arguments).compile(dialect=dialect).construct_expanded_state()
    names = state.positiontup or state.parameters.keys()
    return state.statement, [(name, state.parameters[name]) for name in names]
