"""The seven stock requestors: each does the operations that its program has, with its default settings.

All take the same words: any of `echo`, `store FOLDER`, `find PATIENT_ID`, `get STUDY FOLDER`, `move STUDY FOLDER`. They
return an outcome for each operation: `statuses` of `echo` and `store`, `status` and `names` of `find`, `status` and
`completed` of `get` and `move`, as the program reports them.
"""

import json
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from http import HTTPStatus
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError

from pydicom import Dataset, dcmread
from pynetdicom import AE, AllStoragePresentationContexts, build_role, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from tests.interop import orthanc as orthanc_server
from tests.programs import PATIENCE, missing, needs, pixelmed, run, running
from tests.waiting import eventually

HERE = Path(__file__).parent
NODE_MODULES = HERE.parents[1] / ".venv" / "node" / "node_modules"
"""Where .ci/run installs packages for Node.js."""

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Caller:
    """The port of the archive, and the AE title and port of the requestor."""

    archive: int
    ae_title: str
    port: int

    @property
    def arguments(self) -> tuple[object, ...]:
        """The first arguments of the programs in other languages."""
        return self.archive, self.ae_title, self.port


def perform(operations: object, words: Sequence[object]) -> list[Outcome]:
    """Call the methods of an object that are named by words, with the words that follow as arguments."""
    rest, outcomes = list(words), []
    while rest:
        operation = getattr(operations, str(rest.pop(0)))
        arguments = [rest.pop(0) for _ in signature(operation).parameters]
        outcomes.append({"operation": operation.__name__, **operation(*arguments)})
    return outcomes


# --- DCMTK ---------------------------------------------------------------------------------------------------------


