"""`load_series`: selection and retrieval of the series."""

import inspect
import subprocess
import sys
from datetime import date
from importlib.metadata import requires
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
    """Raised by a progress callback."""


def described(datasets, *descriptions):
    """Return the data sets with new series descriptions, by Series Number."""
    for each in datasets:
        each.SeriesDescription = descriptions[int(each.SeriesNumber) - 1]
    return datasets


def originals():
    """Two studies of a patient."""
    sent = described(study(series=3, instances=4), "Thorax^lung", "Thorax^soft", "topogram")
    return sent + study(series=1, instances=2, number=2, modality="MR", SeriesDescription="t1 sag")


@pytest.fixture(params=["pacs", "strict", "orthanc", "dcmqrscp"])
def peer(request, tmp_path):
    """Archives that know HOME, with these studies."""
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
    """Return the UIDs of the instances of a series, in the order of loading."""
    return [each.SOPInstanceUID for each in client.load_datasets(peer, **keys)]


def uids(number, *, of=1, modality="CT", instances=4, series=3):
    """Return the UIDs of a series of the fixture, in order."""
    sent = study(series=series, instances=instances, number=of, modality=modality)
    return [each.SOPInstanceUID for each in sent if each.SeriesNumber == number]


def test_the_matching_series_is_loaded_as_an_image(peer, tmp_path):
    """Selected by patient, date and description; it equals what SimpleITK reads from the original files."""
    image = client.load_series(peer, patient_id="P1", study_date="20260101", series_description="Thorax^soft")
    assert (image.GetSize(), image.GetSpacing(), image.GetOrigin()) == ((8, 8, 4), (1, 1, 1), (0, 0, 1))
    assert same(image, read(tmp_path / "itk", originals()[4:8]))


def test_keys_match_as_in_a_query(peer):
    """Wild cards, a date object, ranges, lists of UIDs, numbers; at any level, including IMAGE."""
    assert loaded(peer, patient_id="P1", series_description="*soft") == uids(2)
    assert loaded(peer, patient_id="P?", modality="MR") == uids(1, of=2, modality="MR", instances=2, series=1)
    assert loaded(peer, study_date=date(2026, 1, 1), SeriesNumber=3) == uids(3)
    assert loaded(peer, study_date="20260115-", PatientName="DOE^*") == uids(
        1, of=2, modality="MR", instances=2, series=1
    )
    assert loaded(peer, StudyDescription="CT study 1", series_description="topogram") == uids(3)
    assert loaded(peer, patient_id="P1", series_description="*soft", InstanceNumber=3) == uids(2)[2:3]


def test_several_matching_series_are_listed(peer):
    """With their differences, as far as the PACS returns them."""
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


def test_no_matching_series_is_an_error(peer):
    """At any level: a patient, a date, a description in another case, an image."""
    for keys in (
        {"patient_id": "P2"},
        {"patient_id": "P1", "study_date": "20250101"},
        {"patient_id": "P1", "series_description": "thorax^soft"},
        {"patient_id": "P1", "series_description": "Thorax"},
        {"patient_id": "P1", "series_description": "topogram", "InstanceNumber": 9},
    ):
        with pytest.raises(NothingFound):
            client.load_series(peer, **keys)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"series_description": "thorax^soft"}, "SeriesDescription 'Thorax^soft' differs only in case"),
        ({"series_description": "THORAX*"}, "SeriesDescription 'Thorax^lung' differs only in case"),
        ({"StudyDescription": "ct STUDY 1"}, "StudyDescription 'CT study 1' differs only in case"),
        ({"series_description": "Abdomen"}, "series found matches the keys"),
    ],
)
def test_a_value_that_differs_only_in_case_is_named(keys, said):
    """Of a series or a study, if nothing matches."""
    with serving() as archive:
        archive.add(originals())
        with pytest.raises(NothingFound) as raised:
            client.load_series(archive.address, patient_id="P1", **keys)
    assert str(raised.value).endswith(said)


def test_a_series_is_found_by_its_uid_alone(peer):
    """By a relational query, which is negotiated."""
    assert loaded(peer, SeriesInstanceUID=study()[20].SeriesInstanceUID) == uids(2)


# --- only with this archive --------------------------------------------------------------------------------------


def test_keys_that_match_any_study_are_rejected(full):
    """Nor an invalid key, a key given twice, or a value that not every PACS understands."""
    for keys in (
        {},
        {"modality": "CT"},
        {"patient_id": "P1", "NoSuchKeyword": "1"},
        {"patient_id": "P1", "PatientID": "P2"},
        {"study_date": "yesterday"},
        {"study_date": "202501"},
        {"patient_id": "P1", "study_date": "*"},
    ):
        with pytest.raises(InvalidArgument):
            client.load_series(full.peer, **keys)


def test_too_many_studies_are_an_error(full, monkeypatch):
    """Each would need a request."""
    client.store(full.peer, *study(series=1, instances=1, number=2))
    monkeypatch.setattr("pacs.client.series.match.MAX_STUDIES", 1)
    with pytest.raises(TooManyMatches, match="add another key"):
        client.load_series(full.peer, patient_id="P1")


def test_too_many_series_are_an_error(tmp_path, monkeypatch):
    """Each would need an instance, because dcmqrscp does not return the key."""
    monkeypatch.setattr("pacs.client.series.match.MAX_HEADERS", 1)
    with other("dcmqrscp", tmp_path / "other") as pacs:
        client.store(pacs.peer, *study(series=2, instances=1))
        with pytest.raises(TooManyMatches, match="too many to search"):
            client.load_series(pacs.peer, patient_id="P1", series_description="series 1")


