"""The retrieve service: selection, limits, counts, and the bytes of data sets."""

import pytest
from pydicom import Dataset
from sqlalchemy import text

from pacs.dicom import identifier
from pacs.dicom.levels import Root
from pacs.dicom.matching_mode import TOLERANT
from pacs.dimse.scp.retrieve_task import MAX_SUBOPERATIONS
from pacs.errors import InstanceUnreadable, NotSupported, OutOfResources, TooManyMatches
from pacs.services.retrieve import Outcome, Retrieval, RetrieveService
from pacs.support.cancellation import Cancellation
from pacs.testing import serving, study
from tests import raw
from tests.archives import GET, take_in
from tests.archives import identifier as encoded_identifier
from tests.raw import IMPLICIT, Raw, request


def selection(level="STUDY", **keys):
    """Parse the selection of a retrieve with these keys."""
    asked = Dataset()
    asked.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(asked, keyword, value)
    return identifier.parse_retrieve(
        identifier.decode(raw.encoded(asked, raw.EXPLICIT), raw.EXPLICIT), Root.STUDY, TOLERANT
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An archive of one study of three images."""
    with serving(tmp_path_factory.mktemp("retrieve")) as running:
        take_in(running, study(series=1, instances=3))
        yield running


UID = study(series=1, instances=1)[0].StudyInstanceUID
QUERY = selection(StudyInstanceUID=UID).query


def test_v5_more_instances_than_a_response_can_count_are_refused(tmp_path):
    """65,535 instances are selected, one more is OutOfResources before any is sent: A701 on the wire."""
    with serving(tmp_path) as archive:
        take_in(archive, study(series=1, instances=1))
        multiply(archive, MAX_SUBOPERATIONS - 1)
        selected = archive.retrieves.select(selection(StudyInstanceUID=UID), Cancellation(), MAX_SUBOPERATIONS)
        assert selected.total == MAX_SUBOPERATIONS == 65535
        multiply(archive, 1, prefix="1.8")
        with pytest.raises(OutOfResources):
            archive.retrieves.select(selection(StudyInstanceUID=UID), Cancellation(), MAX_SUBOPERATIONS)
        assert archive.retrieves.select(selection(StudyInstanceUID=UID), Cancellation()).total == 65536
        with Raw(archive.port) as client:
            client.associate((1, GET, [IMPLICIT]))
            client.send(request(raw.C_GET, 1, GET, 1, encoded_identifier("STUDY", StudyInstanceUID=UID)))
            assert client.until_final()[-1].status == 0xA701


def multiply(archive, count, prefix="1.9"):
    """Add `count` rows like the first image to the index, without files."""
    with archive.index.write() as connection:
        names = [row[1] for row in connection.execute(text("PRAGMA table_info(image)"))]
        same = [name for name in names if name not in ("id", "sop_instance_uid", "file_key")]
        connection.execute(
            text(
                f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
                f"INSERT INTO image (sop_instance_uid, file_key, {', '.join(same)}) "
                f"SELECT '{prefix}.' || i, '{prefix}.' || i, {', '.join(same)} FROM image, n WHERE image.id = 1"
            )
        )


def test_k4_too_many_studies_by_other_keys_are_refused_with_their_number(archive):
    """Unique keys may select any number of studies, other keys a limited number."""
    service = RetrieveService(archive.index, archive.files, archive.retrieves.pixels, most_studies=0)
    with pytest.raises(TooManyMatches, match="1 studies match"):
        service.select(selection(PatientName="DOE^JOHN"), Cancellation())
    assert service.select(selection(StudyInstanceUID=UID), Cancellation()).total == 3


def test_the_data_set_is_read_as_it_is_stored(archive):
    """The data set is read from the file in the stored transfer syntax."""
    retrieval = archive.retrieves.select(selection(StudyInstanceUID=UID), Cancellation())
    expected = [raw.encoded(each, raw.EXPLICIT) for each in study(series=1, instances=3)]
    given = [b"".join(archive.retrieves.data(each, raw.EXPLICIT)) for each in retrieval.instances]
    assert sorted(given) == sorted(expected)


def test_pixels_are_not_transcoded(archive):
    """A native instance is not converted to JPEG."""
    (first, *_) = archive.retrieves.select(selection(StudyInstanceUID=UID), Cancellation()).instances
    with pytest.raises(NotSupported):
        list(archive.retrieves.data(first, "1.2.840.10008.1.2.4.50"))


def test_a_file_of_another_length_is_unreadable(tmp_path):
    """A stored file that is longer or shorter than before is not sent."""
    with serving(tmp_path) as archive:
        take_in(archive, study(series=1, instances=1))
        (first,) = archive.retrieves.select(selection(StudyInstanceUID=UID), Cancellation()).instances
        (path,) = (tmp_path / "files").rglob("*.dcm")
        path.write_bytes(path.read_bytes() + b"\0")
        with pytest.raises(InstanceUnreadable):
            next(archive.retrieves.data(first, raw.EXPLICIT))


def test_v5_v6_the_counts_and_the_result_follow_from_the_outcomes(archive):
    """remaining + completed + failed + warning is the total; the result is that of checklist V6."""
    instances = archive.retrieves.select(selection(StudyInstanceUID=UID), Cancellation()).instances
    cases = [
        ([Outcome.COMPLETED] * 3, Outcome.COMPLETED),
        ([Outcome.WARNING] * 3, Outcome.WARNING),
        ([Outcome.FAILED] * 3, Outcome.FAILED),
        ([Outcome.COMPLETED, Outcome.FAILED, Outcome.COMPLETED], Outcome.WARNING),
        ([Outcome.WARNING, Outcome.FAILED, Outcome.FAILED], Outcome.WARNING),
    ]
    for outcomes, result in cases:
        retrieval = Retrieval(instances, QUERY)
        for instance, outcome in zip(instances, outcomes, strict=True):
            retrieval.record(instance, outcome)
            assert retrieval.remaining + retrieval.done == retrieval.total
        assert retrieval.result is result
    assert Retrieval((), QUERY).result is Outcome.COMPLETED


def test_the_lists_of_sent_and_failed_do_not_depend_on_the_order_of_outcomes(archive):
    """Several associations finish in any order: failed instances are listed in the order of the selection."""
    first, second, third = archive.retrieves.select(selection(StudyInstanceUID=UID), Cancellation()).instances
    retrieval = Retrieval((first, second, third), QUERY)
    for instance, outcome in ((third, Outcome.FAILED), (second, Outcome.WARNING), (first, Outcome.FAILED)):
        retrieval.record(instance, outcome)
    assert retrieval.failed_list == [first.sop_instance_uid, third.sop_instance_uid]
    assert retrieval.sent == (second.sop_instance_uid,)
