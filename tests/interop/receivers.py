"""Programs that retrieve a study with their default settings, by C-GET, by C-MOVE to themselves, or both.

Each is a function that leaves the received instances as files in the folders `got` and `moved`. Those that need another
interpreter are in the files `*_with_*` and `RetrieveWith*`.
"""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, build_role, evt
from pynetdicom.sop_class import (
    SecondaryCaptureImageStorage,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from tests.interop.orthanc import orthanc
from tests.pixels.samples import SYNTAXES
from tests.programs import PATIENCE, missing, needs, pixelmed, run, running, storescp
from tests.waiting import eventually

EXPLICIT, IMPLICIT, DEFLATED, BIG = (f"1.2.840.10008.1.2{end}" for end in (".1", "", ".1.99", ".2"))
HERE = Path(__file__).parent
NODE_MODULES = HERE.parents[1] / ".venv" / "node" / "node_modules"
"""Where .ci/run installs packages for Node.js."""


@dataclass(frozen=True)
class Retrieval:
    """A study in an archive, the AE title and port of the receiver, and the folders for what it receives."""

    archive: int
    ae_title: str
    port: int
    study: str
    series: str
    got: Path
    moved: Path

    def of_dcmtk(self, level: str = "STUDY") -> tuple[object, ...]:
        """Return the arguments of getscu and movescu for the study, or the series in it, and the archive."""
        keys = [f"QueryRetrieveLevel={level}", f"StudyInstanceUID={self.study}"]
        keys += [f"SeriesInstanceUID={self.series}"] if level == "SERIES" else []
        return ("-S", "-aec", "PACS", *(part for key in keys for part in ("-k", key)), "127.0.0.1", self.archive)

    @property
    def arguments(self) -> tuple[object, ...]:
        """The arguments of the programs in other languages."""
        return (self.archive, self.ae_title, self.port, self.study, self.got, self.moved)


def with_getscu(its: Retrieval) -> None:
    """Retrieve with DCMTK's getscu."""
    run("getscu", "-aet", its.ae_title, "-od", its.got, *its.of_dcmtk())


def with_movescu(its: Retrieval) -> None:
    """Retrieve with DCMTK's movescu and its own storage SCP."""
    run("movescu", "-aet", its.ae_title, "+P", its.port, "-od", its.moved, *its.of_dcmtk())


def with_storescp(its: Retrieval) -> None:
    """Let movescu move to DCMTK's storescp."""
    its.moved.rmdir()
    with storescp(its.moved, its.ae_title, "+x=", port=its.port):
        run("movescu", "-aem", its.ae_title, *its.of_dcmtk())


def with_pynetdicom(its: Retrieval) -> None:
    """Retrieve with pynetdicom, and its default transfer syntaxes."""
    scp, scu = AE(its.ae_title), AE(its.ae_title)
    scp.supported_contexts = AllStoragePresentationContexts
    models = StudyRootQueryRetrieveInformationModelGet, StudyRootQueryRetrieveInformationModelMove
    for each in (SecondaryCaptureImageStorage, *models):
        scu.add_requested_context(each)
    roles = [build_role(SecondaryCaptureImageStorage, scp_role=True)]
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", its.study
    listener = scp.start_server(("127.0.0.1", its.port), block=False, evt_handlers=_keep_in(its.moved))
    try:
        association = scu.associate(
            "127.0.0.1", its.archive, ae_title="PACS", ext_neg=roles, evt_handlers=_keep_in(its.got)
        )
        list(association.send_c_get(identifier, models[0]))
        list(association.send_c_move(identifier, its.ae_title, models[1]))
        association.release()
    finally:
        listener.shutdown()


def _keep_in(folder: Path) -> list[tuple[object, Callable[[evt.Event], int]]]:
    """Return the event handlers of an AE that writes what it receives."""

    def keep(event: evt.Event) -> int:
        (folder / event.request.AffectedSOPInstanceUID).write_bytes(event.encoded_dataset())
        return 0x0000

    return [(evt.EVT_C_STORE, keep)]


def with_odil(its: Retrieval) -> None:
    """Retrieve with odil, and let movescu move to its storage SCP.

    That accepts every transfer syntax, and aborts at deflated data sets, so only the series without them is moved.
    """
    python, program = needs("/usr/bin/python3"), HERE / "receive_with_odil.py"
    if subprocess.run([python, "-c", "import odil"], capture_output=True, check=False).returncode:
        missing("python3-odil")
    run(python, program, "get", its.archive, its.study, its.got)
    with running([python, program, "store", its.port, its.moved], its.moved.with_name("odil.log")) as process:
        eventually(lambda: _listens(its.port), 60)
        run("movescu", "-aem", its.ae_title, *its.of_dcmtk("SERIES"))
        assert process.wait(PATIENCE) == 0


def _listens(port: int) -> bool:
    """Return whether something listens on a port, without a connection: odil accepts a single one."""
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in lines)


