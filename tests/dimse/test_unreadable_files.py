"""A disk that cannot read a stored file to its end: the status of each service."""

import pytest
from pydicom import Dataset

from pacs.dicom.identifier import decode, parse_retrieve
from pacs.dicom.levels import Root
from pacs.dicom.matching_mode import TOLERANT
from pacs.errors import InstanceUnreadable
from pacs.support.cancellation import Cancellation
from pacs.testing import serving, study
from tests import raw
from tests.archives import FIND, identifier, take_in
from tests.dimse.test_retrieve import counts, destination, failed_list, get, move, send
from tests.dimse.test_store import CT, store
from tests.files.bad_sectors import bad_sectors
from tests.raw import IMPLICIT, Raw, request

# pynetdicom does not close the socket of a peer that aborted.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def large() -> Dataset:
    """An instance with a Slice Thickness and a Window Center that are far from each other in the file."""
    (dataset,) = study(series=1, instances=1)
    dataset.SOPClassUID = CT
    dataset.SliceThickness = "1.5"
    dataset.add_new(0x00190010, "LO", "PACS TEST")
    dataset.add_new(0x00191001, "OB", bytes(100_000))
    dataset.WindowCenter = "40"
    return dataset


@pytest.fixture
def archive(tmp_path):
    """A running archive of one large instance."""
    with serving(tmp_path) as running:
        take_in(running, [large()])
        yield running


def find(archive, **keys):
    """The responses to a C-FIND at IMAGE level."""
    with Raw(archive.port) as client:
        client.associate((1, FIND, [IMPLICIT]))
        client.send(request(raw.C_FIND, 1, FIND, 1, identifier("IMAGE", **keys)))
        responses = client.until_final()
        client.release()
    return responses


def test_a_query_that_needs_the_unreadable_part_is_refused(archive):
    """C-FIND ends with C003 and a comment; the association goes on, and elements before that part are returned."""
    with bad_sectors(archive.files):
        assert [each.status for each in find(archive, SOPInstanceUID="", SliceThickness="")] == [0xFF00, 0x0000]
        (refused,) = find(archive, SOPInstanceUID="", WindowCenter="")
    assert refused.status == 0xC003
    assert refused.text(0x0902).startswith("The stored file cannot be read")
    assert [each.status for each in find(archive, SOPInstanceUID="", WindowCenter="")] == [0xFF00, 0x0000]


def test_an_instance_that_cannot_be_compared_with_the_stored_one_is_refused(archive):
    """C-STORE of other content under the same UID is C003 while the stored file cannot be read."""
    again = large()
    again.WindowCenter = "50"
    with bad_sectors(archive.files):
        response = store(archive, raw.encoded(again, raw.EXPLICIT), instance=again.SOPInstanceUID)
    assert response.status == 0xC003
    assert len(list(archive.files.keys())) == 1


def test_an_instance_that_cannot_be_converted_to_its_end_is_no_bare_system_error(archive):
    """Converting the stored data set gives the first pieces, then InstanceUnreadable."""
    selected = archive.retrieves.select(
        parse_retrieve(
            decode(identifier("STUDY", StudyInstanceUID=large().StudyInstanceUID), IMPLICIT), Root.STUDY, TOLERANT
        ),
        Cancellation(),
    )
    with bad_sectors(archive.files):
        pieces = archive.retrieves.data(selected.instances[0], IMPLICIT)
        with pytest.raises(InstanceUnreadable):
            b"".join(pieces)


@pytest.mark.parametrize("associations", [1, 2])
def test_a_suboperation_of_a_move_that_cannot_be_read_to_its_end_fails_alone(tmp_path, associations):
    """The file fails while it is converted: the other instance, which is not, arrives, and the failed one is listed."""
    damaged, whole = large(), study(series=1, instances=2, transfer_syntax=IMPLICIT)[1]
    with (
        destination("TAKER", lambda _event: 0x0000, [IMPLICIT], [CT]) as taker,
        serving(tmp_path, {"peers": [taker | {"associations": associations}]}) as archive,
    ):
        take_in(archive, [damaged])
        send(archive, whole, IMPLICIT)
        with bad_sectors(archive.files):
            final = move(archive, "TAKER", StudyInstanceUID=damaged.StudyInstanceUID)[-1]
    assert (final.status, counts(final)) == (0xB000, (None, 1, 1, 0))
    assert failed_list(final) == [damaged.SOPInstanceUID]


def test_a_suboperation_of_a_get_that_cannot_be_read_is_a_failure(archive):
    """The requestor gets A702 with the list of the failed, and nothing else of what went wrong."""
    with bad_sectors(archive.files):
        responses, came = get(archive, [large()], [CT], syntaxes=[IMPLICIT])
    final, failed = responses[-1]
    assert came == []
    assert (final.Status, final.NumberOfFailedSuboperations) == (0xA702, 1)
    assert failed.FailedSOPInstanceUIDList == large().SOPInstanceUID