class Dcmtk:
    """echoscu, storescu, findscu, getscu and movescu."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    def echo(self) -> Outcome:
        """Verify the association."""
        return {"statuses": _successes(self._run("echoscu", "-v"), "Received Echo Response")}

    def store(self, folder: Path) -> Outcome:
        """Send all files of a folder."""
        return {"statuses": _successes(self._run("storescu", "-v", behind=["+sd", folder]), "Received Store Response")}

    def find(self, patient_id: str) -> Outcome:
        """Find the studies of patients; findscu writes each match to a file."""
        keys = _as_keys(PatientID=patient_id, PatientName="", StudyInstanceUID="")
        with TemporaryDirectory() as folder:
            printed = self._run("findscu", "-v", "-S", "-X", "-od", folder, *keys)
            names = [str(dcmread(path).PatientName) for path in sorted(Path(folder).iterdir())]
        (status,) = _successes(printed, "Received Final Find Response")
        return {"status": status, "names": names}

    def get(self, study: str, folder: Path) -> Outcome:
        """Retrieve a study by C-GET."""
        return _final_counts(self._run("getscu", "-d", "-S", "-od", folder, *_as_keys(StudyInstanceUID=study)))

    def move(self, study: str, folder: Path) -> Outcome:
        """Retrieve a study by C-MOVE to the storage SCP of movescu."""
        port = ["+P", self.caller.port, "-od", folder]
        return _final_counts(self._run("movescu", "-d", "-S", *port, *_as_keys(StudyInstanceUID=study)))

    def _run(self, program: str, *options: object, behind: Sequence[object] = ()) -> str:
        titles = ["-aet", self.caller.ae_title, "-aec", "PACS"]
        return run(program, *options, *titles, "127.0.0.1", self.caller.archive, *behind)


def _as_keys(**values: object) -> list[object]:
    """Return an Identifier at the study level as options of DCMTK."""
    keys = {"QueryRetrieveLevel": "STUDY", **values}
    return [part for keyword, value in keys.items() for part in ("-k", f"{keyword}={value}")]


def _successes(printed: str, response: str) -> list[int]:
    """Return a status for each response that a program of DCMTK printed: 0 for success, else 1."""
    return [int(each != "Success") for each in re.findall(rf"{response} \((.+?)\)", printed)]


def _final_counts(printed: str) -> Outcome:
    """Return status and completed sub-operations of the last response that a program of DCMTK printed."""
    *_, completed = re.findall(r"Completed Suboperations +: (\d+)", printed)
    *_, status = re.findall(r"DIMSE Status +: 0x([0-9a-f]{4})", printed)
    return {"status": int(status, 16), "completed": int(completed)}


# --- pynetdicom ----------------------------------------------------------------------------------------------------


class Pynetdicom:
    """pynetdicom in this process, with its default transfer syntaxes."""

    STORAGE = (CTImageStorage, MRImageStorage, SecondaryCaptureImageStorage)

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    def echo(self) -> Outcome:
        """Verify the association."""
        association = self._associated(Verification)
        status = association.send_c_echo().Status
        association.release()
        return {"statuses": [status]}

    def store(self, folder: Path) -> Outcome:
        """Send all files of a folder."""
        association = self._associated(*self.STORAGE)
        statuses = [association.send_c_store(path).Status for path in sorted(folder.iterdir())]
        association.release()
        return {"statuses": statuses}

    def find(self, patient_id: str) -> Outcome:
        """Find the studies of patients."""
        model = StudyRootQueryRetrieveInformationModelFind
        association = self._associated(model)
        keys = _identifier(PatientID=patient_id, PatientName="", StudyInstanceUID="")
        *matches, (final, _) = association.send_c_find(keys, model)
        association.release()
        return {"status": final.Status, "names": [str(match.PatientName) for _, match in matches]}

    def get(self, study: str, folder: Path) -> Outcome:
        """Retrieve a study by C-GET."""
        model = StudyRootQueryRetrieveInformationModelGet
        roles = [build_role(each, scp_role=True) for each in self.STORAGE]
        association = self._associated(model, *self.STORAGE, ext_neg=roles, evt_handlers=_keep_in(folder))
        *_, (final, _) = association.send_c_get(_identifier(StudyInstanceUID=study), model)
        association.release()
        return {"status": final.Status, "completed": final.NumberOfCompletedSuboperations}

    def move(self, study: str, folder: Path) -> Outcome:
        """Retrieve a study by C-MOVE to a storage SCP of pynetdicom."""
        model = StudyRootQueryRetrieveInformationModelMove
        scp = AE(self.caller.ae_title)
        scp.supported_contexts = AllStoragePresentationContexts
        listener = scp.start_server(("127.0.0.1", self.caller.port), block=False, evt_handlers=_keep_in(folder))
        try:
            association = self._associated(model)
            keys = _identifier(StudyInstanceUID=study)
            *_, (final, _) = association.send_c_move(keys, self.caller.ae_title, model)
            association.release()
        finally:
            listener.shutdown()
        return {"status": final.Status, "completed": final.NumberOfCompletedSuboperations}

    def _associated(self, *sop_classes: str, **more: Any) -> Any:
        ae = AE(self.caller.ae_title)
        for each in sop_classes:
            ae.add_requested_context(each)
        association = ae.associate("127.0.0.1", self.caller.archive, ae_title="PACS", **more)
        assert association.is_established
        return association


def _identifier(**values: str) -> Dataset:
    """Return an Identifier at the study level."""
    keys = Dataset()
    for keyword, value in {"QueryRetrieveLevel": "STUDY", **values}.items():
        setattr(keys, keyword, value)
    return keys


def _keep_in(folder: Path) -> list[tuple[object, Callable[[evt.Event], int]]]:
    """Return the event handlers of an AE that writes what it receives."""

    def keep(event: evt.Event) -> int:
        (folder / event.request.AffectedSOPInstanceUID).write_bytes(event.encoded_dataset())
        return 0x0000

    return [(evt.EVT_C_STORE, keep)]


# --- programs in other languages ------------------------------------------------------------------------------------


def with_odil(caller: Caller, *words: object) -> list[Outcome]:
    """Run odil in Debian's Python, and its storage SCP for a C-MOVE."""
    with odil_scp(caller, Path(str(words[words.index("move") + 2]))) if "move" in words else nullcontext():
        return _outcomes(run(*_odil(), *caller.arguments, *words))


