"""C-MOVE and C-GET (PS3.4 C.4.2, C.4.3, checklist 3.5 and 3.6) against real and raw peers."""

import socket
import threading
import time
from array import array
from contextlib import contextmanager

import pytest
from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.sop_class import CTImageStorage, MRImageStorage
from sqlalchemy import text

from pacs.testing import serving, study
from tests import raw
from tests.archives import GET, MOVE, identifier, take_in
from tests.programs import free_port
from tests.raw import IMPLICIT, Raw, request

PATIENT_MOVE = "1.2.840.10008.5.1.4.1.2.1.2"
REMAINING, COMPLETED, FAILED, WARNING = 0x1020, 0x1021, 0x1022, 0x1023
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG = "1.2.840.10008.1.2.2"
JPEG = "1.2.840.10008.1.2.4.50"


@contextmanager
def destination(ae_title, answer, syntaxes=(raw.EXPLICIT, IMPLICIT), classes=(CTImageStorage,)):
    """Run a pynetdicom storage SCP whose status is `answer(event)`. Yield its row for the table of peers."""
    ae = AE(ae_title)
    for each in classes:
        ae.add_supported_context(each, list(syntaxes))
    listener = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, answer)])
    try:
        yield {"ae_title": ae_title, "host": "127.0.0.1", "port": listener.server_address[1]}
    finally:
        listener.shutdown()


def move(archive, where, level="STUDY", model=MOVE, syntax=IMPLICIT, message_id=1, **keys):
    """Return all responses to a C-MOVE."""
    with Raw(archive.port) as client:
        client.associate((1, model, [syntax]), calling="ASKER")
        extra = [raw.element(0x0600, where.encode())]
        client.send(request(raw.C_MOVE, 1, model, message_id, identifier(level, syntax, **keys), extra))
        responses = client.until_final()
        client.release()
    return responses


def counts(response):
    """Return remaining, completed, failed and warning; None where absent."""
    return tuple(response.number(tag) for tag in (REMAINING, COMPLETED, FAILED, WARNING))


def failed_list(response, syntax=IMPLICIT):
    """Return the Failed SOP Instance UID List."""
    value = response.dataset(syntax).FailedSOPInstanceUIDList
    return [value] if isinstance(value, str) else list(value)


DATASETS = study(series=1, instances=4)
STUDY_UID = DATASETS[0].StudyInstanceUID
UIDS = [each.SOPInstanceUID for each in DATASETS]


@pytest.fixture(scope="module")
def answers():
    """Statuses that the destination answers by SOP Instance UID, 0000 otherwise. Tests fill it."""
    return {}


@pytest.fixture(scope="module")
def archive(tmp_path_factory, answers):
    """A running archive with one study of four images, and a destination that answers as in `answers`."""

    def answer(event):
        return answers.get(event.request.AffectedSOPInstanceUID, 0x0000)

    with destination("TAKER", answer) as taker, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refusing = {"ae_title": "REFUSING", "host": "127.0.0.1", "port": unused.getsockname()[1]}
        settings = {"peers": [taker, refusing], "limits.retrieve_studies": 2}
        with serving(tmp_path_factory.mktemp("retrieve"), settings) as running:
            take_in(running, DATASETS)
            yield running


@pytest.fixture(autouse=True)
def everything_is_taken(answers):
    """Reset the answers of the destination to 0000 before each test."""
    answers.clear()


# --- C-MOVE: statuses, counts, lists -----------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0xB000, 0xB006, 0xB007, 0x0107, 0x0116])
def test_v5_the_statuses_that_count_as_warning(archive, answers, code):
    """A sub-operation with a warning status counts as warning, and the retrieve ends with B000 without a list (V6)."""
    answers[UIDS[1]] = code
    final = move(archive, "TAKER", StudyInstanceUID=STUDY_UID)[-1]
    assert (final.status, counts(final), final.data) == (0xB000, (None, 3, 0, 1), None)


def test_v6_all_warned_is_b000(archive, answers):
    """When all sub-operations end with a warning, the final status is B000, without an Identifier."""
    answers.update(dict.fromkeys(UIDS, 0xB000))
    final = move(archive, "TAKER", StudyInstanceUID=STUDY_UID)[-1]
    assert (final.status, counts(final), final.data) == (0xB000, (None, 0, 0, 4), None)


