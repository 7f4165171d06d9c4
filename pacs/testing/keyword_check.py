"""Keywords in tests: a test that is mistyped must not pass, nor puzzle anybody."""

from collections.abc import Iterable

from pacs.support.suggestion import suggestion


def check_keywords(keywords: Iterable[str], others: Iterable[str] = ()) -> None:
    """Raises ValueError for the first that is no keyword of PS3.6. `others` may have been meant, too."""
    from pydicom.datadict import keyword_dict

    for each in keywords:
        if each not in keyword_dict:
            raise ValueError(f"there is no keyword {each}{suggestion(each, (*keyword_dict, *others))}")
