"""`fetch`: retrieves only missing instances, by C-GET or C-MOVE."""

import pytest
from pydicom import Dataset, dcmread

from pacs import client
from pacs.errors import InvalidArgument, NothingFound, OperationFailed
from pacs.observability.events import OperationFinished
from pacs.testing import Fault, serving, study
from tests.client.scripted import answer, matches, scripted


def uids(paths):
    """Return the SOP Instance UIDs of files, sorted."""
    return sorted(dcmread(path).SOPInstanceUID for path in paths)


def retrieves(known):
    """Return kind, level and completed sub-operations of each finished retrieve of the archive."""
    kinds = ("C-GET", "C-MOVE")
    finished = [each for each in known.events if isinstance(each, OperationFinished) and each.kind in kinds]
    return [(each.kind, each.retrieve_level, each.counts["completed"]) for each in finished]


def test_an_empty_folder_gets_everything_in_one_retrieve(full, tmp_path, datasets):
    """By C-GET, at the requested level."""
    got = client.fetch(full.peer, {"StudyInstanceUID": datasets[0].StudyInstanceUID}, to=tmp_path / "home")
    assert uids(got.paths) == sorted(each.SOPInstanceUID for each in datasets)
    assert (got.skipped, got.completed) == ((), 6)
    assert retrieves(full) == [("C-GET", "STUDY", 6)]


def test_a_second_fetch_retrieves_nothing(full, tmp_path, datasets):
    """The PACS is only queried."""
    asked = {"StudyInstanceUID": datasets[0].StudyInstanceUID}
    first = client.fetch(full.peer, asked, to=tmp_path / "home")
    second = client.fetch(full.peer, asked, to=tmp_path / "home")
    assert sorted(second.skipped) == sorted(second.paths) == sorted(first.paths)
    assert len(retrieves(full)) == 1


def test_missing_instances_are_requested_by_uid(full, tmp_path, datasets):
    """One instance of the first series and the whole second series; progress counts the missing instances."""
    asked, told = {"StudyInstanceUID": datasets[0].StudyInstanceUID}, []
    first = client.fetch(full.peer, asked, to=tmp_path / "home")
    gone = [path for path in first.paths if path.stem in [each.SOPInstanceUID for each in datasets[2:]]]
    for path in gone:
        path.unlink()
    second = client.fetch(full.peer, asked, to=tmp_path / "home", on_progress=told.append)
    assert sorted(second.paths) == sorted(first.paths)
    assert sorted(set(second.paths) - set(second.skipped)) == sorted(gone)
    assert sorted(retrieves(full)[1:]) == [("C-GET", "IMAGE", 1), ("C-GET", "SERIES", 3)]
    assert (told[-1].received, told[-1].total) == (4, 4)


def test_other_keys_are_looked_up(full, tmp_path, datasets):
    """A series by its number, a study by its accession number, all studies of a patient."""
    keys = {"PatientID": "P1", "StudyInstanceUID": datasets[0].StudyInstanceUID, "SeriesNumber": 2}
    assert uids(client.fetch(full.peer, keys, to=tmp_path / "a").paths) == sorted(
        each.SOPInstanceUID for each in datasets[3:]
    )
    assert len(client.fetch(full.peer, {"AccessionNumber": "A1"}, to=tmp_path / "b").paths) == 6
    assert len(client.fetch(full.peer, {"PatientID": "P1"}, to=tmp_path / "c", model="patient").paths) == 6
    assert len(client.fetch(full.peer, {"PatientName": "DOE*"}, to=tmp_path / "c", model="patient").paths) == 6
    assert [level for _, level, _ in retrieves(full)] == ["SERIES", "STUDY", "PATIENT"]


def test_nothing_found_is_an_error(full, tmp_path):
    """By UID or by another key; a request without keys is an error too."""
    for keys in ({"StudyInstanceUID": "1.2.3"}, {"AccessionNumber": "none"}):
        with pytest.raises(NothingFound):
            client.fetch(full.peer, keys, to=tmp_path / "home")
    with pytest.raises(InvalidArgument):
        client.fetch(full.peer, {"PatientName": ""}, to=tmp_path / "home")