@pytest.mark.parametrize("code", [0xA700, 0xA900, 0xC000, 0x0122, 0x0124, 0x0111])
@pytest.mark.parametrize("syntax", [IMPLICIT, raw.EXPLICIT])
def test_v5_every_other_status_fails_alone_and_is_listed(archive, answers, code, syntax):
    """A failed sub-operation does not stop the others; the final response lists it."""
    answers[UIDS[0]] = code
    final = move(archive, "TAKER", syntax=syntax, StudyInstanceUID=STUDY_UID)[-1]
    assert (final.status, counts(final)) == (0xB000, (None, 3, 1, 0))
    assert failed_list(final, syntax) == [UIDS[0]]
    assert [each.keyword for each in final.dataset(syntax)] == ["FailedSOPInstanceUIDList"]


def test_v6_all_failed_is_a702_with_the_list(archive, answers):
    """Nothing could be sent: A702, counts and the complete list."""
    answers.update(dict.fromkeys(UIDS, 0xC000))
    final = move(archive, "TAKER", StudyInstanceUID=STUDY_UID)[-1]
    assert (final.status, counts(final)) == (0xA702, (None, 0, 4, 0))
    assert sorted(failed_list(final)) == sorted(UIDS)
    assert final.text(0x0902)


def test_v5_the_counts_add_up_in_every_response(archive, answers):
    """remaining + completed + failed + warning is the total in each Pending; no Pending has a data set (V6)."""
    answers.update({UIDS[0]: 0xB000, UIDS[2]: 0xA700})
    *pendings, final = move(archive, "TAKER", StudyInstanceUID=STUDY_UID)
    assert [sum(counts(each)) for each in pendings] == [4] * 4
    assert [counts(each)[0] for each in pendings] == [3, 2, 1, 0]
    assert all(each.data is None for each in pendings)
    assert counts(final) == (None, 2, 1, 1)


def test_p3_the_final_response_has_no_remaining(archive):
    """Number of Remaining Sub-operations is absent from Success, Warning and Failure."""
    final = move(archive, "TAKER", StudyInstanceUID=STUDY_UID)[-1]
    assert (final.status, counts(final), final.data) == (0x0000, (None, 4, 0, 0), None)


def test_p2_v4_a_known_destination_that_refuses_is_a702(archive):
    """Not A801: the title is known. Every instance is counted and listed."""
    final = move(archive, "REFUSING", StudyInstanceUID=STUDY_UID)[-1]
    assert (final.status, counts(final)) == (0xA702, (None, 0, 4, 0))
    assert sorted(failed_list(final)) == sorted(UIDS)


def test_v2_an_unknown_destination_is_a801_before_anything_else(archive):
    """A801 with an Error Comment, whatever the Identifier says."""
    for keys in ({"StudyInstanceUID": STUDY_UID}, {"StudyInstanceUID": "1.2.3"}, {}):
        responses = move(archive, "NOBODY", **keys)
        assert [each.status for each in responses] == [0xA801]
        assert responses[0].text(0x0902)


def test_v2_the_log_names_the_known_ae_titles(archive):
    """The log says which AE titles are known, and how to add one."""
    told = []
    unsubscribe = archive.events.subscribe(told.append)
    move(archive, "NOBODY", StudyInstanceUID=STUDY_UID)
    unsubscribe()
    sentences = [event.sentence for event in told if hasattr(event, "sentence")]
    assert len(sentences) == 1
    assert all(part in sentences[0] for part in ("NOBODY", "TAKER", "REFUSING", "pacs peers add"))


def test_sent_instances_are_marked_as_used(archive, answers):
    """The index stores when an instance was sent last; a failed sub-operation does not count."""
    answers[UIDS[0]] = 0xA700
    began = time.time_ns() // 1000
    move(archive, "TAKER", StudyInstanceUID=STUDY_UID)
    with archive.index.read() as connection:
        rows = dict(connection.execute(text("SELECT sop_instance_uid, last_used_at FROM image")).all())
    assert all(rows[uid] >= began for uid in UIDS[1:])
    assert (rows[UIDS[0]] or 0) < began


