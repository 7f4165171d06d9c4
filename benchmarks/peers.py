"""The measured systems: this archive, three other servers, and the limit. Each is a process of its own.

Every system writes to a folder of its own on the same disk, listens on a free port of 127.0.0.1, and knows the sink as
the move destination SINK. `pacs` has its default configuration, and so has `orthanc`, except that it syncs its files.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.postgres import postgres
from benchmarks.processes import free_port, program, running
from benchmarks.relay import relay
from benchmarks.wire import FAR_WINDOW, MAX_PDU

SINK = "SINK"
FAR = "FAR"
"""The sink behind a relay of 20 ms round trip."""

FAR_ASSOCIATIONS = (1, 4)
"""This archive also knows FAR1 and FAR4, to which it may open so many associations, and FARWINDOW."""

REPOSITORY = Path(__file__).parent.parent
GDCM_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancGdcm.so")


@dataclass(frozen=True)
class System:
    """A running system and its capacity."""

    name: str
    ae_title: str
    port: int
    pid: int
    folder: Path
    secure: bool = False
    """The port takes associations with TLS."""


@dataclass(frozen=True)
class Certificate:
    """The PEM files of a certificate, its private key, and the authority that signed it."""

    certificate: Path
    key: Path
    authority: Path


def make_certificate(folder: Path) -> Certificate:
    """Write a certificate for this machine."""
    import trustme

    made = Certificate(folder / "certificate.pem", folder / "key.pem", folder / "authority.pem")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(made.authority)
    issued.cert_chain_pems[0].write_to_path(made.certificate)
    issued.private_key_pem.write_to_path(made.key)
    return made


@dataclass(frozen=True)
class Site:
    """The environment of a system: its folder, the ports of its move destinations, and settings as for `--set`."""

    folder: Path
    sink_port: int = 1
    settings: Sequence[str] = field(default=())
    far_port: int = 1
    certificate: Certificate | None = None
    """With a certificate the associations are encrypted."""


Start = Callable[[Site], AbstractContextManager[System]]


@contextmanager
def pacs(site: Site, url: str = "", name: str = "pacs", workers: int | None = None) -> Iterator[System]:
    """Run this archive as it ships, by default on SQLite; `workers` is the number of processes where it is set."""
    port, secure_port = free_port(), free_port() if site.certificate else 0
    site.folder.mkdir(parents=True, exist_ok=True)
    configuration = site.folder / "config.toml"
    configuration.write_text(
        f"[server]\nport = {port}\n{f'workers = {workers}' if workers else ''}\n"
        f'[database]\nurl = "{url or "sqlite:///pacs.db"}"\n[files]\nurl = "files"\n[web]\nport = 0\n'
        f"{_peers(site)}{_tls(site.certificate, secure_port)}"
    )
    settings = [part for each in site.settings for part in ("--set", each)]
    command = [sys.executable, "-m", "pacs", "serve", "--config", configuration, *settings]
    with running(command, site.folder, port, {"PYTHONPATH": str(REPOSITORY)}) as pid:
        yield System(name, "PACS", secure_port or port, pid, site.folder, secure=bool(secure_port))


def _peers(site: Site) -> str:
    """Return the move destinations; only FAR1 and FAR4 set how many associations they take."""
    ports = {SINK: site.sink_port, FAR: site.far_port, FAR_WINDOW: site.far_port}
    tables = [f'ae_title = "{name}"\nport = {port}\n' for name, port in ports.items()]
    tables += [
        f'ae_title = "{FAR}{most}"\nport = {site.far_port}\nassociations = {most}\n' for most in FAR_ASSOCIATIONS
    ]
    return "".join(f'[[peers]]\nhost = "127.0.0.1"\n{table}' for table in tables)


def _tls(made: Certificate | None, port: int) -> str:
    if made is None:
        return ""
    return f'[tls]\nenabled = true\nport = {port}\ncertificate = "{made.certificate}"\nkey = "{made.key}"\n'


@contextmanager
def pacs_on_postgres(site: Site, name: str = "pacs-postgres", workers: int | None = None) -> Iterator[System]:
    """Run this archive with a PostgreSQL server of its own."""
    site.folder.mkdir(parents=True)
    with postgres(site.folder) as url, pacs(site, url, name, workers) as system:
        yield system


@contextmanager
def orthanc(site: Site, name: str = "orthanc", **more: object) -> Iterator[System]:
    """Run Orthanc; `more` are further settings."""
    port = free_port()
    site.folder.mkdir(parents=True)
    settings = {
        "Name": "benchmark",
        "StorageDirectory": str(site.folder / "storage"),
        "IndexDirectory": str(site.folder / "storage"),
        "SyncStorageArea": True,
        "HttpServerEnabled": False,
        "DicomPort": port,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowMove": True,
        "DicomAlwaysAllowGet": True,
        "DicomModalities": {
            "sink": [SINK, "127.0.0.1", site.sink_port],
            "far": [FAR, "127.0.0.1", site.far_port],
        },
        **_orthanc_tls(site.certificate),
        **more,
    }
    (site.folder / "orthanc.json").write_text(json.dumps(settings))
    with running([program("Orthanc"), site.folder / "orthanc.json"], site.folder, port) as pid:
        yield System(name, "ORTHANC", port, pid, site.folder, secure=site.certificate is not None)


def _orthanc_tls(made: Certificate | None) -> dict[str, object]:
    if made is None:
        return {}
    return {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(made.certificate),
        "DicomTlsPrivateKey": str(made.key),
        "DicomTlsTrustedCertificates": str(made.authority),
        "DicomTlsRemoteCertificateRequired": False,
    }


TUNED: dict[str, object] = {
    "DicomThreadsCount": 128,
    "MaximumPduLength": MAX_PDU,
    "StoreMD5ForAttachments": False,
}
"""Settings that make Orthanc faster and keep it durable."""


def orthanc_tuned(site: Site, name: str = "orthanc-tuned", **more: object) -> AbstractContextManager[System]:
    """Run Orthanc with enough threads, long PDUs and without its own digests."""
    return orthanc(site, name, **TUNED, **more)


def orthanc_on_database(site: Site) -> AbstractContextManager[System]:
    """Run a tuned Orthanc with C-FIND responses from its database only."""
    return orthanc_tuned(site, "orthanc-db", StorageAccessOnFind="Never")


def orthanc_with_gdcm(site: Site) -> AbstractContextManager[System]:
    """Run a tuned Orthanc with its plugin that converts images with GDCM instead of DCMTK."""
    return orthanc_tuned(site, "orthanc-gdcm", Plugins=[str(GDCM_PLUGIN)])


@contextmanager
def dcmqrscp(site: Site) -> Iterator[System]:
    """Run DCMTK's archive: it reads one index file from its beginning, and holds some hundred studies."""
    port, storage = free_port(), site.folder / "storage"
    storage.mkdir(parents=True)
    configuration = site.folder / "dcmqrscp.cfg"
    configuration.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = {MAX_PDU}\nMaxAssociations = 200\n"
        f"HostTable BEGIN\nsink = ({SINK}, localhost, {site.sink_port})\n"
        f"far = ({FAR}, localhost, {site.far_port})\nHostTable END\n"
        "VendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nDCMQRSCP {storage} RW (500, 1024mb) ANY\nAETable END\n"
    )
    with running([program("dcmqrscp"), "-c", configuration], site.folder, port) as pid:
        yield System("dcmqrscp", "DCMQRSCP", port, pid, site.folder)


