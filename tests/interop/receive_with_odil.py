"""Receive with odil, in Debian's Python, for which it is packaged; data sets are written as they were received.

`get PORT STUDY FOLDER` retrieves a study by C-GET from the archive at a port. `store PORT FOLDER` is a storage SCP at a
port for one association.
"""

import sys
from pathlib import Path

import odil

MODEL = odil.registry.StudyRootQueryRetrieveInformationModelGet
SYNTAXES = [odil.registry.ExplicitVRLittleEndian, odil.registry.ImplicitVRLittleEndian]


def get(port: str, study: str, folder: str) -> None:
    """Retrieve a study by C-GET."""
    context = odil.AssociationParameters.PresentationContext
    association = odil.Association()
    association.set_peer_host("127.0.0.1")
    association.set_peer_port(int(port))
    association.update_parameters().set_calling_ae_title("ODIL").set_called_ae_title("PACS").set_presentation_contexts(
        [
            context(MODEL, SYNTAXES, context.Role.SCU),
            context(odil.registry.SecondaryCaptureImageStorage, SYNTAXES, context.Role.SCP),
        ]
    )
    association.associate()
    scu = odil.GetSCU(association)
    scu.set_affected_sop_class(MODEL)
    query = odil.DataSet()
    query.add("QueryRetrieveLevel", [b"STUDY"])
    query.add("StudyInstanceUID", [study.encode()])
    for data_set in scu.get(query):
        write(data_set, Path(folder))
    association.release()


def store(port: str, folder: str) -> None:
    """Receive what is sent on one association; by default odil accepts all that is proposed."""

    def keep(request: "odil.messages.CStoreRequest") -> int:
        write(request.get_data_set(), Path(folder))
        return 0x0000

    association = odil.Association()
    association.receive_association("v4", int(port))
    dispatcher = odil.SCPDispatcher(association)
    scp = odil.StoreSCP(association)
    scp.set_callback(keep)
    dispatcher.set_store_scp(scp)
    try:
        while True:
            dispatcher.dispatch()
    except odil.AssociationReleased:
        pass


def write(data_set: "odil.DataSet", folder: Path) -> None:
    """Write a Part 10 file in the transfer syntax in which the data set was received."""
    with odil.open(str(folder / data_set.as_string("SOPInstanceUID")[0].decode()), "wb") as stream:
        odil.Writer.write_file(data_set, stream, odil.DataSet(), data_set.get_transfer_syntax())


{"get": get, "store": store}[sys.argv[1]](*sys.argv[2:])