@pytest.mark.parametrize("title", ["TAKER ", " TAKER", "TAKER"])
def test_v2_padding_of_the_destination_does_not_matter(archive, title):
    """Spaces around an AE title are padding."""
    assert move(archive, title, StudyInstanceUID=STUDY_UID)[-1].status == 0x0000


def test_v2_the_case_of_the_destination_matters(archive):
    """AE titles are compared exactly."""
    assert move(archive, "taker", StudyInstanceUID=STUDY_UID)[-1].status == 0xA801


def test_v3_nothing_found_is_success_with_zero_counts(archive):
    """0000, counts of zero, no Identifier."""
    responses = move(archive, "TAKER", StudyInstanceUID="1.2.3.4")
    assert [(each.status, counts(each), each.data) for each in responses] == [(0x0000, (None, 0, 0, 0), None)]


@pytest.mark.parametrize(
    ("level", "keys"),
    [
        ("STUDY", {}),
        ("STUDY", {"StudyInstanceUID": ""}),
        ("STUDY", {"StudyInstanceUID": "*"}),
        ("STUDY", {"StudyInstanceUID": "1.2.*"}),
        ("SERIES", {"StudyInstanceUID": STUDY_UID}),
        ("PATIENT", {"PatientID": "P1"}),
        ("STUDY", {"PatientName": "DOE*"}),
        ("STUDY", {"StudyInstanceUID": STUDY_UID, "WindowCenter": "1"}),
    ],
)
def test_v1_an_identifier_that_selects_nothing_is_a900(archive, level, keys):
    """A missing, universal or wild unique key, a level that is not in the model, a key that is not supported."""
    final = move(archive, "TAKER", level, **keys)[-1]
    assert final.status == 0xA900
    assert final.text(0x0902)
    assert 0x0901 in final.elements


def test_v1_a_list_of_uids_at_the_level(archive):
    """Two of the four images by a list of SOP Instance UIDs."""
    series = DATASETS[0].SeriesInstanceUID
    keys = {"StudyInstanceUID": STUDY_UID, "SeriesInstanceUID": series, "SOPInstanceUID": UIDS[:2]}
    assert counts(move(archive, "TAKER", "IMAGE", **keys)[-1]) == (None, 2, 0, 0)


def test_v1b_patient_root_by_patient_id(archive):
    """PATIENT level takes one single Patient ID; a list of them is A900."""
    assert counts(move(archive, "TAKER", "PATIENT", PATIENT_MOVE, PatientID="P1")[-1]) == (None, 4, 0, 0)
    assert move(archive, "TAKER", "PATIENT", PATIENT_MOVE, PatientID=["P1", "P2"])[-1].status == 0xA900


def test_k4_other_keys_may_select_a_limited_number_of_studies(archive):
    """An Accession Number alone selects in the tolerant mode; more studies than the limit are A900."""
    more = [
        study(series=1, instances=1, number=number, patient_id="MANY", AccessionNumber="ACC")[0] for number in (1, 2, 3)
    ]
    single = study(series=1, instances=1, patient_id="ONE", AccessionNumber="SINGLE")
    take_in(archive, [*more, *single])
    assert counts(move(archive, "TAKER", AccessionNumber="SINGLE")[-1]) == (None, 1, 0, 0)
    refused = move(archive, "TAKER", AccessionNumber="ACC")[-1]
    assert refused.status == 0xA900
    assert "3" in refused.text(0x0902)


def test_k4_the_strict_mode_accepts_unique_keys_only(tmp_path):
    """In the strict mode an Accession Number in a retrieve is A900, with the Offending Element."""
    with serving(tmp_path, {"query.manner": "strict", "peers": [peer_row("X", free_port())]}) as archive:
        refused = move(archive, "X", AccessionNumber="1", StudyInstanceUID="1.2")[-1]
    assert refused.status == 0xA900
    assert refused.elements[0x0901] == b"\x08\x00\x50\x00"


def peer_row(title, port):
    """Return a row of the table of peers."""
    return {"ae_title": title, "host": "127.0.0.1", "port": port}


# --- C-MOVE: the other association -------------------------------------------------------------------------------


