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


def _address(text: str) -> str:
    """HOST:PORT, an IPv6 address in brackets; as it is. Raises ValueError."""
    split_address(text)
    return text


def split_address(text: str) -> tuple[str, int]:
    """The host, without brackets, and the port of HOST:PORT. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (colon and port.isascii() and port.isdecimal() and int(port) <= 65535) or (":" in bare and bare == host):
        raise ValueError("expected HOST:PORT, such as 10.0.0.5:104 or [::1]:104")
    return _host(bare), int(port)


def _network(text: str) -> str:
    """An IP address or a network in CIDR notation; as it is."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise ValueError("expected an IP address or a network, such as 10.0.0.5 or 10.0.0.0/24") from None
    return text


def _fingerprint(text: str) -> str:
    """A SHA-256 fingerprint as openssl prints it, or without colons; in lower case without them."""
    plain = text.rpartition("=")[2].replace(":", "").strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", plain):
        raise ValueError("expected a SHA-256 fingerprint, as `openssl x509 -noout -fingerprint -sha256` prints it")
    return plain


def _passcode(text: str) -> str:
    from pacs.services.users import check_hash

    if text:
        check_hash(text)
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


def _file(path: str, info: ValidationInfo) -> str:
    """The path of a file, made absolute, or '' for none."""
    if "\0" in path or path.endswith("/"):
        raise ValueError("expected the path of a file")
    base = _base(info)
    return str(base / path) if path and base is not None else path


def _transfer_syntax(text: str) -> str:
    """A transfer syntax that is kept, by its UID or by its keyword in PS3.6; its UID."""
    from pydicom.uid import UID

    from pacs.dicom.syntaxes import KEPT

    for uid in KEPT:
        if text in (uid, UID(uid).keyword):
            return uid
    raise ValueError("expected a transfer syntax, such as 'ExplicitVRLittleEndian' or '1.2.840.10008.1.2.1'")


Address = Annotated[str, AfterValidator(_address)]
Network = Annotated[str, AfterValidator(_network)]
Fingerprint = Annotated[str, AfterValidator(_fingerprint)]
FilePath = Annotated[str, AfterValidator(_file)]
AETitle = Annotated[str, AfterValidator(_ae_title)]
Host = Annotated[str, AfterValidator(_host)]
Port = Annotated[int, Field(ge=0, le=65535)]
PeerPort = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Bytes = Annotated[int, Field(ge=4096, le=2**31)]
Bound = Annotated[int, Field(ge=0, le=10_000_000)]
"""A count that is a limit, 0 for none."""
MannerName = Literal["tolerant", "strict"]
ServiceName = Literal["store", "find", "move", "get", "commit"]
EVERY_SERVICE: tuple[ServiceName, ...] = ("store", "find", "move", "get", "commit")

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
    listen: tuple[Address, ...] = ()
    aliases: tuple[AETitle, ...] = ()
    workers: Annotated[int, Field(ge=1, le=64)] = 1


class Database(Section):
    """Where the index is."""

    url: Annotated[str, AfterValidator(_database_url)] = Field("sqlite:///pacs-data/pacs.db", repr=False)
    wait_seconds: Seconds = 30.0


class Files(Section):
    """Where the instances are."""

    url: Annotated[str, AfterValidator(_files_url)] = "pacs-data/files"
    verify: bool = False


class Access(Section):
    """Who may associate."""

    callers: Literal["anyone", "peers"] = "anyone"
    called_ae: Literal["any", "ours"] = "any"
    services: tuple[ServiceName, ...] = EVERY_SERVICE
    users: Literal["ignored", "optional", "required"] = "ignored"
    open_to_network: bool = False


class Tls(Section):
    """Encrypted associations, on a port of their own."""

    enabled: bool = False
    port: Port = 2762
    certificate: FilePath = ""
    key: FilePath = ""
    ca: FilePath = ""
    client_certificates: Literal["none", "optional", "required"] = "none"
    only: bool = False


class Jwt(Section):
    """How tokens that name a user are checked."""

    key: str = Field("", repr=False)
    algorithm: Literal["HS256", "ES256"] = "HS256"
    audience: str = ""
    issuer: str = ""


class Query(Section):
    """How queries and retrieves are understood."""

    manner: MannerName = "tolerant"
    explain: bool = False


class Storage(Section):
    """What is taken in."""

    duplicates: Literal["keep", "replace", "reject"] = "keep"
    unknown_sop_classes: bool = False


class Web(Section):
    """The web listener."""

    enabled: bool = True
    host: Host = "127.0.0.1"
    port: Port = 8080
    tls: bool = False


class Limits(Section):
    """What one peer may cost: seconds, bytes and counts."""

    associations: Annotated[int, Field(ge=1, le=10_000)] = 100
    associations_per_address: Annotated[int, Field(ge=0, le=10_000)] = 50
    associations_per_ae: Annotated[int, Field(ge=0, le=10_000)] = 50
    pdu_size: Annotated[int, Field(ge=4096, le=16 * 2**20)] = 131_072
    negotiation_seconds: Seconds = 10.0
    idle_seconds: Seconds = 600.0
    message_seconds: Seconds = 60.0
    least_rate: Annotated[int, Field(ge=0, le=10_000_000)] = 1024
    write_seconds: Seconds = 60.0
    connect_seconds: Seconds = 10.0
    drain_seconds: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] = 20.0
    cancel_grace: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 5.0
    identifier_size: Bytes = 1_048_576
    identifier_elements: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    elements: Annotated[int, Field(ge=1, le=100_000_000)] = 1_000_000
    nesting: Annotated[int, Field(ge=1, le=64)] = 64
    inflated_size: Bytes = 2**31
    free_space: Annotated[int, Field(ge=0, le=2**50)] = 268_435_456
    query_answers: Bound = 0
    query_page: Annotated[int, Field(ge=1, le=10_000)] = 200
    query_scan: Count = 200_000
    retrieve_studies: Count = 100
    pending_every: Count = 1
    pending_seconds: Seconds = 10.0


