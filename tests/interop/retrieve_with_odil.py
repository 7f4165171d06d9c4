"""Retrieve with odil: a study by C-GET into one folder, and a series by C-MOVE to a port of its own into another one.

Runs in Debian's Python, for which odil is packaged. Arguments: port of the archive, AE title and port of the move
destination, Study Instance UID, the two folders, Series Instance UID.
"""

import sys
from pathlib import Path

import odil

archive, ae_title, port, study, got, moved, series = sys.argv[1:]
SYNTAXES = [odil.registry.ExplicitVRLittleEndian, odil.registry.ImplicitVRLittleEndian]
IMAGES = odil.registry.SecondaryCaptureImageStorage


def retrieve(scu_class: type, model: str, folder: str, keys: dict[str, str], *images: str) -> None:
    """Retrieve with a C-GET or C-MOVE SCU, and write the data sets as they were received."""
    association = odil.Association()
    association.set_peer_host("127.0.0.1")
    association.set_peer_port(int(archive))
    context = odil.AssociationParameters.PresentationContext
    association.update_parameters().set_calling_ae_title(ae_title).set_called_ae_title(
        "PACS"
    ).set_presentation_contexts(
        [context(model, SYNTAXES, context.Role.SCU), *(context(each, SYNTAXES, context.Role.SCP) for each in images)]
    )
    association.associate()
    scu = scu_class(association)
    scu.set_affected_sop_class(model)
    if scu_class is odil.MoveSCU:
        scu.set_move_destination(ae_title)
        scu.set_incoming_port(int(port))
    query = odil.DataSet()
    for keyword, value in keys.items():
        query.add(keyword, [value.encode()])
    for number, data_set in enumerate(scu.get(query) if scu_class is odil.GetSCU else scu.move(query)):
        write(data_set, Path(folder) / f"{number}.dcm")
    association.release()


def write(data_set: "odil.DataSet", path: Path) -> None:
    """Write a Part 10 file in the transfer syntax in which the data set was received."""
    with odil.open(str(path), "wb") as stream:
        odil.Writer.write_file(data_set, stream, odil.DataSet(), data_set.get_transfer_syntax())


of_study = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": study}
of_series = {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": study, "SeriesInstanceUID": series}
retrieve(odil.GetSCU, odil.registry.StudyRootQueryRetrieveInformationModelGet, got, of_study, IMAGES)
retrieve(odil.MoveSCU, odil.registry.StudyRootQueryRetrieveInformationModelMove, moved, of_series)
