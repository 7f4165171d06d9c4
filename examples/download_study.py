"""Download the newest study of a patient, with a progress bar; Ctrl-C also cancels the retrieve at the PACS.

python examples/download_study.py PACS@127.0.0.1:11112 P1 downloads
"""

import sys

from rich.progress import Progress as Bar

from pacs import client


def main(peer: str, patient_id: str, folder: str) -> None:
    """Find the studies of a patient and retrieve the newest one."""
    keys = {"PatientID": patient_id, "StudyDate": "", "StudyDescription": "", "StudyInstanceUID": ""}
    studies = sorted(client.find(peer, keys), key=lambda study: study.StudyDate)
    if not studies:
        sys.exit(f"{peer} has no study of patient {patient_id}")
    newest = studies[-1]
    with Bar() as bar:
        task = bar.add_task(f"{newest.StudyDate} {newest.StudyDescription}", total=None)

        def show(progress: client.Progress) -> None:
            bar.update(task, completed=progress.received, total=progress.total)

        # An exception during the retrieve, also from `show` or Ctrl-C, sends a C-CANCEL and is raised here.
        done = client.fetch(peer, {"StudyInstanceUID": newest.StudyInstanceUID}, to=folder, on_progress=show)
    print(f"{len(done.paths)} instances in {folder}, {len(done.skipped)} of them were already present")


if __name__ == "__main__":
    main(*sys.argv[1:])
