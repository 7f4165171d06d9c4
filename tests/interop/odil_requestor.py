"""Operations with odil, in Debian's Python, for which it is packaged; data sets are written as they were received.

Arguments: port of the archive, AE title and port of this requestor, and any of `echo`, `store FOLDER`,
`find PATIENT_ID`, `get STUDY FOLDER`, `move STUDY FOLDER`, and `receive FOLDER`, which is a storage SCP for one
association. Prints a line of JSON for each operation.
"""

import json
import sys
from collections.abc import Iterable
from inspect import signature
from pathlib import Path

import odil

NAMES = odil.registry
SYNTAXES = [NAMES.ExplicitVRLittleEndian, NAMES.ImplicitVRLittleEndian]
STORAGE = [NAMES.CTImageStorage, NAMES.MRImageStorage, NAMES.SecondaryCaptureImageStorage]
FIND = NAMES.StudyRootQueryRetrieveInformationModelFind
GET = NAMES.StudyRootQueryRetrieveInformationModelGet
MOVE = NAMES.StudyRootQueryRetrieveInformationModelMove
Context = odil.AssociationParameters.PresentationContext


class Requestor:
    """The operations, each on an association of its own."""

    def __init__(self, archive: str, ae_title: str, port: str) -> None:
        self.archive, self.ae_title, self.port = int(archive), ae_title, int(port)

    def echo(self) -> dict[str, object]:
        """Verify the association."""
        association = self._associated([NAMES.Verification])
        odil.EchoSCU(association).echo()
        association.release()
        return {"statuses": [0x0000]}

    def store(self, folder: str) -> dict[str, object]:
        """Send all files of a folder; odil raises an exception unless it is answered with success."""
        data_sets = [odil.Reader.read_file(str(path))[1] for path in sorted(Path(folder).iterdir())]
        association = self._associated(STORAGE)
        scu = odil.StoreSCU(association)
        for each in data_sets:
            scu.set_affected_sop_class(each)
            scu.store(each)
        association.release()
        return {"statuses": [0x0000] * len(data_sets)}

    def find(self, patient_id: str) -> dict[str, object]:
        """Find the studies of patients."""
        association = self._associated([FIND])
        scu = odil.FindSCU(association)
        scu.set_affected_sop_class(FIND)
        matches = scu.find(_keys(PatientID=patient_id, PatientName="", StudyInstanceUID=""))
        association.release()
        return {"status": 0x0000, "names": [_name(each) for each in matches]}

    def get(self, study: str, folder: str) -> dict[str, object]:
        """Retrieve a study by C-GET."""
        association = self._associated([GET], received=STORAGE)
        scu = odil.GetSCU(association)
        scu.set_affected_sop_class(GET)
        responses: list[dict[str, object]] = []
        scu.get(
            _keys(StudyInstanceUID=study),
            lambda data_set: _write(data_set, Path(folder)),
            lambda response: responses.append(_counts(response)),
        )
        association.release()
        return responses[-1]

    def move(self, study: str, _folder: str) -> dict[str, object]:
        """Retrieve a study by C-MOVE to this requestor, whose storage SCP runs in another process.

        `set_incoming_port` of odil opens the port for 10 ms at a time, until it gets an association.
        """
        association = self._associated([MOVE])
        scu = odil.MoveSCU(association)
        scu.set_affected_sop_class(MOVE)
        scu.set_move_destination(self.ae_title)
        responses: list[dict[str, object]] = []
        scu.move(_keys(StudyInstanceUID=study), None, lambda response: responses.append(_counts(response)))
        association.release()
        return responses[-1]

    def receive(self, folder: str) -> dict[str, object]:
        """Receive what is sent on one association; by default odil accepts all that is proposed."""

        def keep(request: "odil.messages.CStoreRequest") -> int:
            _write(request.get_data_set(), Path(folder))
            return 0x0000

        association = odil.Association()
        association.receive_association("v4", self.port)
        dispatcher = odil.SCPDispatcher(association)
        scp = odil.StoreSCP(association)
        scp.set_callback(keep)
        dispatcher.set_store_scp(scp)
        try:
            while True:
                dispatcher.dispatch()
        except odil.AssociationReleased:
            return {}

    def _associated(self, requested: Iterable[str], received: Iterable[str] = ()) -> "odil.Association":
        """Associate to request some SOP Classes, and to receive instances of others."""
        contexts = [Context(each, SYNTAXES, Context.Role.SCU) for each in requested]
        contexts += [Context(each, SYNTAXES, Context.Role.SCP) for each in received]
        association = odil.Association()
        association.set_peer_host("127.0.0.1")
        association.set_peer_port(self.archive)
        parameters = association.update_parameters()
        parameters.set_calling_ae_title(self.ae_title).set_called_ae_title("PACS").set_presentation_contexts(contexts)
        association.associate()
        return association


def _keys(**values: str) -> "odil.DataSet":
    """Return an Identifier at the study level."""
    keys = odil.DataSet()
    for keyword, value in {"QueryRetrieveLevel": "STUDY", **values}.items():
        keys.add(keyword, [value.encode()] if value else [])
    return keys


def _name(match: "odil.DataSet") -> str:
    """Return the Patient's Name of a match, decoded by odil."""
    charset = match.as_string("SpecificCharacterSet") if match.has("SpecificCharacterSet") else odil.Value.Strings()
    return odil.as_utf8(match.as_string("PatientName")[0], charset, True)


def _counts(response: object) -> dict[str, object]:
    """Return the status of a response and its number of completed sub-operations."""
    return {"status": response.get_status(), "completed": response.get_number_of_completed_sub_operations()}


def _write(data_set: "odil.DataSet", folder: Path) -> None:
    """Write a Part 10 file in the transfer syntax in which the data set was received."""
    with odil.open(str(folder / data_set.as_string("SOPInstanceUID")[0].decode()), "wb") as stream:
        odil.Writer.write_file(data_set, stream, odil.DataSet(), data_set.get_transfer_syntax())


def main(archive: str, ae_title: str, port: str, *words: str) -> None:
    """Run the named operations."""
    requestor, rest = Requestor(archive, ae_title, port), list(words)
    while rest:
        name, operation = rest[0], getattr(requestor, rest.pop(0))
        arguments = [rest.pop(0) for _ in signature(operation).parameters]
        print(json.dumps({"operation": name, **operation(*arguments)}), flush=True)


main(*sys.argv[1:])
