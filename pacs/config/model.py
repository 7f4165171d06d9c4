"""The keys there are: one class per table of config.toml, with types, bounds and defaults.

Times are in seconds, sizes in bytes. Relative paths become absolute when the model is made with a `base` folder in its
validation context; without one they stay as they are.
"""

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

# --- kinds of values ---------------------------------------------------------------------------------------------


def _ae_title(text: str) -> str:
    """An AE title as PS3.5 6.2 has it: 1 to 16 characters, no backslash or controls, trimmed."""
    title = text.strip(" ")
    if not 1 <= len(title) <= 16:
        raise ValueError("expected an AE title of 1 to 16 characters")
    if "\\" in title or not all(" " <= each <= "~" for each in title):
        raise ValueError("expected an AE title of ASCII characters without backslash or control characters")
    return title


def _host(text: str) -> str:
    if not text or len(text) > 253 or not all("!" <= each <= "~" for each in text):
        raise ValueError("expected a host name or an IP address")
    return text


def _base(info: ValidationInfo) -> Path | None:
    """The folder relative paths are taken from; None where a model is made without one."""
    return info.context["base"] if info.context else None


def _database_url(url: str, info: ValidationInfo) -> str:
    """A database URL, the path inside a SQLite one made absolute."""
    if url.startswith(("postgresql+psycopg://", "postgresql://")):
        return url
    path = url.removeprefix("sqlite:///")
    if path == url or path in ("", ":memory:"):
        raise ValueError("expected sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME")
    base = _base(info)
    return url if base is None else f"sqlite:///{base / path}"


def _files_url(url: str, info: ValidationInfo) -> str:
    """A folder, made absolute, or s3://bucket/prefix as it is."""
    if re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/.*)?", url):
        return url
    if not url or "\0" in url or "://" in url:
        raise ValueError("expected a folder, or s3://BUCKET/PREFIX")
    base = _base(info)
    return url if base is None else str(base / url)


def _transfer_syntax(text: str) -> str:
    """A transfer syntax that is kept, by its UID or by its keyword in PS3.6; its UID."""
    from pydicom.uid import UID

    from pacs.dicom.syntaxes import KEPT

    for uid in KEPT:
        if text in (uid, UID(uid).keyword):
            return uid
    raise ValueError("expected a transfer syntax, such as 'ExplicitVRLittleEndian' or '1.2.840.10008.1.2.1'")


AETitle = Annotated[str, AfterValidator(_ae_title)]
Host = Annotated[str, AfterValidator(_host)]
Port = Annotated[int, Field(ge=0, le=65535)]
PeerPort = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Bytes = Annotated[int, Field(ge=4096, le=2**31)]
MannerName = Literal["tolerant", "strict"]

# --- the sections -----------------------------------------------------------------------------------------------


class Section(BaseModel):
    """A table of the configuration: keys that are not known are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """True is refused where a number is expected, though Python counts it as 1."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation in (int, float):
            raise ValueError("expected a number")
        return value


class Server(Section):
    """Who we are and where we listen."""

    ae_title: AETitle = "PACS"
    host: Host = "127.0.0.1"
    port: Port = 11112
    workers: Annotated[int, Field(ge=1, le=64)] = 1


class Database(Section):
    """Where the index is."""

    url: Annotated[str, AfterValidator(_database_url)] = Field("sqlite:///pacs-data/pacs.db", repr=False)
    wait_seconds: Seconds = 30.0


class Files(Section):
    """Where the instances are."""

    url: Annotated[str, AfterValidator(_files_url)] = "pacs-data/files"


class Access(Section):
    """Who may associate."""

    callers: Literal["anyone", "peers"] = "anyone"
    called_ae: Literal["any", "ours"] = "any"
    open_to_network: bool = False


class Query(Section):
    """How queries and retrieves are understood."""

    manner: MannerName = "tolerant"


class Storage(Section):
    """What is taken in."""

    duplicates: Literal["keep", "replace", "reject"] = "keep"
    unknown_sop_classes: bool = False


class Web(Section):
    """The web listener."""

    enabled: bool = True
    host: Host = "127.0.0.1"
    port: Port = 8080


class Limits(Section):
    """What one peer may cost: seconds, bytes and counts."""

    associations: Annotated[int, Field(ge=1, le=10_000)] = 100
    pdu_size: Annotated[int, Field(ge=4096, le=16 * 2**20)] = 131_072
    negotiation_seconds: Seconds = 10.0
    idle_seconds: Seconds = 600.0
    message_seconds: Seconds = 60.0
    write_seconds: Seconds = 60.0
    connect_seconds: Seconds = 10.0
    drain_seconds: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] = 20.0
    cancel_grace: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 5.0
    identifier_size: Bytes = 1_048_576
    query_page: Annotated[int, Field(ge=1, le=10_000)] = 200
    query_scan: Count = 200_000
    retrieve_studies: Count = 100
    pending_every: Count = 1
    pending_seconds: Seconds = 10.0


class Log(Section):
    """What is written to standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["console", "json"] = "console"


class Peer(Section):
    """A known AE: a move destination, and one that may call where `access.callers` is "peers".

    `manner` is None where the server's applies; `transfer_syntaxes` are UIDs in the order in which they are preferred
    in what this peer proposes, empty where the peer's own order decides. `associations` is how many one C-MOVE opens
    to this peer at once, at most.
    """

    ae_title: AETitle
    host: Host
    port: PeerPort
    manner: MannerName | None = None
    transfer_syntaxes: tuple[Annotated[str, AfterValidator(_transfer_syntax)], ...] = ()
    associations: Annotated[int, Field(ge=1, le=16)] = 1


class Config(Section):
    """The whole configuration. `Config()` is the defaults; `load` makes one from all sources."""

    server: Server = Server()
    database: Database = Database()
    files: Files = Files()
    access: Access = Access()
    query: Query = Query()
    storage: Storage = Storage()
    limits: Limits = Limits()
    log: Log = Log()
    web: Web = Web()
    peers: tuple[Peer, ...] = ()

    @model_validator(mode="after")
    def _peers_have_titles_of_their_own(self) -> Self:
        titles = [peer.ae_title for peer in self.peers]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise ValueError(f"expected each AE title once in [[peers]], found more than one {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _the_network_is_meant(self) -> Self:
        if self.access.callers == "anyone" and not self.access.open_to_network:
            for name, listener in self._listeners():
                if not is_loopback(listener.host):
                    raise ValueError(
                        f"{name}.host = {listener.host!r} listens beyond this machine while anyone may call: "
                        'expected access.callers = "peers", or access.open_to_network = true if that is meant'
                    )
        return self

    def _listeners(self) -> Iterator[tuple[str, Server | Web]]:
        yield "server", self.server
        if self.web.enabled:
            yield "web", self.web


def is_loopback(host: str) -> bool:
    """Whether listening on `host` is reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
