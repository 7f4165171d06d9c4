"""Matching modes: named sets of switches for what the standard leaves open and real clients do anyway.

The configuration key is `query.manner`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MatchingMode:
    """How the Identifiers of queries and retrieves are interpreted. Each switch describes its effect when on."""

    name: str
    relational: bool
    """Unique keys of higher levels may be missing without negotiated relational queries (C.4.1.2.2.1)."""
    ignore_lower_keys: bool
    """Keys below the query level are ignored, with status FF01; otherwise the query is refused with A900."""
    unknown_matches: bool
    """A stored value of zero length (unknown) matches any key value (C.2.2.1.2, K2)."""
    multiple_values: bool
    """A key with several values that are not UIDs matches any of them without negotiation (M10)."""
    bare_level_lists_all: bool
    """A query without any key, or without the unique key of its level, treats that key as universal (F3)."""
    retrieve_by_other_keys: bool
    """A retrieve may use supported keys other than the unique ones (K4)."""
    ignore_request_only: bool
    """Query/Retrieve View, Instance Availability, and an empty character set or timezone are ignored (F6)."""
    asterisk_matches_all: bool
    """Asterisks alone are universal in VRs without wild card matching, such as UI and DA."""
    typed_dates: bool
    """Dates, times and ranges are understood as people type them (`pacs.dicom.typed_ranges`)."""
    level_synonyms: bool
    """Other names of levels are understood: INSTANCE, INSTANCES, IMAGES, STUDIES and PATIENTS."""
    ignore_empty_unique_key: bool
    """In a retrieve an empty unique key is ignored beside another key of its level with a value (V1)."""
    equivalent_accents: bool
    """Composed and decomposed accents are equal in all text (M14)."""


TOLERANT = MatchingMode(
    name="tolerant",
    relational=True,
    ignore_lower_keys=True,
    unknown_matches=False,
    multiple_values=True,
    bare_level_lists_all=True,
    retrieve_by_other_keys=True,
    ignore_request_only=True,
    asterisk_matches_all=True,
    typed_dates=True,
    level_synonyms=True,
    ignore_empty_unique_key=True,
    equivalent_accents=True,
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
    asterisk_matches_all=False,
    typed_dates=False,
    level_synonyms=False,
    ignore_empty_unique_key=False,
    equivalent_accents=False,
)

MATCHING_MODES = {mode.name: mode for mode in (TOLERANT, STRICT)}
"""The modes by the name that `query.manner` gives them."""


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The result of SOP Class Extended Negotiation for a Query/Retrieve SOP Class (PS3.4 C.5); all off by default."""

    relational: bool = False
    combined_date_time: bool = False
    fuzzy_names: bool = False
    empty_values: bool = False
    multiple_values: bool = False