def test_p1_v8_the_move_originator_is_the_requestor_of_the_move(tmp_path):
    """Move Originator AE Title and Message ID are those of the C-MOVE; the calling AE title is that of the archive."""
    seen = []

    def answer(event):
        asked = event.request
        seen.append((asked.MoveOriginatorApplicationEntityTitle, asked.MoveOriginatorMessageID, asked.Priority))
        seen.append(event.assoc.requestor.ae_title)
        return 0x0000

    with destination("TAKER", answer) as taker, serving(tmp_path, {"peers": [taker]}) as archive:
        take_in(archive, DATASETS[:1])
        move(archive, "TAKER", message_id=4321, StudyInstanceUID=STUDY_UID)
    assert seen == [("ASKER", 4321, 0), "PACS"]


@pytest.mark.parametrize("accepted", [IMPLICIT, raw.EXPLICIT, BIG, DEFLATED])
@pytest.mark.parametrize("stored", [IMPLICIT, raw.EXPLICIT, BIG, DEFLATED])
def test_v9_native_transfer_syntaxes_are_converted(tmp_path, stored, accepted):
    """An instance in one native transfer syntax arrives in the one the destination accepts, with the same values."""
    arrived = []

    def answer(event):
        arrived.append((event.context.transfer_syntax, event.dataset))
        return 0x0000

    original = study(series=1, instances=1, transfer_syntax=stored)[0]
    with destination("TAKER", answer, [accepted]) as taker, serving(tmp_path, {"peers": [taker]}) as archive:
        send(archive, original, stored)
        final = move(archive, "TAKER", StudyInstanceUID=original.StudyInstanceUID)[-1]
    assert final.status == 0x0000
    ((syntax, dataset),) = arrived
    assert syntax == accepted
    assert values(dataset, syntax) == values(original, stored)


def values(dataset, syntax):
    """Return the values of a data set by tag, its 16 bit pixels in little endian."""
    found = {str(each.tag): each.value for each in dataset if each.keyword != "PixelData"}
    pixels = array("H", dataset.PixelData)
    if syntax == BIG:
        pixels.byteswap()
    return found | {"pixels": pixels.tobytes()}


def send(archive, dataset, syntax):
    """Send a data set by C-STORE of pynetdicom in this transfer syntax."""
    ae = AE("SENDER")
    ae.add_requested_context(dataset.SOPClassUID, syntax)
    association = ae.associate("127.0.0.1", archive.port)
    assert association.is_established
    assert association.send_c_store(dataset).Status == 0x0000
    association.release()


def test_v9_an_encapsulated_instance_that_is_not_accepted_fails_alone(tmp_path):
    """A JPEG image cannot be converted; the others arrive."""
    jpeg = study(series=1, instances=1, transfer_syntax=JPEG, number=7)[0]
    jpeg.StudyInstanceUID = STUDY_UID
    with destination("TAKER", lambda _event: 0x0000) as taker, serving(tmp_path, {"peers": [taker]}) as archive:
        send(archive, jpeg, JPEG)
        take_in(archive, DATASETS[:2])
        final = move(archive, "TAKER", StudyInstanceUID=STUDY_UID)[-1]
    assert (final.status, counts(final)) == (0xB000, (None, 2, 1, 0))
    assert failed_list(final) == [jpeg.SOPInstanceUID]


def test_v5_a_sop_class_without_a_context_fails_alone(tmp_path):
    """A destination that accepts only CT receives the CT; the MR fails and is listed."""
    mr = study(modality="MR", series=1, instances=1)[0]
    mr.StudyInstanceUID = STUDY_UID
    with destination("TAKER", lambda _event: 0x0000) as taker, serving(tmp_path, {"peers": [taker]}) as archive:
        take_in(archive, [mr, *DATASETS[:1]])
        final = move(archive, "TAKER", StudyInstanceUID=STUDY_UID)[-1]
    assert (final.status, counts(final), failed_list(final)) == (0xB000, (None, 1, 1, 0), [mr.SOPInstanceUID])


