"""The configuration keys: one class per table of config.toml, with type, range, default and description of each key.

The docstring of a key is its description, `model_fields[key].description`. Times are in seconds, sizes in bytes.
Relative paths become absolute when the model is validated with a `base` folder in its context, else stay as they are.
"""

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

# --- types of values ---------------------------------------------------------------------------------------------


def _ae_title(text: str) -> str:
    """Return a valid AE title (PS3.5 6.2) without spaces around it. Raises ValueError."""
    title = text.strip(" ")
    if not 1 <= len(title) <= 16:
        raise ValueError("expected an AE title of 1 to 16 characters")
    if "\\" in title or not all(" " <= each <= "~" for each in title):
        raise ValueError("expected an AE title of ASCII characters without backslash or control characters")
    return title


def _foreign_ae_title(text: str) -> str:
    """Return an AE title of another program, which may be in Latin-1, without spaces around it. Raises ValueError.

    The standard allows ASCII only, so that this server has no such title.
    """
    title = text.strip(" ")
    if not 1 <= len(title) <= 16:
        raise ValueError("expected an AE title of 1 to 16 characters")
    if "\\" in title or not title.isprintable() or max(title) > "\xff":
        raise ValueError("expected an AE title of ASCII or Latin-1 characters without backslash or control characters")
    return title


def _host(text: str) -> str:
    """Return a host name or an IP address, an IPv6 address without brackets. Raises ValueError."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not host or len(host) > 253 or not all("!" <= each <= "~" for each in host):
        raise ValueError("expected a host name or an IP address")
    return host


def _address(text: str) -> str:
    """Check HOST:PORT, where an IPv6 address has brackets. Raises ValueError."""
    split_address(text)
    return text


def split_address(text: str) -> tuple[str, int]:
    """Return the host, without brackets, and the port of HOST:PORT. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (colon and port.isascii() and port.isdecimal() and int(port) <= 65535) or (":" in bare and bare == host):
        raise ValueError("expected HOST:PORT, for example 10.0.0.5:104 or [::1]:104")
    return _host(bare), int(port)


def _network(text: str) -> str:
    """Check an IP address or a network in CIDR notation. Raises ValueError."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise ValueError("expected an IP address or a network, for example 10.0.0.5 or 10.0.0.0/24") from None
    return text


def fingerprint(text: str) -> str:
    """Return a SHA-256 fingerprint, as openssl prints it or without colons, in lower case. Raises ValueError."""
    plain = text.rpartition("=")[2].replace(":", "").strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", plain):
        raise ValueError("expected a SHA-256 fingerprint as printed by `openssl x509 -noout -fingerprint -sha256`")
    return plain


def _passcode(text: str) -> str:
    from pacs.services.users import check_hash

    if text:
        check_hash(text)
    return text


def _base(info: ValidationInfo) -> Path | None:
    """Return the folder that relative paths start from, None if the context has none."""
    return info.context["base"] if info.context else None


def _database_url(url: str, info: ValidationInfo) -> str:
    """Return a database URL; the path in a SQLite URL becomes absolute. Raises ValueError."""
    if url.startswith(("postgresql+psycopg://", "postgresql://")):
        return url
    path = url.removeprefix("sqlite:///")
    if path == url or path in ("", ":memory:"):
        raise ValueError("expected sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME")
    base = _base(info)
    return url if base is None else f"sqlite:///{base / path}"


def _files_url(url: str, info: ValidationInfo) -> str:
    """Return a folder as absolute path, or an s3:// URL unchanged, which `settings` refuses. Raises ValueError."""
    if url.startswith("s3://"):
        return url
    if not url or "\0" in url or "://" in url:
        raise ValueError("expected a folder")
    base = _base(info)
    return url if base is None else str(base / url)


def _file(path: str, info: ValidationInfo) -> str:
    """Return the path of a file as absolute path, '' for none. Raises ValueError."""
    if "\0" in path or path.endswith("/"):
        raise ValueError("expected the path of a file")
    base = _base(info)
    return str(base / path) if path and base is not None else path


def _transfer_syntax(text: str) -> str:
    """Return the UID of a supported transfer syntax, given as UID or as keyword of PS3.6. Raises ValueError."""
    from pydicom.uid import UID

    from pacs.dicom.syntaxes import KEPT

    for uid in KEPT:
        if text in (uid, UID(uid).keyword):
            return uid
    raise ValueError("expected a transfer syntax, for example 'ExplicitVRLittleEndian' or '1.2.840.10008.1.2.1'")


