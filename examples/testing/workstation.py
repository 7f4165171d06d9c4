"""An example SCU in plain pynetdicom: queries the studies of a patient and stores instances.

`test_workstation.py` tests it with a PACS that can misbehave.
"""

import time
from collections.abc import Iterable

from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRootFind

SUCCESS, PENDING, OUT_OF_RESOURCES = 0x0000, (0xFF00, 0xFF01), 0xA700


class PacsBusy(Exception):
    """The PACS is out of resources; a later attempt may succeed."""


class Incomplete(Exception):
    """The responses ended early; `matches` are those received before."""

    def __init__(self, reason: str, matches: list[Dataset]) -> None:
        super().__init__(f"{reason} after {len(matches)} matches")
        self.matches = matches


class Workstation:
    """An SCU of one PACS. `timeout` is in seconds for each response, `tries` the number of association attempts."""

    def __init__(self, host: str, port: int, pacs: str, *, timeout: float = 5.0, tries: int = 3) -> None:
        self.host, self.port, self.pacs = host, port, pacs
        self.tries, self.pause = tries, 0.05
        self.ae = AE("WORKSTATION")
        self.ae.acse_timeout = self.ae.dimse_timeout = self.ae.network_timeout = timeout

    def studies(self, patient_id: str) -> list[Dataset]:
        """Return the studies of a patient. Raises PacsBusy, Incomplete, ConnectionError."""
        self.ae.requested_contexts = []
        self.ae.add_requested_context(StudyRootFind)
        identifier = Dataset()
        identifier.QueryRetrieveLevel, identifier.PatientID = "STUDY", patient_id
        identifier.StudyInstanceUID = identifier.StudyDate = ""
        association, matches = self._associate(), []
        for response, match in association.send_c_find(identifier, StudyRootFind):
            if not response:
                raise Incomplete("the PACS does not respond", matches)
            if response.Status in PENDING:
                matches.append(match)
            elif response.Status != SUCCESS:
                association.release()
                raise PacsBusy if response.Status == OUT_OF_RESOURCES else Incomplete(f"{response.Status:04X}", matches)
        association.release()
        return matches

    def send(self, instances: Iterable[Dataset]) -> list[str]:
        """Send instances; return the SOP Instance UIDs that were refused. Raises ConnectionError."""
        instances = list(instances)
        self.ae.requested_contexts = []
        for kind in {(each.SOPClassUID, each.file_meta.TransferSyntaxUID) for each in instances}:
            self.ae.add_requested_context(*kind)
        association, refused = self._associate(), []
        for each in instances:
            response = association.send_c_store(each) if association.is_established else None
            if not response or response.Status != SUCCESS:
                refused.append(each.SOPInstanceUID)
        association.release()
        return refused

    def _associate(self) -> Association:
        for _ in range(self.tries):
            association = self.ae.associate(self.host, self.port, ae_title=self.pacs)
            if association.is_established:
                return association
            time.sleep(self.pause)
        raise ConnectionError(f"{self.pacs} accepts no association")
