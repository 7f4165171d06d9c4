"""Reads the configuration from file, environment and flags."""

import json
import os
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

from pydantic import ValidationError

from pacs.config.error_messages import error_messages, keys
from pacs.config.model import LISTS, REMOVED, Config, FilesSection, PeersContent, Section
from pacs.errors import ConfigurationError
from pacs.support.regular_files import read_regular

PREFIX = "PACS_"
SECRET_SUFFIX = "_FILE"  # noqa: S105 - not a secret
DEFAULT_FILE = "config.toml"
PEERS_FILE = "peers.toml"
COMMAND_LINE = "command line"


def load(
    file: Path | None = None, environment: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Config:
    """Load the configuration from `file` (None: ./config.toml if it exists), `environment` and `flags`.

    `flags` has values by dotted key, such as `{"server.port": 0}`. Relative paths start from the folder of the file,
    else from the working directory. The peers of `peers.toml` in the folder of the data are added. Raises
    ConfigurationError that lists all errors.
    """
    return read_sources(file, environment, flags).config()


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything that a configuration is read from, except for `peers.toml`."""

    file: Path | None
    text: str
    """The text of the file."""
    table: dict[str, Any]
    """Its content."""
    environment: Mapping[str, tuple[str, Any]]
    """Name and value of each environment variable, by dotted key."""
    flags: Mapping[str, Any]

    @property
    def peers_path(self) -> Path:
        """The path of `peers.toml`: beside the folder of the files. Raises ConfigurationError."""
        merged, _ = _merged(self.table, self.environment, self.flags, COMMAND_LINE)
        files = merged["files"]
        url = files.get("url") if isinstance(files, dict) else None
        default = FilesSection.model_fields["url"].default
        folder = url if isinstance(url, str) and url and "://" not in url and "\0" not in url else default
        return (_base(self.file) / folder).parent / PEERS_FILE

    def entries(self, section: str) -> list[Any]:
        """Return the entries of `[[peers]]` or `[[users]]` without a check. Raises ConfigurationError."""
        merged, _ = _merged(self.table, self.environment, self.flags, COMMAND_LINE)
        found = merged.get(section, [])
        return found if isinstance(found, list) else []

    def config(self, peers: Sequence[Mapping[str, Any]] | None = None) -> Config:
        """Return the configuration, with `peers` instead of those in `peers.toml`. Raises ConfigurationError."""
        path = self.peers_path
        added = peers_in(path, text_of(path)) if peers is None else peers
        return validate(self.table, self.file, self.environment, self.flags, COMMAND_LINE, more_peers=(path, added))


def read_sources(
    file: Path | None = None, environment: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Sources:
    """Read the sources of `load`, without a check of keys and values. Raises ConfigurationError."""
    file = find_file(file)
    content = read_file(file, "configuration file") if file else b""
    table = parse(content, file) if file else {}
    variables = os.environ if environment is None else environment
    return Sources(file, content.decode("utf-8-sig"), table, _from_environment(variables), flags or {})


def peers_in(path: Path, text: str) -> list[Mapping[str, Any]]:
    """Return the entries of a `peers.toml` with this text. Raises ConfigurationError."""
    table = parse(text.encode(), path)
    try:
        PeersContent.model_validate(table)
    except ValidationError as error:
        raise ConfigurationError("\n".join(error_messages(error, {}, str(path)))) from error
    return list(table.get("peers", ()))


def text_of(peers_path: Path) -> str:
    """Return the text of a `peers.toml`, '' if there is none. Raises ConfigurationError."""
    try:
        peers_path.stat()
    except OSError:  # no such file, or a user who may not read the folder, and so cannot use the archive either
        return ""
    try:
        return read_file(peers_path, "peers file").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{str(peers_path)!r} is not TOML in UTF-8: {error}") from error


def template() -> str:
    """Return the configuration file with every key, its default and a comment.

    It is in the package when installed, and at the top of a checkout.
    """
    package = Path(__file__).parent
    found = (package / DEFAULT_FILE, package.parents[1] / DEFAULT_FILE)
    return next(path for path in found if path.is_file()).read_text("utf-8")


def from_settings(settings: Mapping[str, Any]) -> Config:
    """Return the defaults with `settings` by dotted key, without file and environment. Raises ConfigurationError."""
    return validate({}, None, {}, settings, "settings")


def revalidated(config: Config) -> Config:
    """Validate a configuration that was combined from two. Raises ConfigurationError."""
    try:
        return Config.model_validate(config.model_dump())
    except ValidationError as error:
        raise ConfigurationError(
            "; ".join(error_messages(error, {}, "with the keys that need a restart unchanged"))
        ) from error


def find_file(file: Path | None) -> Path | None:
    """Return `file`, or ./config.toml if it exists, else None. Raises ConfigurationError if `file` does not exist."""
    if file is None:
        return Path(DEFAULT_FILE) if Path(DEFAULT_FILE).exists() else None
    if not file.exists():
        raise ConfigurationError(f"configuration file {str(file)!r} does not exist; check --config or PACS_CONFIG")
    return file


def read_file(file: Path, what: str) -> bytes:
    """Return the content of a regular file; `what` it is, for the error. Raises ConfigurationError."""
    try:
        return read_regular(file)
    except OSError as error:
        raise ConfigurationError(f"cannot read {what} {str(file)!r} ({error.strerror})") from error


def parse(content: bytes, file: Path) -> dict[str, Any]:
    """Parse the bytes of a TOML file. Raises ConfigurationError with file, line and column."""
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{str(file)!r} is not TOML in UTF-8: {error}") from error


def validate(
    table: dict[str, Any],
    file: Path | None,
    environment: Mapping[str, tuple[str, Any]],
    flags: Mapping[str, Any],
    flags_origin: str,
    *,
    more_peers: tuple[Path, Sequence[Mapping[str, Any]]] = (Path(), ()),
) -> Config:
    """Return the Config of `table`, read from `file`, overridden by environment and flags. Raises ConfigurationError.

    `flags_origin` names the origin of the flags in error messages. `more_peers` are added; they are those of a file.
    """
    merged, origins = _merged(table, environment, flags, flags_origin)
    _add_peers(merged, *more_peers, origins.get("peers") or str(file or ""))
    try:
        return Config.model_validate(merged, context={"base": _base(file)})
    except ValidationError as error:
        raise ConfigurationError("\n".join(error_messages(error, origins, str(file or "")))) from error


def _base(file: Path | None) -> Path:
    """Return the folder that relative paths start from."""
    return (file.absolute().parent if file else Path.cwd()).resolve()


def _add_peers(merged: dict[str, Any], path: Path, added: Sequence[Mapping[str, Any]], origin: str) -> None:
    """Add the peers of a file to those of the other sources. Raises ConfigurationError for an AE title in both."""
    own = merged.get("peers", [])
    if not added or not isinstance(own, list):  # what is no list is an error that the model reports
        return
    titles = set(map(title_of, own))
    for each in added:
        if (title := title_of(each)) in titles:
            remedy = f"remove one of them, for example with `pacs peers remove {shlex.quote(title)}`"
            raise ConfigurationError(f"the peer {title!r} is in [[peers]] of {origin} and in {path}: {remedy}")
    merged["peers"] = [*own, *map(dict, added)]


def title_of(entry: Any) -> str:
    """Return the AE title of an entry of `[[peers]]`, '' if it has none."""
    return str(entry.get("ae_title", "")).strip(" ") if isinstance(entry, Mapping) else ""


def _merged(
    table: dict[str, Any],
    environment: Mapping[str, tuple[str, Any]],
    flags: Mapping[str, Any],
    flags_origin: str,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a table overridden by environment and flags, and the origin of each key that is overridden."""
    merged = json.loads(json.dumps(table, default=str))  # a deep copy; dates become text, as no key takes one
    for section in set(Config.model_fields) - set(LISTS):
        merged.setdefault(section, {})  # so that default paths of a missing section become absolute
    origins: dict[str, str] = {}
    overlays = [(key, value, name) for key, (name, value) in environment.items()]
    overlays += [(key, value, flags_origin) for key, value in flags.items()]
    for key, value, origin in overlays:
        _put(merged, key, _listed(key, value))
        origins[key] = origin
    for section, _, key in (each.partition(".") for each in REMOVED):
        if isinstance(merged[section], dict):
            merged[section].pop(key, None)
    return merged, origins


def _listed(key: str, value: Any) -> Any:
    """Parse the text of a list key, as JSON or separated by commas; return other values unchanged."""
    section, _, name = key.partition(".")
    inside = Config.model_fields[section].annotation if section in Config.model_fields else None
    fields = inside.model_fields if isinstance(inside, type) and issubclass(inside, Section) else {}
    if not isinstance(value, str) or name not in fields or get_origin(fields[name].annotation) is not tuple:
        return value
    if value.lstrip().startswith("["):
        return _json(key, value)
    return [each.strip() for each in value.split(",") if each.strip()]


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    """Set the value at dotted `key`, creating missing tables."""
    *sections, last = key.split(".")
    for section in sections:
        inner = table.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigurationError(f"{key}: expected {section!r} to be a table")
        table = inner
    table[last] = value


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    """Return variable name and value by dotted key, from PACS_SECTION__KEY, PACS_SECTION__KEY_FILE, PACS_PEERS..."""
    found: dict[str, tuple[str, Any]] = {}
    _refuse_single_underscores(environment)
    for name, text in sorted(environment.items()):
        if not _is_ours(name) or not text:
            continue
        is_secret = name.endswith(SECRET_SUFFIX) and not name.endswith("_" + SECRET_SUFFIX)  # audit.file is a key
        key = (name.removesuffix(SECRET_SUFFIX) if is_secret else name).removeprefix(PREFIX).lower().replace("__", ".")
        if key in found:
            raise ConfigurationError(f"{found[key][0]} and {name} are both set; unset one of them")
        value = _secret(name, text) if is_secret else text
        found[key] = (name, _json(name, value) if key in LISTS else value)
    return found


def _is_ours(name: str) -> bool:
    """Return whether a variable sets a key, unlike PACS_CONFIG."""
    key = name.removeprefix(PREFIX).removesuffix(SECRET_SUFFIX).lower()
    return name.startswith(PREFIX) and ("__" in name or key in LISTS)


def _refuse_single_underscores(environment: Mapping[str, str]) -> None:
    """Raise ConfigurationError for PACS_SERVER_PORT, unless set by Kubernetes for a service named pacs-server."""
    for key in keys():
        wrong, right = (PREFIX + key.upper().replace(".", separator) for separator in ("_", "__"))
        if wrong in environment and not environment[wrong].startswith("tcp://"):
            raise ConfigurationError(f"unknown variable {wrong}; did you mean {right}?")


def _secret(name: str, path: str) -> str:
    try:
        return read_regular(path).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "expected text in UTF-8"
        raise ConfigurationError(f"{name}: cannot read file {path!r} ({why})") from error


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"{name}: expected a JSON list ({error})") from error
