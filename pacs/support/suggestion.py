"""What was probably meant by a name that there is not."""

import difflib
from collections.abc import Iterable

NEAR_ENOUGH = 0.75


def suggestion(name: str, known: Iterable[str]) -> str:
    """The known name nearest to one, whatever the case of its letters, to be put behind a complaint; '' for none."""
    by_lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=NEAR_ENOUGH)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""