def _target(text: str) -> str:
    """Return the UID of a transfer syntax that instances are converted into. Raises ValueError."""
    from pacs.pixels.target_names import targets_of

    (uid,) = targets_of([text])
    return uid


Address = Annotated[str, AfterValidator(_address)]
Network = Annotated[str, AfterValidator(_network)]
Fingerprint = Annotated[str, AfterValidator(fingerprint)]
FilePath = Annotated[str, AfterValidator(_file)]
AETitle = Annotated[str, AfterValidator(_ae_title)]
ForeignAETitle = Annotated[str, AfterValidator(_foreign_ae_title)]
Host = Annotated[str, AfterValidator(_host)]
Port = Annotated[int, Field(ge=0, le=65535)]
PeerPort = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Bytes = Annotated[int, Field(ge=4096, le=2**31)]
Bound = Annotated[int, Field(ge=0, le=10_000_000)]
"""A limit, 0 for none."""
MannerName = Literal["tolerant", "strict"]
ServiceName = Literal["store", "find", "move", "get", "commit"]
EVERY_SERVICE: tuple[ServiceName, ...] = ("store", "find", "move", "get", "commit")

# --- the sections -----------------------------------------------------------------------------------------------


class Section(BaseModel):
    """A table of the configuration; unknown keys are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _reject_bool_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject true and false where a number is expected, although bool is an int in Python."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation in (int, float):
            raise ValueError("expected a number")
        return value


class ServerSection(Section):
    """AE title, addresses and processes of the server."""

    ae_title: AETitle = "PACS"
    """AE title of the server, 1 to 16 characters."""
    host: Host = "127.0.0.1"
    """Address to listen on for DICOM associations; "0.0.0.0" is all IPv4 addresses, see `access`."""
    port: Port = 11112
    """TCP port for DICOM associations; 0 chooses a free port."""
    listen: tuple[Address, ...] = ()
    """Further addresses to listen on, such as "10.0.0.5:104" or "[::1]:11112"."""
    aliases: tuple[ForeignAETitle, ...] = ()
    """Further AE titles of the server, accepted where `access.called_ae` is "ours"."""
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = "auto"
    """Number of worker processes; "auto": one per CPU core, at most 4."""
    shared: bool = False
    """Whether other servers may use the same files and the same index at the same time."""


class DatabaseSection(Section):
    """The database of the index."""

    url: Annotated[str, AfterValidator(_database_url)] = Field("sqlite:///pacs-data/pacs.db", repr=False)
    """Database URL, "sqlite:///FILE" or "postgresql+psycopg://USER@HOST/NAME", the latter after `pacs db upgrade`."""
    wait_seconds: Seconds = 30.0
    """Seconds to wait for a database connection or lock; then the operation fails with an out-of-resources status."""
    heal: bool | Literal["answer"] = True
    """Whether to add files that the index lacks; queries are refused until then, with "answer" they are answered."""


class FilesSection(Section):
    """The file store."""

    url: Annotated[str, AfterValidator(_files_url)] = "pacs-data/files"
    """Folder of the stored instances."""
    verify: bool = False
    """Whether to compare each instance with its digest before it is sent or exported."""


class AccessSection(Section):
    """Access control of associations."""

    callers: Literal["anyone", "peers"] = "anyone"
    """Which calling AE titles may associate: "anyone", or only those of `peers`."""
    called_ae: Literal["any", "ours"] = "any"
    """Which called AE titles are accepted: "any", or only `server.ae_title` and `server.aliases` ("ours")."""
    services: tuple[ServiceName, ...] = EVERY_SERVICE
    """Services that callers outside `peers` may use."""
    users: Literal["ignored", "optional", "required"] = "ignored"
    """Whether a User Identity in the association request is ignored, checked if present, or required."""
    open_to_network: bool = False
    """Must be true to listen on other than loopback addresses while `callers` is "anyone"."""


class TlsSection(Section):
    """Associations with TLS 1.2 or newer (BCP 195), on a port of their own."""

    enabled: bool = False
    """Whether to accept associations with TLS; needs `certificate` and `key`."""
    port: Port = 2762
    """TCP port for associations with TLS, on the hosts of `server`."""
    certificate: FilePath = ""
    """PEM file with the certificate of the server and its intermediate certificates."""
    key: FilePath = ""
    """PEM file with the unencrypted private key of the certificate."""
    ca: FilePath = ""
    """PEM file with the CA certificates that sign the certificates of peers."""
    client_certificates: Literal["none", "optional", "required"] = "none"
    """Whether requestors must present a certificate signed by `ca`."""
    only: bool = False
    """Whether to accept only associations with TLS."""


class JwtSection(Section):
    """Verification of JSON Web Tokens that identify users; needs the extra "jwt"."""

    key: str = Field("", repr=False)
    """Secret for HS256, or public key in PEM for ES256; `PACS_JWT__KEY_FILE` reads it from a file."""
    algorithm: Literal["HS256", "ES256"] = "HS256"
    """Signature algorithm of the tokens."""
    audience: str = ""
    """Required audience of a token, "" for any."""
    issuer: str = ""
    """Required issuer of a token, "" for any."""


class QuerySection(Section):
    """Interpretation of queries and retrieves."""

    manner: MannerName = "tolerant"
    """Matching mode: "tolerant", or "strict" for exactly the standard; a peer may have its own."""
    explain: bool = False
    """Whether to log how each request was interpreted, with patient data."""


class StorageSection(Section):
    """Rules for received instances."""

    duplicates: Literal["keep", "replace", "reject"] = "keep"
    """What to do with a known SOP Instance UID: "keep" the stored instance, "replace" it, or "reject" the new one."""
    unknown_sop_classes: bool = False
    """Whether to store instances of SOP Classes that are not in the standard."""


class WebSection(Section):
    """The HTTP server."""

    enabled: bool = True
    """Whether to serve HTTP: /healthz, /readyz and /metrics."""
    host: Host = "127.0.0.1"
    """Address to listen on for HTTP."""
    port: Port = 8080
    """TCP port for HTTP; 0 chooses a free port."""
    tls: bool = False
    """Whether to serve HTTPS, with the certificate and key of `tls`."""


class LimitsSection(Section):
    """Limits that protect the server: seconds, bytes and counts."""

    associations: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Maximum number of simultaneous associations, in all workers together."""
    associations_per_address: Annotated[int, Field(ge=0, le=10_000)] = 50
    """Maximum number of simultaneous associations from one address, 0 for no limit."""
    associations_per_ae: Annotated[int, Field(ge=0, le=10_000)] = 50
    """Maximum number of simultaneous associations of one calling AE title, 0 for no limit."""
    pdu_size: Annotated[int, Field(ge=4096, le=16 * 2**20)] = 131_072
    """Maximum length of a received P-DATA-TF PDU, in bytes."""
    negotiation_seconds: Seconds = 10.0
    """Seconds from the connection to the complete A-ASSOCIATE-RQ."""
    idle_seconds: Seconds = 600.0
    """Seconds that an association may be idle between two messages."""
    message_seconds: Seconds = 60.0
    """Seconds to receive a message that has begun, and to wait for the response of a peer."""
    least_rate: Annotated[int, Field(ge=0, le=10_000_000)] = 1024
    """Bytes per second that a message must bring beyond `message_seconds`, 0 for any rate."""
    write_seconds: Seconds = 60.0
    """Seconds to wait for a peer that does not read."""
    connect_seconds: Seconds = 10.0
    """Seconds for a move destination to accept a connection, and again the association."""
    drain_seconds: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] = 20.0
    """Seconds for running operations to end when the server stops."""
    cancel_grace: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 5.0
    """Seconds for the running sub-operation to end after a C-CANCEL."""
    identifier_size: Bytes = 1_048_576
    """Maximum size of the Identifier of a query or retrieve, in bytes."""
    identifier_elements: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    """Maximum number of elements and items of an Identifier."""
    elements: Annotated[int, Field(ge=1, le=100_000_000)] = 1_000_000
    """Maximum number of elements and items of a data set to store."""
    inflated_size: Bytes = 2**31
    """Maximum size of an inflated data set (Deflated Explicit VR Little Endian), in bytes."""
    free_space: Annotated[int, Field(ge=0, le=2**50)] = 268_435_456
    """Bytes to keep free on the disk of the files; with less, instances are refused."""
    decoders: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] = "auto"
    """Maximum number of processes that decode and encode frames, in all workers together; "auto": one per CPU core."""
    query_answers: Bound = 0
    """Maximum number of matches of one query, 0 for no limit; more end it with status A700."""
    query_scan: Count = 200_000
    """Maximum number of rows that one query compares outside the database, where the index cannot decide."""
    retrieve_studies: Count = 100
    """Maximum number of studies that one retrieve may select by other than unique keys."""
    pending_every: Count = 1
    """Number of sub-operations after which a retrieve sends a Pending response."""
    pending_seconds: Seconds = 10.0
    """Seconds after which a retrieve sends a Pending response at the latest."""


