"""The Storage SOP Classes that are stored: docs/checklist.md S8."""

import pytest
from pydicom.uid import UID_dictionary
from pynetdicom import AllStoragePresentationContexts, sop_class

from pacs.dicom.sop_classes import NON_PATIENT, STORAGE, check_storable
from pacs.dimse.server.acceptor_policy import AcceptorPolicy
from pacs.errors import SOPClassNotSupported


def test_every_storage_class_of_pynetdicom_is_stored():
    """All Storage SOP Classes of pynetdicom are stored."""
    assert {str(context.abstract_syntax) for context in AllStoragePresentationContexts} <= STORAGE


def test_the_non_patient_objects_are_those_of_pynetdicom():
    """All of pynetdicom's Non-Patient Objects are refused."""
    assert set(sop_class._NON_PATIENT_OBJECT_CLASSES.values()) == NON_PATIENT


def test_every_storage_class_of_pydicom_is_stored_or_refused():
    """All SOP Classes with Storage in their name, also retired ones."""
    named = {uid for uid, entry in UID_dictionary.items() if entry[1] == "SOP Class" and "Storage" in entry[0]}
    services = {"1.2.840.10008.1.20.1", "1.2.840.10008.1.20.2", "1.2.840.10008.1.3.10"}
    assert named - STORAGE - NON_PATIENT == services


@pytest.mark.parametrize("unknown", [False, True])
def test_the_negotiated_sop_classes_are_those_stored(unknown: bool):
    """A context that is accepted for Storage is never refused for its SOP Class afterwards."""
    policy = AcceptorPolicy(transfer_syntaxes=(), unknown_sop_classes=unknown)
    for uid in (*UID_dictionary, *STORAGE, *NON_PATIENT, "1.2.3.4"):
        if policy.stores(uid):
            check_storable(uid, unknown)


@pytest.mark.parametrize(
    ("uid", "when_off", "when_on"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", True, True),
        ("1.2.3.4", False, True),
        ("1.2.840.10008.5.1.4.38.1", False, False),
        ("1.2.840.10008.1.3.10", False, False),
        ("1.2.840.10008.1.20.1", False, False),
    ],
)
def test_s8_unknown_classes_depend_on_the_switch(uid: str, when_off: bool, when_on: bool):
    """Known classes always, unknown ones when switched on, Non-Patient Objects and directories never."""
    for unknown, kept in ((False, when_off), (True, when_on)):
        if kept:
            check_storable(uid, unknown)
        else:
            with pytest.raises(SOPClassNotSupported) as refused:
                check_storable(uid, unknown)
            assert len(refused.value.comment) <= 64
