"""C-FIND on the wire (PS3.4 C.4.1, checklist 3.4): content, order and memory of the responses."""

import resource

import pytest
from pydicom import Dataset
from pynetdicom import AE

from pacs import settings
from pacs.testing import serving, study
from tests import raw
from tests.archives import FIND, identifier, take_in
from tests.raw import IMPLICIT, Raw, request

PATIENT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
PATIENT_STUDY_FIND = "1.2.840.10008.5.1.4.1.2.3.1"
ALWAYS = {"QueryRetrieveLevel", "RetrieveAETitle", "InstanceAvailability"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A running archive of two patients with two studies each, of two series of two images."""
    with pytest.MonkeyPatch.context() as patch, serving(tmp_path_factory.mktemp("find")) as running:
        patch.setattr(settings, "QUERY_PAGE", 3)
        running.reload(running.config)
        for patient in ("A", "B"):
            for number in (1, 2):
                take_in(running, study(f"NAME^{patient}", series=2, instances=2, patient_id=patient, number=number))
        yield running


def find(archive, level, model=FIND, syntax=IMPLICIT, **keys):
    """Return all responses to a C-FIND."""
    with Raw(archive.port) as client:
        client.associate((1, model, [syntax]))
        client.send(request(raw.C_FIND, 1, model, 1, identifier(level, syntax, **keys)))
        responses = client.until_final()
        client.release()
    return responses


@pytest.mark.parametrize(
    ("model", "level", "count"),
    [
        (PATIENT_FIND, "PATIENT", 2),
        (PATIENT_FIND, "STUDY", 4),
        (PATIENT_FIND, "SERIES", 8),
        (PATIENT_FIND, "IMAGE", 16),
        (FIND, "STUDY", 4),
        (FIND, "SERIES", 8),
        (FIND, "IMAGE", 16),
        (PATIENT_STUDY_FIND, "PATIENT", 2),
        (PATIENT_STUDY_FIND, "STUDY", 4),
    ],
)
def test_p12_f7_one_response_for_each_entity_at_the_level(archive, model, level, count):
    """Each patient, study, series or image is returned once, in the order of its unique key, then 0000."""
    key = {"PATIENT": "PatientID", "STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID"}.get(
        level, "SOPInstanceUID"
    )
    *matches, final = find(archive, level, model, **{key: ""})
    found = [str(each.dataset()[key].value) for each in matches]
    assert found == sorted(found)
    assert len(found) == len(set(found)) == count
    assert (final.status, final.data) == (0x0000, None)


@pytest.mark.parametrize("level", ["SERIES", "IMAGE"])
def test_f2_patient_study_only_has_no_lower_levels(archive, level):
    """SERIES and IMAGE are A900 in the retired model, with the level as Offending Element."""
    (refused,) = find(archive, level, PATIENT_STUDY_FIND, SOPInstanceUID="")
    assert refused.status == 0xA900
    assert refused.elements[0x0901] == b"\x08\x00\x52\x00"
    assert refused.text(0x0902)


def test_f6_a_response_has_the_return_keys_and_the_unique_keys_above(archive):
    """A response has nothing else; return keys with an unknown value have zero length."""
    keys = {"SeriesInstanceUID": "", "Modality": "", "ProtocolName": "", "PatientName": "NAME^A"}
    match = find(archive, "SERIES", PATIENT_FIND, **keys)[0].dataset()
    expected = {*ALWAYS, *keys, "PatientID", "StudyInstanceUID"}
    assert {each.keyword for each in match} == expected
    assert (match.QueryRetrieveLevel, match.RetrieveAETitle) == ("SERIES", "PACS")
    assert match.InstanceAvailability == "ONLINE"
    assert match.ProtocolName in ("", None)


def test_f8_supported_keys_are_ff00_and_unsupported_ones_ff01(archive):
    """A key below the level, a private one and an unknown one make the responses FF01 and are not returned."""
    fine = find(archive, "STUDY", StudyInstanceUID="", StudyDescription="", NumberOfStudyRelatedInstances="")
    assert {each.status for each in fine[:-1]} == {0xFF00}
    ignored = find(archive, "STUDY", StudyInstanceUID="", SOPInstanceUID="")
    assert {each.status for each in ignored[:-1]} == {0xFF01}
    assert all("SOPInstanceUID" not in each.dataset() for each in ignored[:-1])


@pytest.mark.parametrize(
    ("value", "count"), [("NAME^A", 2), ("name^a", 2), ("nAmE^?", 4), ("NAM%", 0), ("NAM__A", 0), ("N%*", 0)]
)
def test_p13_names_ignore_case_and_sql_wild_cards_are_literals(archive, value, count):
    """A name is compared the same with and without wild cards; `%` and `_` are literals."""
    assert len(find(archive, "STUDY", StudyInstanceUID="", PatientName=value)) == count + 1


@pytest.mark.parametrize(
    "keys", [{"StudyInstanceUID": ""}, {"StudyInstanceUID": "1.2.3"}, {"StudyDate": "nonsense"}, {"SOPInstanceUID": ""}]
)
def test_p15_there_is_exactly_one_final_response(archive, keys):
    """After Success or a failure the next message on the association is the response to the next request."""
    with Raw(archive.port) as client:
        client.associate((1, FIND, [IMPLICIT]))
        client.send(request(raw.C_FIND, 1, FIND, 1, identifier("STUDY", **keys)))
        client.until_final()
        client.send(request(raw.C_FIND, 1, FIND, 2, identifier("STUDY", StudyInstanceUID="1.2.3")))
        (answer,) = client.until_final()
        client.release()
    assert (answer.number(0x0120), answer.status) == (2, 0x0000)


@pytest.mark.parametrize("syntax", [IMPLICIT, raw.EXPLICIT])
def test_responses_are_in_the_negotiated_transfer_syntax(archive, syntax):
    """Implicit in an implicit context, explicit in an explicit one."""
    match = find(archive, "STUDY", syntax=syntax, StudyInstanceUID="", PatientName="NAME^B")[0]
    assert match.dataset(syntax).PatientName == "NAME^B"


def test_k5_the_numbers_of_related_entities(archive):
    """The Number of Related attributes of a study and a patient are counted."""
    asked = dict.fromkeys(["NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "ModalitiesInStudy"], "")
    match = find(archive, "STUDY", StudyInstanceUID="", **asked)[0].dataset()
    assert (match.NumberOfStudyRelatedSeries, match.NumberOfStudyRelatedInstances) == (2, 4)
    assert match.ModalitiesInStudy == "CT"
    asked = {f"NumberOfPatientRelated{what}": "" for what in ("Studies", "Series", "Instances")}
    match = find(archive, "PATIENT", PATIENT_FIND, PatientID="A", **asked)[0].dataset()
    assert [int(match[each].value) for each in asked] == [2, 4, 8]


def test_f3_a_query_without_keys_returns_all_or_nothing(archive, tmp_path):
    """The tolerant mode treats the missing unique key as universal; the strict one finds nothing, with 0000."""
    assert len(find(archive, "STUDY")) == 5
    with serving(tmp_path, {"query.manner": "strict"}) as strict:
        take_in(strict, study(series=1, instances=1))
        responses = find(strict, "STUDY")
    assert [each.status for each in responses] == [0x0000]


def test_a_peer_may_have_its_own_matching_mode(tmp_path):
    """The requests of one AE are matched in the strict mode, those of all others in the tolerant mode."""
    peer = {"ae_title": "PEDANT", "host": "127.0.0.1", "port": 104, "manner": "strict"}
    with serving(tmp_path, {"peers": [peer]}) as archive:
        statuses = {}
        for title in ("PEDANT", "ANYBODY"):
            ae = AE(title)
            ae.add_requested_context(FIND)
            association = ae.associate("127.0.0.1", archive.port)
            asked = Dataset()
            asked.QueryRetrieveLevel = "SERIES"
            asked.SeriesInstanceUID = "1.2"
            statuses[title] = [status.Status for status, _ in association.send_c_find(asked, FIND)]
            association.release()
    assert statuses == {"PEDANT": [0xA900], "ANYBODY": [0x0000]}


def test_a_command_of_another_class_than_its_context_is_0122(archive):
    """A C-FIND for the Patient Root in a context of the Study Root is refused; the association goes on (F9)."""
    with Raw(archive.port) as client:
        client.associate((1, FIND, [IMPLICIT]))
        client.send(request(raw.C_FIND, 1, PATIENT_FIND, 1, identifier("STUDY", StudyInstanceUID="")))
        assert client.message().status == 0x0122
        client.send(request(raw.C_FIND, 1, FIND, 2, identifier("STUDY", StudyInstanceUID="")))
        assert client.until_final()[-1].status == 0x0000
        client.release()


def test_an_invalid_identifier_is_refused(archive):
    """Garbage is Cxxx with an Error Comment; the association goes on."""
    with Raw(archive.port) as client:
        client.associate((1, FIND, [IMPLICIT]))
        client.send(request(raw.C_FIND, 1, FIND, 1, b"\xff" * 64))
        refused = client.message()
        assert refused.status >> 12 == 0xC
        assert refused.text(0x0902)
        client.send(request(raw.C_FIND, 1, FIND, 2, identifier("STUDY", StudyInstanceUID="")))
        assert client.until_final()[-1].status == 0x0000
        client.release()


def test_p10_a_deeply_nested_identifier_is_refused(archive):
    """10,000 nested sequences are Cxxx, not a crash."""
    nested = b"\x08\x00\x40\x11\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 900
    with Raw(archive.port) as client:
        client.associate((1, FIND, [IMPLICIT]), max_pdu=65536)
        client.send(request(raw.C_FIND, 1, FIND, 1, nested))
        assert client.message().status >> 12 == 0xC
        client.release()


def test_f11_memory_does_not_grow_with_the_matches(tmp_path, monkeypatch):
    """3,000 responses to a client that reads slowly do not increase the memory of the server."""
    monkeypatch.setattr(settings, "QUERY_PAGE", 100)
    with serving(tmp_path) as archive:
        datasets = study(series=1, instances=1, size=1)
        for number in range(300):
            copy = Dataset(datasets[0])
            copy.file_meta = datasets[0].file_meta
            copy.StudyInstanceUID = f"1.2.7.{number}"
            copy.SeriesInstanceUID = f"1.2.7.{number}.1"
            copy.SOPInstanceUID = f"1.2.7.{number}.1.1"
            take_in(archive, [copy])
        find(archive, "STUDY", StudyInstanceUID="")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with Raw(archive.port) as client:
            client.associate((1, FIND, [IMPLICIT]))
            count = 0
            for message_id in range(1, 11):
                client.send(request(raw.C_FIND, 1, FIND, message_id, identifier("STUDY", StudyInstanceUID="")))
                while client.message().status == 0xFF00:
                    count += 1
            client.release()
        assert count == 3000
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024