class ClientsSection(Section):
    """Remedies for known defects of clients, recognised by their Implementation Class UID and Version Name."""

    pynetdicom_hold: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 0.016
    """Least delay of a request of pynetdicom, which can lose faster responses, in seconds; 0 for no delay."""
    gdcm_one_syntax: bool = True
    """Whether C-MOVE sends to GDCM only in the transfer syntax that it accepted last, the only one it reads."""


class CommitmentSection(Section):
    """Storage commitment."""

    same_association_seconds: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 1.0
    """Idle seconds after which the report is sent on the association of the request; 0 always opens a new one."""
    first_retry_seconds: Seconds = 30.0
    """Seconds before a failed report is repeated; doubled after each further failure."""
    longest_retry_seconds: Seconds = 3600.0
    """Maximum seconds between two attempts to report."""
    give_up_seconds: Annotated[float, Field(gt=0, le=31_536_000, allow_inf_nan=False)] = 259_200.0
    """Seconds after which a report that has failed often enough is no longer attempted."""
    instances: Annotated[int, Field(ge=1, le=100_000)] = 25_000
    """Maximum number of instances of one request."""
    active: Count = 10_000
    """Maximum number of transactions without report; AEs outside `peers` may use a tenth of them."""
    active_per_peer: Count = 1_000
    """Maximum number of transactions without report of one AE title."""