def test_c_move_replaces_an_unsupported_c_get(tmp_path, datasets, known):
    """The archive does not allow C-GET for this peer and sends to the built-in receiver instead."""
    home = {"ae_title": "HOME", "host": "127.0.0.1", "port": known.port, "services": ["store", "find", "move"]}
    with serving(tmp_path / "other", {"peers": [home]}) as archive:
        peer = client.Peer("PACS", "127.0.0.1", archive.port, calling_ae_title="HOME")
        client.store(peer, *datasets)
        got = client.fetch(
            peer, {"StudyInstanceUID": datasets[0].StudyInstanceUID}, to=tmp_path / "in", port=known.port
        )
    assert len(got.paths) == 6


def test_images_arrive_as_they_are_stored(known, tmp_path):
    """Also JPEG that the archive does not decompress: one C-GET proposes all transfer syntaxes of the SOP Classes."""
    jpeg = study(series=1, instances=2, transfer_syntax="1.2.840.10008.1.2.4.50")
    plain = study(series=2, instances=2)[2:]
    assert client.store(known.peer, *jpeg, *plain).failed == ()
    got = client.fetch(known.peer, {"StudyInstanceUID": jpeg[0].StudyInstanceUID}, to=tmp_path / "home")
    assert uids(got.paths) == sorted(each.SOPInstanceUID for each in (*jpeg, *plain))
    assert {dcmread(path).file_meta.TransferSyntaxUID for path in got.paths} == {
        "1.2.840.10008.1.2.4.50",
        "1.2.840.10008.1.2.1",
    }
    assert retrieves(known) == [("C-GET", "STUDY", 4)]


def test_failed_instances_are_retried_with_their_contexts(tmp_path):
    """A PACS that does not tell the SOP Classes at first: a second C-GET proposes the one that is not common."""
    common, rare = study(series=1, instances=2)
    rare.SOPClassUID = rare.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.5.2"
    with serving(tmp_path / "pacs", watched=True) as pacs:
        pacs.add(common, rare)
        pacs.faults.add(Fault("C-FIND", nth=1, status=0xC001))
        got = client.fetch(pacs.address, {"StudyInstanceUID": common.StudyInstanceUID}, to=tmp_path / "home")
        assert len(pacs.received.c_get) == 2
    assert uids(got.paths) == sorted((common.SOPInstanceUID, rare.SOPInstanceUID))
    assert (got.failed, got.failed_uids) == (0, ())


def test_c_move_follows_a_failed_c_get(tmp_path):
    """If the C-MOVE fails too, its error mentions the C-GET."""

    def get(association, message):
        answer(association, message, 0xC001, error_comment="no")

    def move(association, message):
        answer(association, message, 0xA801)

    with scripted(get=get, move=move) as pacs, pytest.raises(OperationFailed, match="C-MOVE") as raised:
        client.fetch(pacs.peer, {"StudyInstanceUID": "1.2.3"}, to=tmp_path)
    assert 'C-GET ended with status 0xC001, Failed: unable to process ("no")' in raised.value.__notes__[0]


def test_surplus_matches_are_ignored(tmp_path):
    """Matches of other series and duplicate matches: nothing is missing, so nothing is retrieved."""
    datasets = study(series=2, instances=2)
    keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")

    def find(association, message):
        message.drain()
        found = [Dataset() for _ in datasets]
        for match, dataset in zip(found, datasets, strict=True):
            for keyword in keywords:
                setattr(match, keyword, dataset[keyword].value)
        matches(association, message, found * 2)
        answer(association, message, 0x0000)

    with client.receiving(tmp_path) as receiver:
        client.store(f"HOME@127.0.0.1:{receiver.port}", *datasets)
    with scripted(find=find) as pacs:
        got = client.fetch(pacs.peer, {"StudyInstanceUID": datasets[0].StudyInstanceUID}, to=tmp_path)
    assert (len(got.paths), len(got.skipped)) == (4, 4)
