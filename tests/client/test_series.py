"""`load_series`: which series is meant, and how it comes."""

import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import SimpleITK
from pydicom import Dataset

from pacs import client
from pacs.client import AmbiguousSeries, InvalidArgument, NothingFound, OperationFailed
from pacs.errors import TooManyMatches
from pacs.testing import serving, study
from tests.client.images import read, same
from tests.client.test_interop import other


class Enough(Exception):
    """Raised by who is told how far it is."""


def described(datasets, *descriptions):
    """The same data sets with other descriptions of their series, by Series Number."""
    for each in datasets:
        each.SeriesDescription = descriptions[int(each.SeriesNumber) - 1]
    return datasets


def originals():
    """Two studies of a patient."""
    sent = described(study(series=3, instances=4), "Thorax^lung", "Thorax^soft", "topogram")
    return sent + study(series=1, instances=2, number=2, modality="MR", SeriesDescription="t1 sag")


@pytest.fixture(params=["pacs", "strict", "orthanc", "dcmqrscp"])
def peer(request, tmp_path):
    """Archives that know HOME, with these studies in each."""
    sent = originals()
    if request.param in ("orthanc", "dcmqrscp"):
        with other(request.param, tmp_path / "other") as pacs:
            assert client.store(pacs.peer, *sent).failed == ()
            yield pacs.peer
    else:
        manner = "strict" if request.param == "strict" else "tolerant"
        with serving(tmp_path / "pacs", {"query.manner": manner}) as archive:
            assert client.store(f"PACS@127.0.0.1:{archive.port}", *sent).failed == ()
            yield f"PACS@127.0.0.1:{archive.port}"


def loaded(peer, **keys):
    """The UIDs of the instances of a series, in the order they are loaded in."""
    return [each.SOPInstanceUID for each in client.load_series(peer, as_datasets=True, **keys)]


def uids(number, *, of=1, modality="CT", instances=4, series=3):
    """The UIDs that a series of the fixture has, in order."""
    sent = study(series=series, instances=instances, number=of, modality=modality)
    return [each.SOPInstanceUID for each in sent if each.SeriesNumber == number]


def test_the_one_series_comes_as_an_image(peer, tmp_path):
    """Chosen by patient, day and description; it is what SimpleITK reads of the original files."""
    image = client.load_series(peer, patient_id="P1", study_date="20260101", series_description="Thorax^soft")
    assert (image.GetSize(), image.GetSpacing(), image.GetOrigin()) == ((8, 8, 4), (1, 1, 1), (0, 0, 1))
    assert same(image, read(tmp_path / "itk", originals()[4:8]))


def test_keys_mean_what_they_mean_in_a_query(peer):
    """Wild cards, a day as a date, ranges, lists of UIDs, numbers; at any level, and of single images."""
    assert loaded(peer, patient_id="P1", series_description="*soft") == uids(2)
    assert loaded(peer, patient_id="P?", modality="MR") == uids(1, of=2, modality="MR", instances=2, series=1)
    assert loaded(peer, study_date=date(2026, 1, 1), SeriesNumber=3) == uids(3)
    assert loaded(peer, study_date="20260115-", PatientName="DOE^*") == uids(
        1, of=2, modality="MR", instances=2, series=1
    )
    assert loaded(peer, StudyDescription="CT study 1", series_description="topogram") == uids(3)
    assert loaded(peer, patient_id="P1", series_description="*soft", InstanceNumber=3) == uids(2)[2:3]


def test_several_that_match_are_listed(peer):
    """With what tells them apart, and what of it the PACS says."""
    with pytest.raises(AmbiguousSeries) as raised:
        client.load_series(peer, patient_id="P1", modality="CT")
    found = raised.value.candidates
    assert [(each.study_date, each.modality, each.number, each.instances) for each in found] == [
        ("20260101", "CT", "1", 4),
        ("20260101", "CT", "2", 4),
        ("20260101", "CT", "3", 4),
    ]
    lines = str(raised.value).splitlines()
    assert lines[0] == "3 series match: add another key, for example SeriesInstanceUID"
    assert "2026-01-01  CT  series 2  " in lines[2]
    assert "4 images" in lines[2]
    assert found[1].series_uid in lines[2]
    assert "P1" not in raised.value.comment
    assert loaded(peer, patient_id="P1", SeriesInstanceUID=found[1].series_uid) == uids(2)


def test_nothing_that_matches_is_an_error(peer):
    """At any level: a patient, a day, a description whose case is another, an image."""
    for keys in (
        {"patient_id": "P2"},
        {"patient_id": "P1", "study_date": "20250101"},
        {"patient_id": "P1", "series_description": "thorax^soft"},
        {"patient_id": "P1", "series_description": "Thorax"},
        {"patient_id": "P1", "series_description": "topogram", "InstanceNumber": 9},
    ):
        with pytest.raises(NothingFound):
            client.load_series(peer, **keys)


def test_a_series_is_found_by_its_uid_alone(peer):
    """By a relational query, which is negotiated."""
    assert loaded(peer, SeriesInstanceUID=study()[20].SeriesInstanceUID) == uids(2)


# --- of this archive alone ---------------------------------------------------------------------------------------


