"""The response and the log of a C-MOVE that fails."""

import logging

import pytest
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as Move

from pacs.observability.events import Notice, OperationFinished, SubOperationFinished
from pacs.testing import serving, study, write
from tests.programs import free_port


@pytest.fixture
def moved(tmp_path):
    """Send a C-MOVE of six instances to a title; the peer GONE is configured, but nothing listens there."""

    def move(title):
        gone = {"ae_title": "GONE", "host": "127.0.0.1", "port": free_port()}
        events = []
        with serving(tmp_path / "pacs", {"peers": [gone]}) as archive:
            built = study(instances=3)
            for path in write(built, tmp_path / "in"):
                archive.storage.import_file(path)
            archive.events.subscribe(events.append)
            ae = AE("ASKER")
            ae.add_requested_context(Move)
            association = ae.associate("127.0.0.1", archive.port)
            identifier = Dataset()
            identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", built[0].StudyInstanceUID
            *_, (final, _) = association.send_c_move(identifier, title, Move)
            association.release()
        return final, events, gone["port"]

    return move


def test_an_unreachable_destination_is_in_the_response_and_once_in_the_log(moved):
    """The Error Comment has the reason; the log the address, once instead of once per instance."""
    final, events, port = moved("GONE")
    assert (final.Status, final.ErrorComment) == (
        0xA702,
        "6 of 6 failed: The peer cannot be reached: Connection refused",
    )
    told = [each.sentence for each in events if isinstance(each, Notice)]
    assert 1 <= len(told) <= 2
    assert f"GONE at 127.0.0.1:{port}" in told[0]
    assert "`pacs check`" in told[0]
    levels = [each.level for each in events if isinstance(each, SubOperationFinished)]
    assert levels == [logging.WARNING] + [logging.DEBUG] * 5


def test_an_unknown_destination_is_logged_with_the_command_to_add_it(moved):
    """One line with the title and the known ones, one for the operation."""
    final, events, _ = moved("NOBODY")
    assert final.Status == 0xA801
    (told,) = [each.sentence for each in events if isinstance(each, Notice)]
    assert "'NOBODY' (configured: GONE); add it with `pacs peers add NOBODY HOST PORT`" in told
    (operation,) = [each for each in events if isinstance(each, OperationFinished)]
    assert (operation.destination, operation.status) == ("NOBODY", 0xA801)