@contextmanager
def qrscp(site: Site) -> Iterator[System]:
    """Run pynetdicom's archive; it accepts ten associations at a time."""
    port = free_port()
    site.folder.mkdir(parents=True)
    configuration = site.folder / "qrscp.ini"
    configuration.write_text(
        f"[DEFAULT]\nae_title: QRSCP\nport: {port}\nmax_pdu: {MAX_PDU}\nacse_timeout: 30\ndimse_timeout: 60\n"
        f"network_timeout: 60\nbind_address: 127.0.0.1\ninstance_location: {site.folder / 'instances'}\n"
        f"database_location: {site.folder / 'instances.sqlite'}\n[{SINK}]\naddress: 127.0.0.1\nport: {site.sink_port}\n"
        f"[{FAR}]\naddress: 127.0.0.1\nport: {site.far_port}\n"
    )
    command = [sys.executable, "-m", "pynetdicom", "qrscp", "-c", configuration]
    with running(command, site.folder, port) as pid:
        yield System("qrscp", "QRSCP", port, pid, site.folder)


@contextmanager
def limit(site: Site) -> Iterator[System]:
    """Run the program that only reads, writes and fsyncs."""
    port, storage = free_port(), site.folder / "storage"
    storage.mkdir(parents=True)
    with _limit("limit", site.folder, port, storage) as system:
        yield system