class LogSection(Section):
    """The log, written to standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level that is logged."""
    format: Literal["console", "json"] = "console"
    """Format of the log: "console" for people, "json" for one JSON object per line."""


class MetricsSection(Section):
    """Metrics for Prometheus."""

    enabled: bool = True
    """Whether to count events and serve /metrics."""


class AuditSection(Section):
    """The audit log."""

    file: FilePath = ""
    """File for records of who stored, queried, retrieved and deleted what, with patient data; "" for none."""


class PeerEntry(Section):
    """A known remote AE: a move destination, and a permitted caller where `access.callers` is "peers"."""

    ae_title: ForeignAETitle
    """AE title of the peer; in Latin-1 if it is not ASCII."""
    host: Host
    """Host name or address of the peer as move destination."""
    port: PeerPort
    """TCP port of the peer as move destination."""
    manner: MannerName | None = None
    """Matching mode for this peer; without it, `query.manner`."""
    transfer_syntaxes: tuple[Annotated[str, AfterValidator(_transfer_syntax)], ...] = ()
    """Preferred transfer syntaxes, as UIDs or keywords, among those the peer proposes; empty: the order of the peer."""
    send_as: tuple[Annotated[str, AfterValidator(_target)], ...] = ()
    """Transfer syntaxes to convert into if the peer does not accept the stored one, best first; then uncompressed."""
    associations: Annotated[int, Field(ge=1, le=16)] = 1
    """Maximum number of parallel associations of one C-MOVE to this peer."""
    services: tuple[ServiceName, ...] = EVERY_SERVICE
    """Services that the peer may use."""
    addresses: tuple[Network, ...] = ()
    """Addresses and networks from which the peer may call, such as "10.0.0.0/24"; empty for any."""
    destinations: tuple[ForeignAETitle, ...] | None = None
    """AE titles of `peers` to which the peer may move instances; without it, all."""
    tls: bool = False
    """Whether to connect to the peer with TLS."""
    certificates: tuple[Fingerprint, ...] = ()
    """SHA-256 fingerprints of which the peer's certificate must have one, as requestor and as acceptor."""
    roles: Literal["strict", "lenient"] = "strict"
    """Whether the peer is assumed to have roles that it does not negotiate: it receives by C-GET, and takes reports."""
    explain: bool = False
    """Whether to log how each request of this peer was interpreted, with patient data."""


