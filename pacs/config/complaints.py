"""Saying what is wrong with a configuration: the key, the value, what was expected, where it came from."""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from pacs.config.model import LISTS, Config, Section
from pacs.support.suggestion import NEAR_ENOUGH, suggestion


def complaints(error: ValidationError, origins: Mapping[str, str], default_origin: str) -> Iterator[str]:
    """A sentence per mistake: key, value, what was expected, where it came from unless that is unknown."""
    for each in error.errors():
        key = _dotted(each["loc"])
        origin = _origin(key, origins) or default_origin
        place = f" ({origin})" if origin else ""
        if each["type"] == "extra_forbidden":
            yield f"{key}: there is no such key{_suggestion(key)}{place}"
        elif each["type"] == "missing":
            yield f"{key}: is missing{place}"
        else:
            value = f"{key} = {_shown(key, each['input'])}: " if key else ""
            yield f"{value}{wording(each['msg'])}{place}"


def _origin(key: str, origins: Mapping[str, str]) -> str:
    """Where `key`, a key in the table it names, or the list it is in was set; '' where that is not in `origins`."""
    if not key:
        return ""
    near = (each for each in origins if each == key or each.startswith(f"{key}.") or key.startswith(f"{each}["))
    return next((origins[each] for each in near), "")


def _dotted(loc: tuple[int | str, ...]) -> str:
    """`("peers", 0, "port")` as `peers[1].port`: people count from one."""
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
"""Pydantic's phrases and ours, applied in this order."""


def wording(message: str) -> str:
    """What pydantic says of a value, in our words."""
    for theirs, ours in WORDING:
        message = re.sub(theirs, ours, message)
    return message


SECRETS = re.compile(r"(^jwt\.key|\.passcode)$")
"""The keys whose values are shown to nobody."""


def _shown(key: str, value: Any) -> str:
    """A value as it may be shown: short, and without a password."""
    if SECRETS.search(key):
        return "***"
    text = re.sub(r"//([^:/@]*):[^@]*@", r"//\1:***@", repr(value))
    return text if len(text) <= 80 else text[:79] + "…"


def _suggestion(key: str) -> str:
    """The known key nearest to an unknown one: by its whole name, else by its last part."""
    place = re.match(rf"({'|'.join(LISTS)})\[(\d+)\]", key)
    known = [*Config.model_fields, *keys(place.group(2) if place else "1")]
    parts = {each.rpartition(".")[2]: each for each in reversed(known)}
    near = difflib.get_close_matches(key.rpartition(".")[2], parts, n=1, cutoff=NEAR_ENOUGH)
    return suggestion(key, known) or (f"; did you mean {parts[near[0]]}?" if near else "")


def keys(place: str = "1") -> list[str]:
    """Every key there is, dotted; those of the lists' entries as of the one at `place`."""
    found: list[str] = []
    for section, info in Config.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            found += [f"{section}.{key}" for key in info.annotation.model_fields]
    for name, entry in LISTS.items():
        found += [f"{name}[{place}].{key}" for key in entry.model_fields]
    return found
