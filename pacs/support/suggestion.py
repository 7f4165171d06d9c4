"""Suggestions for misspelt names."""

import difflib
from collections.abc import Iterable

NEAR_ENOUGH = 0.75


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean NAME?" for the most similar known name, regardless of case; '' without one."""
    by_lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=NEAR_ENOUGH)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""