class UserEntry(Section):
    """A user who may be named in the User Identity of an association request."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    """User name."""
    passcode: Annotated[str, AfterValidator(_passcode)] = Field("", repr=False)
    """Hash of the passcode, printed by `pacs passcode`; "" accepts the name alone."""


def _require_unique(peers: tuple[PeerEntry, ...]) -> None:
    titles = [peer.ae_title for peer in peers]
    twice = sorted({title for title in titles if titles.count(title) > 1})
    if twice:
        raise ValueError(f"[[peers]] has AE titles more than once: {', '.join(twice)}; expected one block for each")


class PeersContent(Section):
    """The content of `peers.toml`, which `pacs peers` writes."""

    peers: tuple[PeerEntry, ...] = ()

    @model_validator(mode="after")
    def _check_unique_peers(self) -> Self:
        _require_unique(self.peers)
        return self


class Config(Section):
    """The whole configuration. `Config()` has the defaults; `load` reads all sources."""

    server: ServerSection = ServerSection()
    database: DatabaseSection = DatabaseSection()
    files: FilesSection = FilesSection()
    access: AccessSection = AccessSection()
    tls: TlsSection = TlsSection()
    jwt: JwtSection = JwtSection()
    query: QuerySection = QuerySection()
    storage: StorageSection = StorageSection()
    limits: LimitsSection = LimitsSection()
    clients: ClientsSection = ClientsSection()
    commitment: CommitmentSection = CommitmentSection()
    log: LogSection = LogSection()
    web: WebSection = WebSection()
    metrics: MetricsSection = MetricsSection()
    audit: AuditSection = AuditSection()
    peers: tuple[PeerEntry, ...] = ()
    users: tuple[UserEntry, ...] = ()

    @model_validator(mode="after")
    def _check_unique_peers(self) -> Self:
        _require_unique(self.peers)
        return self

    @model_validator(mode="after")
    def _check_unique_users(self) -> Self:
        if len({user.name for user in self.users}) < len(self.users):
            raise ValueError("[[users]] has a name more than once; expected one block for each")
        return self

    @model_validator(mode="after")
    def _check_users_and_certificates(self) -> Self:
        if self.access.users == "required" and not (self.users or self.jwt.key):
            raise ValueError(
                'access.users = "required": expected [[users]] or jwt.key, else every association is rejected'
            )
        pinned = next((peer.ae_title for peer in self.peers if peer.certificates), "")
        if pinned and self.tls.enabled and self.tls.client_certificates == "none":
            why = f"[[peers]] has certificates for {pinned}, but no certificate is requested"
            raise ValueError(f'{why}: expected tls.client_certificates = "optional" or "required"')
        return self

    @model_validator(mode="after")
    def _check_destinations(self) -> Self:
        titles = {peer.ae_title for peer in self.peers}
        for peer in self.peers:
            for title in peer.destinations or ():
                if title not in titles:
                    raise ValueError(f"destinations of {peer.ae_title}: expected AE titles of [[peers]], not {title!r}")
        return self

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        tls = self.tls
        if tls.enabled and not (tls.certificate and tls.key):
            raise ValueError("tls.enabled = true needs tls.certificate and tls.key: expected the paths of PEM files")
        if self.web.tls and not (tls.certificate and tls.key):
            raise ValueError("web.tls = true needs tls.certificate and tls.key: expected the paths of PEM files")
        if tls.only and not tls.enabled:
            raise ValueError(
                "tls.only = true: expected tls.enabled = true as well, else the server has no port to listen on"
            )
        if tls.client_certificates != "none" and not tls.ca:
            raise ValueError("tls.client_certificates: expected tls.ca, the file of the CA certificates that sign them")
        return self

    @model_validator(mode="after")
    def _check_open_to_network(self) -> Self:
        if self.access.callers == "anyone" and not self.access.open_to_network:
            for name, host in self._listen_hosts():
                if not is_loopback(host):
                    raise ValueError(
                        f"{name} = {host!r} accepts connections from the network while any AE may associate: "
                        'expected access.callers = "peers", or access.open_to_network = true if this is intended'
                    )
        return self

    def _listen_hosts(self) -> Iterator[tuple[str, str]]:
        yield "server.host", self.server.host
        for address in self.server.listen:
            yield "server.listen", split_address(address)[0]
        if self.web.enabled:
            yield "web.host", self.web.host


def is_loopback(host: str) -> bool:
    """Return whether a listener on `host` is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


REMOVED = ("limits.nesting", "limits.query_page")
"""Keys of the previous release, which are ignored."""

LISTS: dict[str, type[Section]] = {"peers": PeerEntry, "users": UserEntry}
"""The keys that are lists of tables, with the class of their entries."""
