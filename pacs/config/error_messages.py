"""Error messages for a configuration: key, value, what was expected, and where the value came from."""

import difflib
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from pydantic import ValidationError

from pacs.config.model import LISTS, Config, Section
from pacs.support.suggestion import NEAR_ENOUGH, suggestion


def error_messages(error: ValidationError, origins: Mapping[str, str], default_origin: str) -> Iterator[str]:
    """Yield one message per error: key, value, what was expected, and the origin of the value if known."""
    for key, alternatives in groupby(error.errors(), lambda each: _key(each["loc"])):
        each, *others = alternatives  # several for a key whose value may be of several types
        origin = _origin(key, origins) or default_origin
        place = f" ({origin})" if origin else ""
        if each["type"] == "extra_forbidden":
            yield f"{key}: unknown key{_suggestion(key)}{place}"
        elif each["type"] == "missing":
            yield f"{key}: missing{place}"
        else:
            value = f"{key} = {_shown(key, each['input'])}: " if key else ""
            wordings = [wording(each["msg"]), *(wording(other["msg"]).removeprefix("expected ") for other in others)]
            yield f"{value}{' or '.join(wordings)}{place}"


def _origin(key: str, origins: Mapping[str, str]) -> str:
    """Return where `key`, a key below it, or the list around it was set; '' if unknown."""
    if not key:
        return ""
    near = (each for each in origins if each == key or each.startswith(f"{key}.") or key.startswith(f"{each}["))
    return next((origins[each] for each in near), "")


def _key(loc: tuple[int | str, ...]) -> str:
    """Return `("peers", 0, "port")` as `peers[1].port`, counted from one; without the names of types after a key."""
    names = 3 if loc and loc[0] in LISTS else 2
    loc = (*loc[:names], *(part for part in loc[names:] if isinstance(part, int)))
    return "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


WORDING = (
    (r"^Value error, ", ""),
    (r"^Field required", "expected one more value"),
    (r"^Input should be ", "expected "),
    (r"a valid (integer|number).*", "a number"),
    (r"a valid string.*", "text in quotes"),
    (r"a valid boolean.*", "true or false"),
    (r"a valid tuple.*|a valid list.*|a valid array.*", "a list"),
    (r"a valid dictionary.*", "a table"),
    (r"greater than or equal to", "at least"),
    (r"less than or equal to", "at most"),
    (r"greater than", "more than"),
)
"""Patterns in messages of pydantic and their replacements, in order of application."""


def wording(message: str) -> str:
    """Return a message of pydantic in the wording of this project."""
    for theirs, ours in WORDING:
        message = re.sub(theirs, ours, message)
    return message


_SECRETS = re.compile(r"(^jwt\.key|\.passcode)$")
"""Keys whose values are never shown."""

_PASSWORDS = (
    (re.compile(r"//([^:/@]*):.*@"), r"//\1:***@"),
    (re.compile(r"([?&](?:[^=&]*pass|[^=&]*%)[^=&]*=)[^&]*", re.IGNORECASE), r"\1***"),
)
"""Passwords in a URL, and what is shown of them; a name with % may be one, too."""


def masked(key: str, value: Any) -> Any:
    """Return a value without secrets: keys, passcodes, and passwords in a URL."""
    if _SECRETS.search(key):
        return "***" if value else value
    for pattern, replacement in _PASSWORDS:
        value = pattern.sub(replacement, value) if isinstance(value, str) else value
    return value


def _shown(key: str, value: Any) -> str:
    """Return a value for a message: shortened, and without passwords."""
    text = repr(masked(key, value))
    return text if len(text) <= 80 else text[:79] + "…"


def _suggestion(key: str) -> str:
    """Return a suggestion for an unknown key: the known key with the most similar name, or last part of it."""
    place = re.match(rf"({'|'.join(LISTS)})\[(\d+)\]", key)
    known = [*Config.model_fields, *keys(place.group(2) if place else "1")]
    parts = {each.rpartition(".")[2]: each for each in reversed(known)}
    near = difflib.get_close_matches(key.rpartition(".")[2], parts, n=1, cutoff=NEAR_ENOUGH)
    return suggestion(key, known) or (f"; did you mean {parts[near[0]]}?" if near else "")


def keys(place: str = "1") -> list[str]:
    """Return all keys, dotted; those of list entries with the number `place`."""
    found: list[str] = []
    for section, info in Config.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            found += [f"{section}.{key}" for key in info.annotation.model_fields]
    for name, entry in LISTS.items():
        found += [f"{name}[{place}].{key}" for key in entry.model_fields]
    return found