def test_what_could_be_any_study_is_not_asked(full):
    """Nor what is no key, given twice, or no value of its key."""
    for keys in (
        {},
        {"modality": "CT"},
        {"patient_id": "P1", "NoSuchKeyword": "1"},
        {"patient_id": "P1", "PatientID": "P2"},
        {"study_date": "yesterday"},
    ):
        with pytest.raises(InvalidArgument):
            client.load_series(full.peer, **keys)


def test_too_many_studies_are_not_looked_into(full, monkeypatch):
    """One request for each of them would be too much to ask."""
    client.store(full.peer, *study(series=1, instances=1, number=2))
    monkeypatch.setattr("pacs.client.series.match.MAX_STUDIES", 1)
    with pytest.raises(TooManyMatches, match="add another key"):
        client.load_series(full.peer, patient_id="P1")


def test_too_many_series_are_not_looked_into(tmp_path, monkeypatch):
    """Of each an instance would have to come, to see what no answer of dcmqrscp has."""
    monkeypatch.setattr("pacs.client.series.match.MAX_HEADERS", 1)
    with other("dcmqrscp", tmp_path / "other") as pacs:
        client.store(pacs.peer, *study(series=2, instances=1))
        with pytest.raises(TooManyMatches, match="too many to search"):
            client.load_series(pacs.peer, patient_id="P1", series_description="series 1")


def test_an_empty_value_at_a_pacs_that_knows_the_key_matches_nothing(known):
    """An unknown description is not the one asked for, and no instance is retrieved to see it."""
    sent = study(series=2, instances=2)
    for each in sent[:2]:
        del each.SeriesDescription
    client.store(known.peer, *sent)
    assert loaded(known.peer, patient_id="P1", series_description="series 2") == [e.SOPInstanceUID for e in sent[2:]]
    assert len(known.statuses("C-GET")) == 1


def test_the_folder_given_is_kept(full, tmp_path, datasets):
    """And what is there is not retrieved again."""
    for _ in range(2):
        client.load_series(full.peer, patient_id="P1", SeriesNumber=2, to=tmp_path / "kept")
    assert sorted(each.stem for each in (tmp_path / "kept").rglob("*.dcm")) == sorted(
        each.SOPInstanceUID for each in datasets[3:]
    )
    assert len(full.statuses("C-GET")) == 1


def test_a_pacs_without_c_get_sends_to_the_built_in_receiver(tmp_path, known, datasets):
    """By C-MOVE, with the arguments that `fetch` takes."""
    home = {"ae_title": "HOME", "host": "127.0.0.1", "port": known.port, "services": ["store", "find", "move"]}
    with serving(tmp_path / "other", {"peers": [home]}) as archive:
        peer = client.Peer("PACS", "127.0.0.1", archive.port, calling_ae_title="HOME")
        client.store(peer, *datasets)
        image = client.load_series(peer, patient_id="P1", SeriesNumber=2, port=known.port, host="127.0.0.1")
    assert image.GetSize() == (8, 8, 3)


def test_progress_is_told_and_what_it_raises_stops_it(full, tmp_path, monkeypatch):
    """The folder that was made for it is gone, whatever happens."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    told = []
    client.load_series(full.peer, patient_id="P1", SeriesNumber=2, on_progress=told.append)
    assert told[-1].received == 3

    def enough(_progress):
        raise Enough

    with pytest.raises(Enough):
        client.load_series(full.peer, patient_id="P1", SeriesNumber=2, on_progress=enough)
    assert not list(tmp_path.glob("pacs-series-*"))


def test_a_failure_of_the_pacs_comes_out_as_it_is(tmp_path):
    """One that may not be asked."""
    access = {"access.services": ["store"]}
    with serving(tmp_path / "pacs", access) as archive, pytest.raises(OperationFailed, match="0x0124"):
        client.load_series(f"PACS@127.0.0.1:{archive.port}", patient_id="P1")


def test_without_simpleitk_data_sets_come(full, monkeypatch, datasets):
    """In the order that the image would have."""
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    found = client.load_series(full.peer, patient_id="P1", SeriesNumber=1)
    assert all(isinstance(each, Dataset) for each in found)
    assert [each.SOPInstanceUID for each in found] == [each.SOPInstanceUID for each in datasets[:3]]
    assert all(each.PixelData for each in found)


def example(*arguments):
    """What examples/load_a_series.py prints, and its exit status."""
    program = Path(__file__).parents[2] / "examples" / "load_a_series.py"
    ran = subprocess.run([sys.executable, program, *map(str, arguments)], capture_output=True, text=True, check=False)
    return ran.stdout + ran.stderr, ran.returncode


def test_the_example_writes_a_volume(full, tmp_path):
    """Which SimpleITK reads again; where several series match it lists them and ends."""
    peer, file = f"PACS@127.0.0.1:{full.archive.port}", tmp_path / "volume.nii.gz"
    assert example(peer, "P1", "series 2", file) == (f"8 x 8 x 3 voxels of 1 x 1 x 1 mm in {file}\n", 0)
    assert SimpleITK.ReadImage(file).GetSize() == (8, 8, 3)
    said, status = example(peer, "P1", "series*", file)
    assert (said.splitlines()[0], status) == ("2 series match: add another key, for example SeriesInstanceUID", 1)