class Commitment(Section):
    """Storage commitment: times in seconds, and how much may be asked for."""

    same_association_seconds: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 1.0
    first_retry_seconds: Seconds = 30.0
    longest_retry_seconds: Seconds = 3600.0
    give_up_seconds: Annotated[float, Field(gt=0, le=31_536_000, allow_inf_nan=False)] = 259_200.0
    instances: Annotated[int, Field(ge=1, le=100_000)] = 25_000
    active: Count = 10_000
    active_per_peer: Count = 1_000


class Log(Section):
    """What is written to standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["console", "json"] = "console"


class Metrics(Section):
    """What is counted, and shown on the web listener."""

    enabled: bool = True


class Audit(Section):
    """Who stored, queried, retrieved and deleted what: a file, none where it is ''."""

    file: FilePath = ""


class Peer(Section):
    """A known AE: a move destination, and one that may call where `access.callers` is "peers".

    `manner` is None where the server's applies; `transfer_syntaxes` are UIDs in the order in which they are preferred
    in what this peer proposes, empty where the peer's own order decides. `associations` is how many one C-MOVE opens
    to this peer at once, at most. `destinations` is None where this peer may have images moved to all peers.
    """

    ae_title: AETitle
    host: Host
    port: PeerPort
    manner: MannerName | None = None
    transfer_syntaxes: tuple[Annotated[str, AfterValidator(_transfer_syntax)], ...] = ()
    associations: Annotated[int, Field(ge=1, le=16)] = 1
    services: tuple[ServiceName, ...] = EVERY_SERVICE
    addresses: tuple[Network, ...] = ()
    destinations: tuple[AETitle, ...] | None = None
    tls: bool = False
    certificates: tuple[Fingerprint, ...] = ()
    explain: bool = False


class User(Section):
    """A user who may be named when an association is made; `passcode` is a hash, '' where the name is enough."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    passcode: Annotated[str, AfterValidator(_passcode)] = Field("", repr=False)


class Config(Section):
    """The whole configuration. `Config()` is the defaults; `load` makes one from all sources."""

    server: Server = Server()
    database: Database = Database()
    files: Files = Files()
    access: Access = Access()
    tls: Tls = Tls()
    jwt: Jwt = Jwt()
    query: Query = Query()
    storage: Storage = Storage()
    limits: Limits = Limits()
    commitment: Commitment = Commitment()
    log: Log = Log()
    web: Web = Web()
    metrics: Metrics = Metrics()
    audit: Audit = Audit()
    peers: tuple[Peer, ...] = ()
    users: tuple[User, ...] = ()

    @model_validator(mode="after")
    def _peers_have_titles_of_their_own(self) -> Self:
        titles = [peer.ae_title for peer in self.peers]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise ValueError(f"expected each AE title once in [[peers]], found more than one {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _users_have_names_of_their_own(self) -> Self:
        if len({user.name for user in self.users}) < len(self.users):
            raise ValueError("expected each name once in [[users]]")
        return self

    @model_validator(mode="after")
    def _somebody_is_let_in(self) -> Self:
        if self.access.users == "required" and not (self.users or self.jwt.key):
            raise ValueError('access.users = "required": expected [[users]] or jwt.key, or nobody is let in')
        pinned = next((peer.ae_title for peer in self.peers if peer.certificates), "")
        if pinned and self.tls.enabled and self.tls.client_certificates == "none":
            why = f"{pinned} in [[peers]] has certificates, and is asked for none"
            raise ValueError(f'{why}: expected tls.client_certificates = "optional" or "required"')
        return self

    @model_validator(mode="after")
    def _destinations_are_peers(self) -> Self:
        titles = {peer.ae_title for peer in self.peers}
        for peer in self.peers:
            for title in peer.destinations or ():
                if title not in titles:
                    raise ValueError(f"destinations of {peer.ae_title}: expected AE titles of [[peers]], not {title!r}")
        return self

    @model_validator(mode="after")
    def _encryption_has_what_it_needs(self) -> Self:
        tls = self.tls
        if tls.enabled and not (tls.certificate and tls.key):
            raise ValueError("tls.enabled = true needs tls.certificate and tls.key: expected the paths of PEM files")
        if self.web.tls and not (tls.certificate and tls.key):
            raise ValueError("web.tls = true needs tls.certificate and tls.key: expected the paths of PEM files")
        if tls.only and not tls.enabled:
            raise ValueError("tls.only = true: expected tls.enabled = true as well, or nothing is listened on")
        if tls.client_certificates != "none" and not tls.ca:
            raise ValueError("tls.client_certificates: expected tls.ca, the file of who signs them")
        return self

    @model_validator(mode="after")
    def _the_network_is_meant(self) -> Self:
        if self.access.callers == "anyone" and not self.access.open_to_network:
            for name, host in self._listened_on():
                if not is_loopback(host):
                    raise ValueError(
                        f"{name} = {host!r} listens beyond this machine while anyone may call: "
                        'expected access.callers = "peers", or access.open_to_network = true if that is meant'
                    )
        return self

    def _listened_on(self) -> Iterator[tuple[str, str]]:
        yield "server.host", self.server.host
        for address in self.server.listen:
            yield "server.listen", split_address(address)[0]
        if self.web.enabled:
            yield "web.host", self.web.host


def is_loopback(host: str) -> bool:
    """Whether listening on `host` is reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


LISTS: dict[str, type[Section]] = {"peers": Peer, "users": User}
"""The keys that are lists of tables, and what an entry of each is."""