def test_v5_a_missing_or_truncated_file_fails_alone(tmp_path):
    """A missing and a truncated file fail and are listed; nothing of them is sent."""
    with destination("TAKER", lambda _event: 0x0000) as taker, serving(tmp_path, {"peers": [taker]}) as archive:
        take_in(archive, DATASETS)
        gone, short, *_ = sorted((tmp_path / "files").rglob("*.dcm"))
        gone.unlink()
        short.write_bytes(short.read_bytes()[:-10])
        final = move(archive, "TAKER", StudyInstanceUID=STUDY_UID)[-1]
    assert (final.status, counts(final)) == (0xB000, (None, 2, 2, 0))


def test_p16_v9_more_than_128_contexts_make_several_associations(tmp_path):
    """130 SOP classes, two contexts each, arrive over three associations, none dropped."""
    classes = sorted(str(each.abstract_syntax) for each in AllStoragePresentationContexts)[:130]
    datasets = []
    for place, uid in enumerate(classes):
        dataset = study(series=1, instances=1)[0]
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid
        dataset.SOPInstanceUID = f"1.2.3.{place + 1}"
        datasets.append(dataset)
    associations = set()

    def answer(event):
        associations.add(event.assoc)
        return 0x0000

    with destination("TAKER", answer, classes=classes) as taker, serving(tmp_path, {"peers": [taker]}) as archive:
        take_in(archive, datasets)
        final = move(archive, "TAKER", StudyInstanceUID=datasets[0].StudyInstanceUID)[-1]
    assert (final.status, counts(final)) == (0x0000, (None, 130, 0, 0))
    assert len(associations) == 3


def test_v10_a_destination_that_aborts_is_called_again(tmp_path):
    """An abort fails the first instance of an association; the others are sent on a new association."""
    seen = []

    def answer(event):
        seen.append(event.request.AffectedSOPInstanceUID)
        if len(seen) == 1:
            event.assoc.abort()
        return 0x0000

    with destination("TAKER", answer) as taker, serving(tmp_path, {"peers": [taker]}) as archive:
        take_in(archive, DATASETS)
        final = move(archive, "TAKER", StudyInstanceUID=STUDY_UID)[-1]
    assert (final.status, counts(final)) == (0xB000, (None, 3, 1, 0))
    assert failed_list(final) == [seen[0]]


def test_v10_a_destination_that_is_lost_for_good_fails_what_remains(tmp_path):
    """A destination that always aborts is called twice, not once for every instance."""
    calls = []

    def answer(event):
        calls.append(event.assoc)
        event.assoc.abort()
        return 0x0000

    with destination("TAKER", answer) as taker, serving(tmp_path, {"peers": [taker]}) as archive:
        take_in(archive, DATASETS)
        final = move(archive, "TAKER", StudyInstanceUID=STUDY_UID)[-1]
    assert (final.status, counts(final)) == (0xA702, (None, 0, 4, 0))
    assert len(calls) == 2


def test_v7_pendings_come_while_one_suboperation_is_slow(tmp_path):
    """A Pending response is sent every `pending_seconds` even when no sub-operation ends."""
    told = threading.Event()

    def answer(_event):
        assert told.wait(20)
        return 0x0000

    settings = {"limits.pending_seconds": 0.2}
    with destination("TAKER", answer) as taker, serving(tmp_path, settings | {"peers": [taker]}) as archive:
        take_in(archive, DATASETS[:1])
        with Raw(archive.port) as client:
            client.associate((1, MOVE, [IMPLICIT]))
            keys = identifier("STUDY", StudyInstanceUID=STUDY_UID)
            client.send(request(raw.C_MOVE, 1, MOVE, 1, keys, [raw.element(0x0600, b"TAKER ")]))
            pendings = [client.message() for _ in range(3)]
            told.set()
            final = client.until_final()[-1]
            client.release()
    assert final.status == 0x0000
    assert {each.status for each in pendings} == {0xFF00}
    assert counts(pendings[0]) == (1, 0, 0, 0)


def test_v7_a_pending_response_after_every_n_suboperations(tmp_path):
    """`pending_every = 2` halves the Pendings."""
    settings = {"limits.pending_every": 2}
    with (
        destination("TAKER", lambda _event: 0x0000) as taker,
        serving(tmp_path, settings | {"peers": [taker]}) as archive,
    ):
        take_in(archive, DATASETS)
        *pendings, _ = move(archive, "TAKER", StudyInstanceUID=STUDY_UID)
    assert [counts(each)[0] for each in pendings] == [2, 0]


