"""The query service without DIMSE: what a match is for any protocol."""

from pacs.support.cancellation import Cancellation
from pacs.testing import serving, study
from tests.archives import take_in
from tests.dicom.build import ask

ONLY_IN_RESPONSES = {"QueryRetrieveLevel", "RetrieveAETitle", "InstanceAvailability", "SpecificCharacterSet"}


def test_a_match_is_a_data_set_without_what_only_a_response_carries(tmp_path):
    """Return keys and unique keys; text in any script although the query names no character set; values from files."""
    datasets = study("Yamada^Tarou=山田^太郎", series=1, instances=2, SpecificCharacterSet="ISO_IR 192")
    with serving(tmp_path) as archive:
        take_in(archive, datasets)
        query = ask("IMAGE", PatientName="", Rows="", WindowCenter="", NumberOfStudyRelatedInstances="")
        found = [each.data_set(query) for each in archive.queries.matches(query, Cancellation())]
    assert [str(each.PatientName) for each in found] == ["Yamada^Tarou=山田^太郎"] * 2
    assert [each.Rows for each in found] == [each.Rows for each in datasets]
    assert sorted(each.SOPInstanceUID for each in found) == sorted(each.SOPInstanceUID for each in datasets)
    assert not ONLY_IN_RESPONSES & {each.keyword for every in found for each in every}
