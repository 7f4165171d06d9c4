"""Values of hostile and broken clients, on a running archive (checklist 5.2, group 6)."""

import pytest

from pacs.testing import serving, study
from tests import raw
from tests.archives import FIND, identifier
from tests.raw import EXPLICIT, IMPLICIT, Raw, element, request


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A running archive."""
    with serving(tmp_path_factory.mktemp("hostile")) as running:
        yield running


def store(client, dataset, data, message_id=1):
    """Return the response to a C-STORE of these bytes as an instance."""
    instance = element(0x1000, dataset.SOPInstanceUID.encode())
    client.send(request(raw.C_STORE, 1, dataset.SOPClassUID, message_id, data, [instance]))
    return client.message()


@pytest.mark.parametrize("term", [b"\0\xff", b"A\0B ", b"nonsense", b"../../x ", b"idna", b"ISO 2022 IR 87\\\\x"])
def test_m14_an_invalid_character_set_does_not_prevent_storage(archive, term):
    """With any value in (0008,0005), and with empty numbers and foreign bytes, it is stored and found again."""
    number = 1 + sum(term)
    (dataset,) = study(series=1, instances=1, patient_id=f"P{number}")
    for keyword in ("PatientSize", "SeriesNumber", "Rows", "NumberOfFrames", "AccessionNumber"):
        setattr(dataset, keyword, None)
    dataset.SpecificCharacterSet = "X" * len(term)
    dataset.PatientName = "Q^Q "
    data = raw.encoded(dataset, EXPLICIT).replace(b"X" * len(term), term).replace(b"Q^Q ", b"\xc3^\xff ")
    with Raw(archive.port) as client:
        client.associate((1, dataset.SOPClassUID, [EXPLICIT]), (3, FIND, [IMPLICIT]))
        assert store(client, dataset, data).status == 0x0000
        keys = {"PatientName": "", "StudyInstanceUID": dataset.StudyInstanceUID}
        client.send(request(raw.C_FIND, 3, FIND, 2, identifier("STUDY", **keys)))
        match, final = client.until_final()
    assert match.dataset().StudyInstanceUID == dataset.StudyInstanceUID
    assert final.status == 0x0000
