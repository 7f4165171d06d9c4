"""What was probably meant by a name that there is not: a test that is mistyped must not pass, nor puzzle anybody."""

import difflib
from collections.abc import Iterable


def suggestion(name: str, known: Iterable[str]) -> str:
    """The known name nearest to one, whatever the case of its letters, to be put behind a complaint; '' for none."""
    by_lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.75)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""


def check_keywords(keywords: Iterable[str], others: Iterable[str] = ()) -> None:
    """Raises ValueError for the first that is no keyword of PS3.6. `others` may have been meant, too."""
    from pydicom.datadict import keyword_dict

    for each in keywords:
        if each not in keyword_dict:
            raise ValueError(f"there is no keyword {each}{suggestion(each, (*keyword_dict, *others))}")
