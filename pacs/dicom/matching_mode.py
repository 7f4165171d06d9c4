"""Manners: named bundles of switches for what the standard leaves open or real clients do anyway."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MatchingMode:
    """How one peer's queries and retrieves are understood. Every switch says what happens when it is on."""

    name: str
    relational: bool
    """Unique keys of higher levels may be missing though relational queries were not negotiated (C.4.1.2.2.1)."""
    ignore_lower_keys: bool
    """Keys below the queried level are ignored and answered with FF01; otherwise A900."""
    unknown_matches: bool
    """A key whose stored value is zero length (unknown) matches any value asked for (C.2.2.1.2, K2)."""
    multiple_values: bool
    """Backslash lists in keys that are no UIDs match any of their values though not negotiated (M10)."""
    bare_level_lists_all: bool
    """A query with no key at all, or without the unique key of its level, treats it as universal (F3)."""
    retrieve_by_other_keys: bool
    """A retrieve may select by supported keys other than the unique ones (K4)."""
    ignore_request_only: bool
    """Query/Retrieve View, Instance Availability, and empty charset or timezone in a request are ignored (F6)."""


TOLERANT = MatchingMode(
    name="tolerant",
    relational=True,
    ignore_lower_keys=True,
    unknown_matches=False,
    multiple_values=True,
    bare_level_lists_all=True,
    retrieve_by_other_keys=True,
    ignore_request_only=True,
)

STRICT = MatchingMode(
    name="strict",
    relational=False,
    ignore_lower_keys=False,
    unknown_matches=True,
    multiple_values=False,
    bare_level_lists_all=False,
    retrieve_by_other_keys=False,
    ignore_request_only=False,
)

MATCHING_MODES = {mode.name: mode for mode in (TOLERANT, STRICT)}


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What SOP Class Extended Negotiation agreed for one Query/Retrieve SOP Class (PS3.4 C.5); all off by default."""

    relational: bool = False
    combined_date_time: bool = False
    fuzzy_names: bool = False
    empty_values: bool = False
    multiple_values: bool = False
