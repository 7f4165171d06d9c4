"""Scenario files: the faults that a server injects, in TOML.

seed = 7
[settings.query]
manner = "strict"
[[faults]]
operation = "C-MOVE"
fail = "every 3"
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pacs.config.error_messages import wording
from pacs.config.model import LISTS
from pacs.config.sources import parse, read_file, validate
from pacs.errors import ConfigurationError
from pacs.faults.model import Fault, Scenario
from pacs.support.suggestion import suggestion

KEYS = ("name", "description", "seed", "settings", "faults")
FAULT_KEYS = tuple(each.name for each in fields(Fault) if each.init)

SETTABLE = ("access.", "commitment.", "limits.", "query.", "storage.", "server.ae_title", "server.aliases", "peers")
"""Keys that a scenario may set; not those for the location of data or for security."""

PROTECTED = ("access.open_to_network", "query.explain")
NOT_SETTABLE = f"a scenario cannot set this key; expected one of {', '.join(each.rstrip('.') for each in SETTABLE)}"

_TYPES: Mapping[str, tuple[type, str]] = {
    "name": (str, "text in quotes"),
    "description": (str, "text in quotes"),
    "seed": (int, "a number"),
    "settings": (dict, "a table"),
    "faults": (list, "[[faults]] blocks"),
}


def presets() -> dict[str, Scenario]:
    """Return the scenarios that are part of pacs, by name."""
    folder = resources.files("pacs.config") / "scenarios"
    names = sorted(each.name for each in folder.iterdir() if each.name.endswith(".toml"))
    return {name.removesuffix(".toml"): load_scenario(name.removesuffix(".toml")) for name in names}


def load_scenario(file_or_name: str | Path) -> Scenario:
    """Load the scenario in a file, or the preset of that name.

    Raises ConfigurationError that lists all errors: key, value, what was expected.
    """
    path = Path(file_or_name)
    if path.exists() and not path.is_dir():
        return scenario_of(parse(read_file(path, "scenario file"), path), path)
    preset = resources.files("pacs.config") / "scenarios" / f"{path.name}.toml"
    if str(path) != path.name or not preset.is_file():
        why = f"no scenario file or preset {str(file_or_name)!r}"
        raise ConfigurationError(f"{why}; run `pacs serve --scenario list` to see the presets")
    return scenario_of(parse(preset.read_bytes(), Path(preset.name)), Path(preset.name))


def scenario_of(table: Mapping[str, Any], file: Path) -> Scenario:
    """Return the scenario of a TOML table, read from `file`. Raises ConfigurationError."""
    errors = [*_errors(table)]
    if errors:
        raise ConfigurationError("\n".join(f"{each} ({file})" for each in errors))
    settings = dict(_flat(table.get("settings", {})))
    if errors := [f"settings.{key}: {NOT_SETTABLE}" for key in settings if not _is_settable(key)]:
        raise ConfigurationError("\n".join(f"{each} ({file})" for each in errors))
    validate({}, None, {}, settings, str(file))
    return Scenario(
        name=table.get("name", file.stem),
        description=" ".join(table.get("description", "").split()),
        seed=table.get("seed", 0),
        settings=settings,
        faults=tuple(_fault(each) for each in table.get("faults", ())),
    )


def _is_settable(key: str) -> bool:
    return key.startswith(SETTABLE) and key not in PROTECTED


def _flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of nested tables by dotted key."""
    for key, value in table.items():
        if isinstance(value, Mapping) and before + key not in LISTS:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value


@cache
def _adapter() -> TypeAdapter[Fault]:
    return TypeAdapter(Fault)


def _fault(table: Mapping[str, Any]) -> Fault:
    return _adapter().validate_json(json.dumps(table), strict=True)


def _errors(table: Mapping[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        if key not in KEYS:
            yield f"{key}: unknown key{suggestion(key, KEYS)}"
            continue
        kind, expected = _TYPES[key]
        several: list[Any] = value if key == "faults" and isinstance(value, list) else []
        if not isinstance(value, kind) or isinstance(value, bool):
            yield f"{key} = {value!r}: expected {expected}"
        for place, fault in enumerate(several, 1):
            yield from _fault_errors(fault, f"faults[{place}]")


def _fault_errors(fault: Any, place: str) -> Iterator[str]:
    if not isinstance(fault, dict):
        yield f"{place}: expected a [[faults]] block"
        return
    unknown = [key for key in fault if key not in FAULT_KEYS]
    yield from (f"{place}.{key}: unknown key{suggestion(key, FAULT_KEYS)}" for key in unknown)
    if unknown:
        return
    try:
        _fault(fault)
    except ValidationError as error:
        messages: dict[str, list[str]] = {}
        for each in error.errors():
            messages.setdefault(str(each["loc"][0]) if each["loc"] else "", []).append(wording(each["msg"]))
        for key, reasons in messages.items():
            why = ", or ".join(dict.fromkeys(reasons))
            yield f"{place}.{key} = {fault.get(key)!r}: {why}" if key else f"{place}.{why}"
    except TypeError:
        yield f"{place}: expected text, numbers, true or false and lists of them"
