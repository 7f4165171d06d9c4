"""Scenario files: how a server is to misbehave, in TOML, with errors as helpful as those of the configuration.

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

from pacs.config.complaints import wording
from pacs.config.model import LISTS
from pacs.config.sources import parse, validate
from pacs.errors import ConfigurationError
from pacs.faults.model import Fault, Scenario
from pacs.support.suggestion import suggestion

KEYS = ("name", "description", "seed", "settings", "faults")
FAULT_KEYS = tuple(each.name for each in fields(Fault) if each.init)

SETTABLE = ("access.", "commitment.", "limits.", "query.", "storage.", "server.ae_title", "server.aliases", "peers")
"""What a scenario may set: how a server answers. Where its data is, and who sees what, is for who runs it to say."""

KEPT_BACK = ("access.open_to_network", "query.explain")
NOT_SETTABLE = f"a scenario has no say in that; expected one of {', '.join(each.rstrip('.') for each in SETTABLE)}"

_TYPES: Mapping[str, tuple[type, str]] = {
    "name": (str, "text in quotes"),
    "description": (str, "text in quotes"),
    "seed": (int, "a number"),
    "settings": (dict, "a table"),
    "faults": (list, "[[faults]] blocks"),
}


def presets() -> dict[str, Scenario]:
    """The scenarios that come with the software, by name."""
    folder = resources.files("pacs.config") / "scenarios"
    names = sorted(each.name for each in folder.iterdir() if each.name.endswith(".toml"))
    return {name.removesuffix(".toml"): load_scenario(name.removesuffix(".toml")) for name in names}


def load_scenario(file_or_name: str | Path) -> Scenario:
    """The scenario in a file, or the preset of that name.

    Raises ConfigurationError that lists everything wrong: key, value, what was expected.
    """
    path = Path(file_or_name)
    if path.is_file():
        return scenario_of(parse(_read(path), path), path)
    preset = resources.files("pacs.config") / "scenarios" / f"{path.name}.toml"
    if str(path) != path.name or not preset.is_file():
        why = f"{file_or_name}: there is no such scenario file or preset"
        raise ConfigurationError(f"{why}; `pacs serve --scenario list` shows the presets")
    return scenario_of(parse(preset.read_bytes(), Path(preset.name)), Path(preset.name))


def scenario_of(table: Mapping[str, Any], file: Path) -> Scenario:
    """The scenario a TOML table describes; `file` is where it comes from. Raises ConfigurationError."""
    mistakes = [*_mistakes(table)]
    if mistakes:
        raise ConfigurationError("\n".join(f"{each} ({file})" for each in mistakes))
    settings = dict(_flat(table.get("settings", {})))
    if mistakes := [f"settings.{key}: {NOT_SETTABLE}" for key in settings if not _is_settable(key)]:
        raise ConfigurationError("\n".join(f"{each} ({file})" for each in mistakes))
    validate({}, None, {}, settings, str(file))
    return Scenario(
        name=table.get("name", file.stem),
        description=" ".join(table.get("description", "").split()),
        seed=table.get("seed", 0),
        settings=settings,
        faults=tuple(_fault(each) for each in table.get("faults", ())),
    )


def _is_settable(key: str) -> bool:
    return key.startswith(SETTABLE) and key not in KEPT_BACK


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read ({error.strerror})") from error


def _flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted key, whether they are written so or in tables."""
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


def _mistakes(table: Mapping[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        if key not in KEYS:
            yield f"{key}: there is no such key{suggestion(key, KEYS)}"
            continue
        kind, expected = _TYPES[key]
        several: list[Any] = value if key == "faults" and isinstance(value, list) else []
        if not isinstance(value, kind) or isinstance(value, bool):
            yield f"{key} = {value!r}: expected {expected}"
        for place, fault in enumerate(several, 1):
            yield from _mistakes_of(fault, f"faults[{place}]")


def _mistakes_of(fault: Any, place: str) -> Iterator[str]:
    if not isinstance(fault, dict):
        yield f"{place}: expected a [[faults]] block"
        return
    unknown = [key for key in fault if key not in FAULT_KEYS]
    yield from (f"{place}.{key}: there is no such key{suggestion(key, FAULT_KEYS)}" for key in unknown)
    if unknown:
        return
    try:
        _fault(fault)
    except ValidationError as error:
        told: dict[str, list[str]] = {}
        for each in error.errors():
            told.setdefault(str(each["loc"][0]) if each["loc"] else "", []).append(wording(each["msg"]))
        for key, reasons in told.items():
            why = ", or ".join(dict.fromkeys(reasons))
            yield f"{place}.{key} = {fault.get(key)!r}: {why}" if key else f"{place}.{why}"
    except TypeError:
        yield f"{place}: expected text, numbers, true or false and lists of them"
