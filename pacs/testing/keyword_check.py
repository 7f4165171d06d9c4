"""Rejects misspelt keywords in tests."""

from collections.abc import Iterable

from pacs.support.suggestion import suggestion


def check_keywords(keywords: Iterable[str], others: Iterable[str] = ()) -> None:
    """Raise ValueError for the first keyword that PS3.6 does not define; `others` are further names to suggest."""
    from pydicom.datadict import keyword_dict

    for each in keywords:
        if each not in keyword_dict:
            raise ValueError(f"there is no keyword {each}{suggestion(each, (*keyword_dict, *others))}")
