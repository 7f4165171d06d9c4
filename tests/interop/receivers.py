"""Programs that retrieve a study with their default settings, by C-GET, by C-MOVE to themselves, or both.

Each is a function that leaves the received instances as files in the folders `got` and `moved`; most are requestors
(`tests.interop.requestors`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.interop import requestors
from tests.pixels.samples import SYNTAXES
from tests.programs import run, storescp

EXPLICIT, IMPLICIT, DEFLATED, BIG = (f"1.2.840.10008.1.2{end}" for end in (".1", "", ".1.99", ".2"))


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
    def caller(self) -> requestors.Caller:
        """The receiver as a requestor."""
        return requestors.Caller(self.archive, self.ae_title, self.port)


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


def with_odil(its: Retrieval) -> None:
    """Retrieve with odil, and let movescu move to its storage SCP.

    That accepts every transfer syntax, and aborts at deflated data sets, so only the series without them is moved.
    """
    requestors.with_odil(its.caller, "get", its.study, its.got)
    with requestors.odil_scp(its.caller, its.moved):
        run("movescu", "-aem", its.ae_title, *its.of_dcmtk("SERIES"))


def get_and_move(run_requestor: Callable[..., object]) -> Callable[[Retrieval], None]:
    """Return a function that lets a requestor retrieve a study by C-GET and C-MOVE."""

    def retrieve(its: Retrieval) -> None:
        run_requestor(its.caller, "get", its.study, its.got, "move", its.study, its.moved)

    return retrieve


def with_orthanc(its: Retrieval) -> None:
    """Let Orthanc move a study to itself; it accepts every transfer syntax."""
    requestors.with_orthanc(its.caller, "move", its.study, its.moved)


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
    Receiver(
        "pynetdicom", get_and_move(requestors.with_pynetdicom), by_get=[EXPLICIT], by_move=[*UNCOMPRESSED, DEFLATED]
    ),
    Receiver("odil", with_odil, by_get=[EXPLICIT], by_move=[*ESTABLISHED, *NEWER], unreadable=[DEFLATED]),
    Receiver("dcmjs-dimse", get_and_move(requestors.with_dcmjs), by_get=[EXPLICIT], by_move=[EXPLICIT, IMPLICIT]),
    Receiver(
        "PixelMed", get_and_move(requestors.with_pixelmed), by_get=UNCOMPRESSED, by_move=[EXPLICIT, BIG, DEFLATED]
    ),
    Receiver("Orthanc", with_orthanc, by_get=[], by_move=ESTABLISHED),
)
"""The stock receivers."""