def test_an_empty_value_of_a_supported_key_matches_nothing(known):
    """An unknown description matches nothing, and no instance is retrieved to compare it."""
    sent = study(series=2, instances=2)
    for each in sent[:2]:
        del each.SeriesDescription
    client.store(known.peer, *sent)
    assert loaded(known.peer, patient_id="P1", series_description="series 2") == [e.SOPInstanceUID for e in sent[2:]]
    assert len(known.statuses("C-GET")) == 1


def test_a_given_folder_is_kept(full, tmp_path, datasets):
    """Present instances are not retrieved again."""
    for _ in range(2):
        client.load_series(full.peer, patient_id="P1", SeriesNumber=2, to=tmp_path / "kept")
    assert sorted(each.stem for each in (tmp_path / "kept").rglob("*.dcm")) == sorted(
        each.SOPInstanceUID for each in datasets[3:]
    )
    assert len(full.statuses("C-GET")) == 1


def test_a_pacs_without_c_get_sends_to_the_built_in_receiver(tmp_path, known, datasets):
    """By C-MOVE, with the arguments of `fetch`."""
    home = {"ae_title": "HOME", "host": "127.0.0.1", "port": known.port, "services": ["store", "find", "move"]}
    with serving(tmp_path / "other", {"peers": [home]}) as archive:
        peer = client.Peer("PACS", "127.0.0.1", archive.port, calling_ae_title="HOME")
        client.store(peer, *datasets)
        image = client.load_series(peer, patient_id="P1", SeriesNumber=2, port=known.port, host="127.0.0.1")
    assert image.GetSize() == (8, 8, 3)


def test_progress_is_reported_and_its_exception_stops_the_retrieve(full, tmp_path, monkeypatch):
    """The temporary folder is removed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    told = []
    client.load_series(full.peer, patient_id="P1", SeriesNumber=2, on_progress=told.append)
    assert told[-1].received == 3

    def enough(_progress):
        raise Enough

    with pytest.raises(Enough):
        client.load_series(full.peer, patient_id="P1", SeriesNumber=2, on_progress=enough)
    assert not list(tmp_path.glob("pacs-series-*"))


def test_a_failure_of_the_pacs_is_raised_unchanged(tmp_path):
    """The PACS does not authorize the query."""
    access = {"access.services": ["store"]}
    with serving(tmp_path / "pacs", access) as archive, pytest.raises(OperationFailed, match="0x0124"):
        client.load_series(f"PACS@127.0.0.1:{archive.port}", patient_id="P1")


def test_data_sets_are_in_the_order_of_the_image(full, datasets):
    """With their pixels."""
    found = client.load_datasets(full.peer, patient_id="P1", SeriesNumber=1)
    assert all(isinstance(each, Dataset) for each in found)
    assert [each.SOPInstanceUID for each in found] == [each.SOPInstanceUID for each in datasets[:3]]
    assert all(each.PixelData for each in found)


def test_without_simpleitk_the_error_says_what_to_install(full, monkeypatch, datasets):
    """Before anything is retrieved; data sets can be loaded."""
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(ImportError, match=r"pip install SimpleITK`, or use load_datasets") as raised:
        client.load_series(full.peer, patient_id="P1", SeriesNumber=1)
    assert isinstance(raised.value, client.PackageMissing)
    assert full.statuses("C-FIND", 0) == []
    assert len(client.load_datasets(full.peer, patient_id="P1", SeriesNumber=1)) == 3


def test_the_argument_of_earlier_versions_is_refused(full):
    """With the name of the function that replaces it."""
    with pytest.raises(InvalidArgument, match=r"use client\.load_datasets"):
        client.load_series(full.peer, patient_id="P1", as_datasets=True)


def example(*arguments):
    """Run examples/load_a_series.py; return its output and exit status."""
    program = Path(__file__).parents[2] / "examples" / "load_a_series.py"
    ran = subprocess.run([sys.executable, program, *map(str, arguments)], capture_output=True, text=True, check=False)
    return ran.stdout + ran.stderr, ran.returncode


def test_the_example_writes_a_volume(full, tmp_path):
    """SimpleITK reads it; if several series match, the example lists them and exits."""
    peer, file = f"PACS@127.0.0.1:{full.archive.port}", tmp_path / "volume.nii.gz"
    assert example(peer, "P1", "series 2", file) == (f"8 x 8 x 3 voxels of 1 x 1 x 1 mm in {file}\n", 0)
    assert SimpleITK.ReadImage(file).GetSize() == (8, 8, 3)
    said, status = example(peer, "P1", "series*", file)
    assert (said.splitlines()[0], status) == ("2 series match: add another key, for example SeriesInstanceUID", 1)


def test_numpy_comes_with_every_installation():
    """`SimpleITK.GetArrayFromImage` and `pixel_array` need it."""
    assert any(each.startswith("numpy") and "extra" not in each for each in requires("pacs-archive") or ())


def test_both_functions_have_one_signature():
    """With the names of all arguments, for help and completion."""
    image, datasets = (inspect.signature(each) for each in (client.load_series, client.load_datasets))
    assert image.parameters == datasets.parameters
    assert {"peer", "patient_id", "senders", "keys"} < set(image.parameters)
    assert datasets.return_annotation == list[Dataset]
