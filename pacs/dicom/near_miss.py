"""Values that a key misses only because of upper and lower case, to explain why nothing matches."""

from collections.abc import Iterable

from pacs.dicom.matching import matches_pattern
from pacs.dicom.query import Key, Single, Wildcard


def find_near_miss(key: Key, texts: Iterable[str]) -> str:
    """Return the first text that would match the key if case did not matter, without padding, '' if there is none."""
    if not isinstance(key.matching, Single | Wildcard):
        return ""
    wanted = [each.casefold() for each in key.matching.accepted if isinstance(each, str)]
    matches = matches_pattern if isinstance(key.matching, Wildcard) else str.__eq__
    plain = (text.strip(" \0") for text in texts)
    return next((text for text in plain if any(matches(each, text.casefold()) for each in wanted)), "")