def with_dcmjs(its: Retrieval) -> None:
    """Retrieve with dcmjs-dimse; its storage SCP is that of its README."""
    if not (NODE_MODULES / "dcmjs-dimse").exists():
        missing("dcmjs-dimse")
    run("node", HERE / "retrieve_with_dcmjs.cjs", *its.arguments, NODE_PATH=NODE_MODULES)


def with_pixelmed(its: Retrieval) -> None:
    """Retrieve with PixelMed."""
    pixelmed(HERE / "RetrieveWithPixelMed.java", its.arguments)


def with_orthanc(its: Retrieval) -> None:
    """Let Orthanc move a study to itself; it accepts every transfer syntax."""
    with orthanc(its.moved.with_name("orthanc"), its.archive, its.port, DicomAet=its.ae_title) as its_own:
        study = [{"StudyInstanceUID": its.study}]
        its_own.post("modalities/pacs/move", Level="Study", Resources=study, TargetAet=its.ae_title)
        for each in its_own.call("instances"):
            (its.moved / each).write_bytes(its_own.content(f"instances/{each}/file"))


@dataclass(frozen=True)
class Receiver:
    """A program, and the transfer syntaxes that it accepts by C-GET and by C-MOVE; none: it has not that operation."""

    name: str
    retrieve: Callable[[Retrieval], None]
    by_get: Sequence[str]
    by_move: Sequence[str]
    unreadable: Sequence[str] = ()
    """Transfer syntaxes that it accepts by C-MOVE although it cannot read them; it is not sent any."""

    @property
    def ae_title(self) -> str:
        """Its AE title."""
        return self.name.upper().replace(" ", "_")


UNCOMPRESSED = (EXPLICIT, IMPLICIT, BIG)
NEWER = tuple(f"1.2.840.10008.1.2.{end}" for end in ("4.110", "4.111", "4.112", "4.201", "4.202", "4.203", "8.1"))
"""JPEG XL, HTJ2K and Deflated Image Frame Compression."""

ESTABLISHED = (*UNCOMPRESSED, DEFLATED, *(each for each in SYNTAXES if each not in NEWER))

RECEIVERS = (
    Receiver("DCMTK getscu", with_getscu, by_get=[EXPLICIT], by_move=[]),
    Receiver("DCMTK movescu", with_movescu, by_get=[], by_move=UNCOMPRESSED),
    Receiver("DCMTK storescp", with_storescp, by_get=[], by_move=UNCOMPRESSED),
    Receiver("pynetdicom", with_pynetdicom, by_get=[EXPLICIT], by_move=[*UNCOMPRESSED, DEFLATED]),
    Receiver("odil", with_odil, by_get=[EXPLICIT], by_move=[*ESTABLISHED, *NEWER], unreadable=[DEFLATED]),
    Receiver("dcmjs-dimse", with_dcmjs, by_get=[EXPLICIT], by_move=[EXPLICIT, IMPLICIT]),
    Receiver("PixelMed", with_pixelmed, by_get=UNCOMPRESSED, by_move=[EXPLICIT, BIG, DEFLATED]),
    Receiver("Orthanc", with_orthanc, by_get=[], by_move=ESTABLISHED),
)
"""The stock receivers."""