@contextmanager
def sink(site: Site, *options: str) -> Iterator[System]:
    """Run the program that only responds."""
    with _limit("sink", site.folder, free_port(), *options) as system:
        yield system


@contextmanager
def _limit(name: str, folder: Path, port: int, *arguments: object) -> Iterator[System]:
    command = [sys.executable, "-m", "benchmarks.limit", port, *arguments]
    with running(command, folder, port, {"PYTHONPATH": str(REPOSITORY)}) as pid:
        yield System(name, SINK, port, pid, folder)


WORKERS = {
    "SQLite": {1: "pacs-1", 2: "pacs-2", 4: "pacs-4"},
    "PostgreSQL": {1: "pacs-postgres-1", 2: "pacs-postgres-2", 4: "pacs-postgres-4"},
}
"""This archive with a set number of workers: the system names by database and number of workers."""

POSTGRES = ("pacs-postgres", *WORKERS["PostgreSQL"].values())

SYSTEMS: dict[str, Start] = {
    "pacs": pacs,
    **{name: partial(pacs, name=name, workers=count) for count, name in WORKERS["SQLite"].items()},
    "pacs-postgres": pacs_on_postgres,
    **{name: partial(pacs_on_postgres, name=name, workers=count) for count, name in WORKERS["PostgreSQL"].items()},
    "orthanc": orthanc,
    "orthanc-tuned": orthanc_tuned,
    "orthanc-db": orthanc_on_database,
    "orthanc-gdcm": orthanc_with_gdcm,
    "dcmqrscp": dcmqrscp,
    "qrscp": qrscp,
    "limit": limit,
    "sink": sink,
}
"""Starts each system, in the order of the columns of the table."""

MOST_STUDIES = {"dcmqrscp": 480, "qrscp": 1000}
"""How many studies a system holds, or is given because it is slow."""

MOST_ASSOCIATIONS = {"qrscp": 8}

PEERS = ("orthanc", "orthanc-tuned", "orthanc-db", "orthanc-gdcm", "dcmqrscp", "qrscp")
"""The systems that this archive is compared with."""

NEEDS = {
    **dict.fromkeys(("orthanc", "orthanc-tuned", "orthanc-db", "orthanc-gdcm"), "Orthanc"),
    "dcmqrscp": "dcmqrscp",
}
"""The program that must be installed for a system."""


def is_installed(name: str) -> bool:
    """Return whether a system is installed."""
    if name in POSTGRES:
        from benchmarks.postgres import programs

        return programs() is not None
    if name == "orthanc-gdcm" and not GDCM_PLUGIN.exists():
        return False
    return name not in NEEDS or program(NEEDS[name]) is not None


@contextmanager
def destinations(folder: Path, *, uncompressed: bool = False) -> Iterator[tuple[int, int]]:
    """Run the sink and the relay before it, and yield their ports. Raises NotRunning.

    With `uncompressed` the sink accepts only uncompressed transfer syntaxes.
    """
    options = ["--uncompressed"] if uncompressed else []
    with sink(Site(folder / "sink"), *options) as system, relay(folder / "relay", system.port) as port:
        yield system.port, port


@contextmanager
def systems(names: Sequence[str], folder: Path, settings: Sequence[str]) -> Iterator[list[System]]:
    """Run these systems, each in a folder of its own. Raises NotRunning."""
    with ExitStack() as stack:
        yield [stack.enter_context(SYSTEMS[name](Site(folder / name, settings=settings))) for name in names]
