"""Tests of the example SCU with a PACS that works and one that fails: run `pytest` in `examples/testing`.

The fixture `pacs_server` comes with the package: a real PACS in this process, on a free port.
"""

import pytest
from workstation import Incomplete, PacsBusy, Workstation

from pacs.testing import Fault, study

CONGESTION = (2, 3, 1)


@pytest.fixture
def workstation(pacs_server):
    """The SCU under test, and a PACS with three studies of one patient."""
    for number in (1, 2, 3):
        pacs_server.add(study(patient_id="P1", series=1, instances=1, number=number))
    return Workstation(pacs_server.host, pacs_server.port, pacs_server.ae_title, timeout=2)


def test_it_queries_one_patient_at_study_level(workstation, pacs_server):
    """The request is recorded as it was sent."""
    assert len(workstation.studies("P1")) == 3
    request = pacs_server.received.expect_c_find(PatientID="P1", QueryRetrieveLevel="STUDY", StudyDate="")
    assert request.calling_ae_title == "WORKSTATION"


def test_it_retries_a_rejected_association(workstation, pacs_server):
    """Fault 1: two associations are rejected for congestion, the third is accepted."""
    rejected = pacs_server.faults.add(Fault("association", nth="first 2", reject=CONGESTION))
    assert len(workstation.studies("P1")) == 3
    assert rejected.fired == 2


def test_it_reports_a_busy_pacs(workstation, pacs_server):
    """Fault 2: status A700 after two matches; incomplete matches are discarded."""
    pacs_server.faults.add(Fault("C-FIND", status=0xA700, after=2))
    with pytest.raises(PacsBusy):
        workstation.studies("P1")


def test_it_reports_an_incomplete_response(workstation, pacs_server):
    """Fault 3: the PACS aborts instead of sending the third PDU of its responses."""
    pacs_server.faults.add(Fault("C-FIND", abort_sent=3))
    with pytest.raises(Incomplete) as raised:
        workstation.studies("P1")
    assert len(raised.value.matches) < 3


def test_it_stops_waiting_for_a_response(workstation, pacs_server):
    """Fault 4: no response at all."""
    pacs_server.faults.add(Fault("C-FIND", silent=True))
    with pytest.raises(Incomplete, match="does not respond"):
        workstation.studies("P1")


def test_it_reports_instances_that_were_not_stored(workstation, pacs_server):
    """Fault 5: the disk is full for the second of three instances."""
    instances = study(patient_id="P2", series=1, instances=3)
    pacs_server.faults.add(Fault("C-STORE", nth=2, full_disk=True))
    assert workstation.send(instances) == [instances[1].SOPInstanceUID]
    assert len(pacs_server.received.c_store) == 3
