"""`fetch`: only what is missing, by whichever way works."""

import pytest
from pydicom import dcmread

from pacs import client
from pacs.errors import InvalidArgument, NothingFound
from pacs.telemetry import OperationFinished
from pacs.testing import serving


def uids(paths):
    """The SOP Instance UIDs of files, sorted."""
    return sorted(dcmread(path).SOPInstanceUID for path in paths)


def retrieves(known):
    """Kind, level and completed sub-operations of each retrieve that the archive finished."""
    kinds = ("C-GET", "C-MOVE")
    finished = [each for each in known.events if isinstance(each, OperationFinished) and each.kind in kinds]
    return [(each.kind, each.retrieve_level, each.counts["completed"]) for each in finished]


def test_everything_comes_at_once_into_an_empty_folder(full, tmp_path, datasets):
    """By C-GET, at the level that was asked for."""
    got = client.fetch(full.peer, {"StudyInstanceUID": datasets[0].StudyInstanceUID}, to=tmp_path / "home")
    assert uids(got.paths) == sorted(each.SOPInstanceUID for each in datasets)
    assert (got.skipped, got.completed) == ((), 6)
    assert retrieves(full) == [("C-GET", "STUDY", 6)]


def test_a_second_time_nothing_comes(full, tmp_path, datasets):
    """The PACS is asked what there is, and nothing else."""
    asked = {"StudyInstanceUID": datasets[0].StudyInstanceUID}
    first = client.fetch(full.peer, asked, to=tmp_path / "home")
    second = client.fetch(full.peer, asked, to=tmp_path / "home")
    assert sorted(second.skipped) == sorted(second.paths) == sorted(first.paths)
    assert len(retrieves(full)) == 1


def test_what_is_missing_comes_by_its_uids(full, tmp_path, datasets):
    """One instance of the first series, and the second series as a whole; progress counts what is missing."""
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
    """The one series with a number, the study with an accession number, all of a patient."""
    keys = {"PatientID": "P1", "StudyInstanceUID": datasets[0].StudyInstanceUID, "SeriesNumber": 2}
    assert uids(client.fetch(full.peer, keys, to=tmp_path / "a").paths) == sorted(
        each.SOPInstanceUID for each in datasets[3:]
    )
    assert len(client.fetch(full.peer, {"AccessionNumber": "A1"}, to=tmp_path / "b").paths) == 6
    assert len(client.fetch(full.peer, {"PatientID": "P1"}, to=tmp_path / "c", model="patient").paths) == 6
    assert len(client.fetch(full.peer, {"PatientName": "DOE*"}, to=tmp_path / "c", model="patient").paths) == 6
    assert [level for _, level, _ in retrieves(full)] == ["SERIES", "STUDY", "PATIENT"]


def test_nothing_found_is_an_error(full, tmp_path):
    """By a UID or by another key; and nothing asked for is one as well."""
    for keys in ({"StudyInstanceUID": "1.2.3"}, {"AccessionNumber": "none"}):
        with pytest.raises(NothingFound):
            client.fetch(full.peer, keys, to=tmp_path / "home")
    with pytest.raises(InvalidArgument):
        client.fetch(full.peer, {"PatientName": ""}, to=tmp_path / "home")


def test_a_pacs_without_c_get_is_asked_to_move(tmp_path, datasets, known):
    """An archive that allows this peer no C-GET sends to the built-in receiver instead."""
    home = {"ae_title": "HOME", "host": "127.0.0.1", "port": known.port, "services": ["store", "find", "move"]}
    with serving(tmp_path / "other", {"peers": [home]}) as archive:
        peer = client.Peer("PACS", "127.0.0.1", archive.port, calling_ae_title="HOME")
        client.store(peer, *datasets)
        got = client.fetch(
            peer, {"StudyInstanceUID": datasets[0].StudyInstanceUID}, to=tmp_path / "in", port=known.port
        )
    assert len(got.paths) == 6
