"""Download a study in plain pynetdicom: with a storage SCP, a C-MOVE, its counts, and a C-CANCEL.

    python examples/download_study_pynetdicom.py 127.0.0.1 11112 PACS 1.2.3 downloads --ours ME --port 11113 --limit 100

The PACS must know the AE title ME at this host and port: `pacs peers add ME 127.0.0.1 11113`, then SIGHUP.
"""

import argparse
import sys
from pathlib import Path

from pydicom.dataset import Dataset
from pynetdicom import AE, StoragePresentationContexts, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as StudyRootMove

SUCCESS, CANCELLED, PENDING = 0x0000, 0xFE00, (0xFF00, 0xFF01)


def main(options: argparse.Namespace) -> int:
    """Download a study, or as much as arrives before the limit; return the final status."""
    options.folder.mkdir(parents=True, exist_ok=True)
    received = []

    def keep(event: evt.Event) -> int:
        received.append(event.request.AffectedSOPInstanceUID)
        path = options.folder / f"{len(received):06}.dcm"  # never use a name sent by a peer
        path.write_bytes(event.encoded_dataset())
        return SUCCESS

    scp = AE(options.ours)
    scp.supported_contexts = StoragePresentationContexts
    listener = scp.start_server(("", options.port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    try:
        status = move(options)
    finally:
        listener.shutdown()
    print(f"{len(received)} instances in {options.folder}, status 0x{status:04X}")
    return status


def move(options: argparse.Namespace) -> int:
    """Send the C-MOVE and print its counts; cancel it at the limit. Return the final status."""
    scu = AE(options.ours)
    scu.add_requested_context(StudyRootMove)
    association = scu.associate(options.host, options.pacs_port, ae_title=options.pacs)
    if not association.is_established:
        sys.exit(f"no association with {options.pacs}: {'rejected' if association.is_rejected else 'not reached'}")
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", options.study
    status, is_cancelled = SUCCESS, False
    for response, _ in association.send_c_move(identifier, options.ours, StudyRootMove, msg_id=1):
        if not response:
            sys.exit("the association was lost")
        status = response.Status
        completed = getattr(response, "NumberOfCompletedSuboperations", 0)
        if status in PENDING:
            print(f"{completed} of {completed + response.NumberOfRemainingSuboperations}")
            if completed >= options.limit and not is_cancelled:
                association.send_c_cancel(1, query_model=StudyRootMove)
                is_cancelled = True
    association.release()
    return status


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("pacs_port", type=int)
    parser.add_argument("pacs")
    parser.add_argument("study")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ours", default="ME")
    parser.add_argument("--port", type=int, default=11113)
    parser.add_argument("--limit", type=int, default=sys.maxsize)
    sys.exit(0 if main(parser.parse_args()) in (SUCCESS, CANCELLED) else 1)
