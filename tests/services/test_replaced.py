"""Instances that are replaced or deleted between the search that finds them and the moment at which they are read."""

import pytest
from pydicom import dcmread

from pacs.errors import InstanceMissing
from pacs.services import replaced
from pacs.support.cancellation import Cancellation
from pacs.testing import serving, study
from tests import raw
from tests.archives import take_in
from tests.dicom.build import ask
from tests.services.test_retrieve import selection

UID = study(series=1, instances=1)[0].StudyInstanceUID


def version(number, **attributes):
    """Return version `number` of the instances of a study: a row element and an element of the file name it."""
    named = {"ImageComments": f"version {number}", "WindowCenter": str(number), "WindowWidth": "1"}
    return study(series=1, instances=2, **named | attributes)


@pytest.fixture
def archive(tmp_path, database_url):
    """An archive of two images, which are replaced when they are sent again."""
    with serving(tmp_path / "pacs", {"storage.duplicates": "replace", "database.url": database_url}) as running:
        take_in(running, version(1))
        yield running


@pytest.fixture
def retrieval(archive):
    """A retrieve of the study that has selected its instances."""
    return archive.retrieves.select(selection(StudyInstanceUID=UID), Cancellation())


def read(archive, retrieval):
    """Return the data sets of a retrieve in their stored transfer syntaxes."""

    def data(instance):
        return b"".join(archive.retrieves.data(instance, instance.transfer_syntax))

    return [archive.retrieves.read(retrieval, each, data) for each in retrieval.instances]


def encoded(datasets):
    """Return data sets as they are stored."""
    return [raw.encoded(each, raw.EXPLICIT) for each in datasets]


# --- retrieve ----------------------------------------------------------------------------------------------------


def test_an_instance_that_was_replaced_since_the_selection_is_read_as_it_is_now(archive, retrieval):
    """Not only the first time."""
    for number in (2, 3):
        take_in(archive, version(number))
        assert read(archive, retrieval) == encoded(version(number))


def test_an_instance_in_another_transfer_syntax_and_sop_class_is_read_by_what_it_is_now(archive, retrieval):
    """`read` gets the new row: where the data set begins, and in what it is encoded."""
    now = version(2, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    for each in now:
        with archive.storage.receive(each.SOPClassUID, each.SOPInstanceUID, raw.IMPLICIT, "X" * 16) as reception:
            reception.write(raw.encoded(each, raw.IMPLICIT))
            reception.finish()
    assert read(archive, retrieval) == [raw.encoded(each, raw.IMPLICIT) for each in now]


def test_an_instance_that_is_replaced_again_before_its_new_file_is_opened_is_looked_up_again(
    archive, retrieval, monkeypatch
):
    """As often as that happens, within reason."""
    monkeypatch.setattr(replaced, "ATTEMPTS", 4)
    instance, replacements = retrieval.instances[0], iter(range(2, 2 + replaced.ATTEMPTS - 1))

    def data(each):
        if (number := next(replacements, None)) is not None:
            take_in(archive, version(number))
        return b"".join(archive.retrieves.data(each, each.transfer_syntax))

    expected = encoded(version(replaced.ATTEMPTS))[0]
    assert archive.retrieves.read(retrieval, instance, data) == expected


def test_a_file_that_is_open_is_read_to_its_end_although_its_instance_is_replaced(archive, retrieval):
    """What was stored when its turn came is sent completely."""
    pieces = [archive.retrieves.data(each, raw.EXPLICIT) for each in retrieval.instances]
    begun = [next(each) for each in pieces]
    take_in(archive, version(2))
    assert [first + b"".join(rest) for first, rest in zip(begun, pieces, strict=True)] == encoded(version(1))


def test_an_instance_that_was_deleted_since_the_selection_is_missing(archive, retrieval):
    """The error says why."""
    archive.maintenance.delete(retrieval.instances)
    with pytest.raises(InstanceMissing, match="was deleted since it was selected"):
        read(archive, retrieval)


def test_an_instance_that_is_replaced_by_one_of_another_study_is_not_selected_any_more(archive, retrieval):
    """Whoever asked for one study gets no image of another one."""
    moved = version(2)
    for each in moved:
        each.StudyInstanceUID, each.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    take_in(archive, moved)
    with pytest.raises(InstanceMissing, match="since it was selected"):
        read(archive, retrieval)


def test_a_file_that_is_lost_while_its_row_is_not_stays_an_error(archive, retrieval, tmp_path):
    """It was not replaced."""
    for path in (tmp_path / "pacs" / "files").rglob("*.dcm"):
        path.unlink()
    with pytest.raises(InstanceMissing, match="The stored file is missing"):
        read(archive, retrieval)


def test_a_digest_is_verified_of_what_is_there_now(archive, retrieval):
    """With `files.verify` too."""
    files = archive.config.files.model_copy(update={"verify": True})
    archive.reload(archive.config.model_copy(update={"files": files}))
    take_in(archive, version(2))
    assert read(archive, retrieval) == encoded(version(2))


# --- query -------------------------------------------------------------------------------------------------------


def answers_to(archive, query, meanwhile):
    """Return the matches of a query during which something happens, after its page was read from the index."""
    (page,) = archive.queries.pages(query, Cancellation())
    meanwhile()
    return [each.data_set(query) for each in page]


def test_a_match_whose_instance_was_replaced_is_the_new_one_altogether(archive):
    """The attributes of its row and those of its file."""
    query = ask("IMAGE", ImageComments="", WindowCenter="")
    found = answers_to(archive, query, lambda: take_in(archive, version(2)))
    assert [(each.ImageComments, each.WindowCenter) for each in found] == [("version 2", 2)] * 2


@pytest.mark.parametrize("key", ["WindowCenter", "ImageComments"])
def test_a_match_whose_instance_was_replaced_by_one_that_does_not_match_is_none(archive, key):
    """By a key in the file or in the row."""
    value = str(getattr(version(1)[0], key))
    query = ask("IMAGE", **{"WindowCenter": "", "WindowWidth": "", key: value})
    assert answers_to(archive, query, lambda: take_in(archive, version(2))) == []


def test_a_match_whose_instance_was_deleted_is_none(archive):
    """The query goes on with the others."""
    query = ask("IMAGE", WindowCenter="")
    first, second = archive.maintenance.instances({})
    (found,) = answers_to(archive, query, lambda: archive.maintenance.delete([first]))
    assert found.SOPInstanceUID == second.sop_instance_uid


# --- export ------------------------------------------------------------------------------------------------------


def test_an_instance_that_was_replaced_is_exported_as_it_is_now(archive, tmp_path):
    """A deleted one is listed with a sentence."""
    selected = archive.maintenance.instances({})
    take_in(archive, version(2))
    assert archive.exporter.export(selected, tmp_path / "out").instances == 2
    assert {dcmread(path).ImageComments for path in (tmp_path / "out").rglob("*.dcm")} == {"version 2"}
    archive.maintenance.delete(selected)
    deleted = archive.exporter.export(selected, tmp_path / "again")
    assert deleted.instances == 0
    assert all("run the command again" in each.comment for each in deleted.failed)
    assert len(deleted.failed) == 2