def test_v11_nothing_more_is_sent_when_the_requestor_is_gone(tmp_path):
    """When the requestor closes its connection, the move stops after the running sub-operation."""
    seen = []
    first = threading.Event()

    def answer(_event):
        seen.append(1)
        first.set()
        time.sleep(0.3)
        return 0x0000

    ended = threading.Event()
    with destination("TAKER", answer) as taker, serving(tmp_path, {"peers": [taker]}) as archive:
        take_in(archive, study(series=1, instances=20))
        archive.events.subscribe(lambda event: ended.set() if type(event).__name__ == "AssociationEnded" else None)
        with Raw(archive.port) as client:
            client.associate((1, MOVE, [IMPLICIT]))
            extra = [raw.element(0x0600, b"TAKER ")]
            client.send(request(raw.C_MOVE, 1, MOVE, 1, identifier("STUDY", StudyInstanceUID=STUDY_UID), extra))
            assert first.wait(10)
        assert ended.wait(10)
        time.sleep(0.5)
    assert len(seen) <= 3


def test_v12_the_server_itself_may_be_the_destination(tmp_path):
    """A move to the server itself succeeds: the instances that arrive are known already."""
    port = free_port()
    with serving(tmp_path, {"server.port": port, "peers": [peer_row("PACS", port)]}) as archive:
        take_in(archive, DATASETS)
        final = move(archive, "PACS", StudyInstanceUID=STUDY_UID)[-1]
        assert (final.status, counts(final)) == (0x0000, (None, 4, 0, 0))
        assert len(list((tmp_path / "files").rglob("*.dcm"))) == 4


# --- C-GET -------------------------------------------------------------------------------------------------------


def get(archive, datasets, classes=(CTImageStorage,), answer=0x0000, syntaxes=(raw.EXPLICIT,)):
    """Send a C-GET for their study by pynetdicom. Return the responses and the received data sets."""
    came = []

    def keep(event):
        came.append(event.dataset)
        return answer

    ae = AE("GETTER")
    ae.add_requested_context(GET)
    for each in classes:
        ae.add_requested_context(each, list(syntaxes))
    roles = [build_role(each, scp_role=True) for each in classes]
    association = ae.associate("127.0.0.1", archive.port, ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, keep)])
    assert association.is_established
    asked = Dataset()
    asked.QueryRetrieveLevel = "STUDY"
    asked.StudyInstanceUID = datasets[0].StudyInstanceUID
    responses = list(association.send_c_get(asked, GET))
    association.release()
    return responses, came


def test_a_get_sends_the_instances_on_the_same_association(archive):
    """All four images, bit for bit the same values, and 0000."""
    responses, came = get(archive, DATASETS)
    assert sorted(each.SOPInstanceUID for each in came) == sorted(UIDS)
    final = responses[-1][0]
    assert (final.Status, final.NumberOfCompletedSuboperations) == (0x0000, 4)
    assert "NumberOfRemainingSuboperations" not in final
    assert {each.SOPInstanceUID: each.PixelData for each in came} == {
        each.SOPInstanceUID: each.PixelData for each in DATASETS
    }


def test_a_get_without_the_right_context_fails(archive):
    """A requestor that accepts only MR receives nothing of a CT study: A702 and the list."""
    responses, came = get(archive, DATASETS, [MRImageStorage])
    final, failed = responses[-1]
    assert came == []
    assert (final.Status, final.NumberOfFailedSuboperations) == (0xA702, 4)
    assert sorted(failed.FailedSOPInstanceUIDList) == sorted(UIDS)


def test_a_get_converts_to_implicit_vr(archive):
    """Explicit becomes Implicit VR for a requestor that accepts nothing else."""
    responses, came = get(archive, DATASETS, syntaxes=[IMPLICIT])
    assert responses[-1][0].Status == 0x0000
    assert len(came) == 4


def test_a_get_whose_instances_are_refused_is_a702(archive):
    """The statuses of the requestor's C-STORE responses count as in a move."""
    responses, _ = get(archive, DATASETS, answer=0xA700)
    assert responses[-1][0].Status == 0xA702