@contextmanager
def odil_scp(caller: Caller, folder: Path) -> Iterator[None]:
    """Run odil's storage SCP, which receives what is sent on one association."""
    with running([*_odil(), *caller.arguments, "receive", folder], folder.with_name("odil.log")) as process:
        eventually(lambda: _listens(caller.port), 60)
        yield
        assert process.wait(PATIENCE) == 0


def _listens(port: int) -> bool:
    """Return whether something listens on a port, without a connection: odil accepts a single one."""
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in lines)


def _odil() -> tuple[str, Path]:
    """Return the command of the program with odil."""
    python = needs("/usr/bin/python3")
    if subprocess.run([python, "-c", "import odil"], capture_output=True, check=False).returncode:
        missing("python3-odil")
    return python, HERE / "odil_requestor.py"


def with_dcmjs(caller: Caller, *words: object) -> list[Outcome]:
    """Run dcmjs-dimse on Node.js."""
    if not (NODE_MODULES / "dcmjs-dimse").exists():
        missing("dcmjs-dimse")
    return _outcomes(run("node", HERE / "dcmjs_requestor.cjs", *caller.arguments, *words, NODE_PATH=NODE_MODULES))


def with_pixelmed(caller: Caller, *words: object) -> list[Outcome]:
    """Run PixelMed on a JVM."""
    return _outcomes(pixelmed(HERE / "PixelMedRequestor.java", [*caller.arguments, *words]))


def _outcomes(printed: str) -> list[Outcome]:
    """Return the outcomes that a program printed, one line of JSON each."""
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


# --- gdcmscu -------------------------------------------------------------------------------------------------------


class Gdcm:
    """gdcmscu: its debug output is read, because it aborts at the release of each association before it prints."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    def echo(self) -> Outcome:
        """Verify the association."""
        return {"statuses": _gdcm_statuses(self._run("--echo"))[:1]}  # it prints this one more than twice

    def store(self, folder: Path) -> Outcome:
        """Send all files of a folder."""
        return {"statuses": _gdcm_statuses(self._run("--store", "-r", "-i", folder))}

    def find(self, patient_id: str) -> Outcome:
        """Find the studies of patients; the names of the matches are not shown."""
        *pending, final = _gdcm_statuses(self._run("--find", "--studyroot", "--study", "--key", f"10,20={patient_id}"))
        return {"status": final, "names": [None for status in pending if status == 0xFF00]}

    def get(self, study: str, folder: Path) -> Outcome:
        """Try a C-GET, which is among the options."""
        printed = self._run("--get", "--studyroot", "--study", "--key", f"20,d={study}", "-o", folder)
        return {"missing": printed == ""}

    def move(self, study: str, folder: Path) -> Outcome:
        """Retrieve a study by C-MOVE to the storage SCP of gdcmscu."""
        options = ["--port-scp", self.caller.port, "-o", folder, "--key", f"20,d={study}"]
        statuses = _gdcm_statuses(self._run("--move", "--studyroot", "--study", *options))
        return {"status": statuses[-1] if statuses else None, "completed": None}

    def _run(self, *options: object) -> str:
        titles = ["--aetitle", self.caller.ae_title, "--call", "PACS"]
        return run("gdcmscu", "-D", *options, *titles, "127.0.0.1", self.caller.archive, check=False)


def _gdcm_statuses(printed: str) -> list[int]:
    """Return the statuses of the responses in the debug output of gdcmscu, which prints each twice."""
    return [int(each) for each in re.findall(r"\(0000,0900\) \?\? \(US\) (\d+)", printed)[::2]]


# --- Orthanc -------------------------------------------------------------------------------------------------------


class Orthanc:
    """Orthanc by its REST interface; it is the move destination, too."""

    def __init__(self, server: orthanc_server.Orthanc, ae_title: str) -> None:
        self.server, self.ae_title = server, ae_title
        self.uploaded: list[str] = []

    def echo(self) -> Outcome:
        """Verify the association; an error is an HTTP status."""
        self.server.post("modalities/pacs/echo")
        return {"statuses": [0x0000]}

    def store(self, folder: Path) -> Outcome:
        """Upload all files of a folder to Orthanc, and let it send them."""
        self.uploaded = [self.server.call("instances", path.read_bytes())["ID"] for path in sorted(folder.iterdir())]
        report = self.server.post("modalities/pacs/store", Resources=self.uploaded)
        return {"statuses": [0x0000] * (report["InstancesCount"] - report["FailedInstancesCount"])}

    def find(self, patient_id: str) -> Outcome:
        """Find the studies of patients."""
        keys = {"PatientID": patient_id, "PatientName": "", "StudyInstanceUID": ""}
        query = self.server.post("modalities/pacs/query", Level="Study", Query=keys)
        matches = self.server.call(f"{query['Path'][1:]}/answers?expand&simplify")
        return {"status": 0x0000, "names": [each["PatientName"] for each in matches]}

    def get(self, study: str, folder: Path) -> Outcome:
        """Try a C-GET, which newer versions have."""
        try:
            self.server.post("modalities/pacs/get", Level="Study", Resources=[{"StudyInstanceUID": study}])
        except HTTPError as error:
            return {"missing": error.code == HTTPStatus.NOT_FOUND}
        return {"missing": False}

    def move(self, study: str, folder: Path) -> Outcome:
        """Let Orthanc retrieve a study by C-MOVE to itself."""
        resources = [{"StudyInstanceUID": study}]
        self.server.post("modalities/pacs/move", Level="Study", Resources=resources, TargetAet=self.ae_title)
        for each in set(self.server.call("instances")) - set(self.uploaded):
            (folder / each).write_bytes(self.server.content(f"instances/{each}/file"))
        return {"status": 0x0000, "completed": None}


def with_dcmtk(caller: Caller, *words: object) -> list[Outcome]:
    """Run the tools of DCMTK."""
    return perform(Dcmtk(caller), words)


def with_pynetdicom(caller: Caller, *words: object) -> list[Outcome]:
    """Use pynetdicom in this process."""
    return perform(Pynetdicom(caller), words)


def with_gdcm(caller: Caller, *words: object) -> list[Outcome]:
    """Run gdcmscu."""
    return perform(Gdcm(caller), words)


def with_orthanc(caller: Caller, *words: object) -> list[Outcome]:
    """Run Orthanc with an empty store."""
    with TemporaryDirectory() as folder:
        settings = {"DicomAet": caller.ae_title}
        with orthanc_server.orthanc(Path(folder) / "orthanc", caller.archive, caller.port, **settings) as server:
            return perform(Orthanc(server, caller.ae_title), words)


# --- the table -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Requestor:
    """A program, and the outcomes of its operations as `tests/interop/test_requestors.py` sees them."""

    name: str
    run: Callable[..., list[Outcome]]
    echo: str = "Success"
    store: str = "bit for bit"
    find: str = "all names"
    move: str = "bit for bit"
    get: str = "bit for bit"

    @property
    def ae_title(self) -> str:
        """Its AE title."""
        return self.name.upper()


REQUESTORS = (
    Requestor("DCMTK", with_dcmtk),
    Requestor("pynetdicom", with_pynetdicom),
    Requestor("odil", with_odil, store="equal values", move="equal values", get="equal values"),
    Requestor("dcmjs-dimse", with_dcmjs, store="equal values", move="equal values", get="equal values"),
    Requestor("PixelMed", with_pixelmed),
    Requestor("gdcmscu", with_gdcm, find="names not printed", move="equal values", get="not offered"),
    Requestor("Orthanc", with_orthanc, find="names in Latin-1 only", get="not offered"),
)
"""The stock requestors."""
