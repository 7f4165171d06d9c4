"""pynetdicom gets every response, although it loses those that come too early (`pacs.dimse.server.client_defects`)."""

import pynetdicom
import pytest

from pacs.config.model import Config
from pacs.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacs.dimse.server.acceptor_policy import AcceptorPolicy
from pacs.dimse.server.client_defects import LONGEST_PAUSE, LOST_RESPONSES, ResponseHold
from pacs.dimse.server.server import Settings
from pacs.dimse.upper.user_information import Agreement
from pacs.testing import serving, study
from tests.archives import FIND
from tests.interop.lost_responses import find_images, late_requestor, measure

LATE = 0.1
"""Seconds for which the second thread of the requestor is late in the tests."""

PYNETDICOM = pynetdicom.PYNETDICOM_IMPLEMENTATION_UID, pynetdicom.PYNETDICOM_IMPLEMENTATION_VERSION


@pytest.fixture
def server(request, tmp_path):
    """A server with five images, and the seconds of `clients.pynetdicom_hold` that the test names."""
    with serving(tmp_path, {"clients.pynetdicom_hold": request.param}) as running:
        running.add(study(series=1, instances=5))
        yield running


@pytest.mark.parametrize("server", [2], indirect=True)
def test_a_requestor_gets_every_answer_although_its_second_thread_is_late(server):
    """The answers come when that thread has passed; so they do on a busy machine."""
    association = late_requestor(server.port, LATE)
    assert [len(list(find_images(association))) for _ in range(3)] == [6, 6, 6]
    association.release()


@pytest.mark.parametrize("server", [2], indirect=True)
def test_a_cancel_while_a_request_is_held_ends_the_operation(server):
    """The C-CANCEL arrives before the operation begins, which is then Cancelled without a match."""
    association = late_requestor(server.port, LATE)
    assert len(list(find_images(association))) == 6
    responses = find_images(association, msg_id=7)
    association.send_c_cancel(7, query_model=FIND)
    assert [status.Status for status, _ in responses] == [0xFE00]
    association.release()


@pytest.mark.parametrize(
    ("class_uid", "version_name", "expected"),
    [
        (*PYNETDICOM, True),
        ("1.2.826.0.1.3680043.9.3811.2.0.2", "PYNETDICOM_202", True),
        (IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, False),
        ("1.2.276.0.7230010.3.0.3.6.7", "OFFIS_DCMTK_367", False),
        (PYNETDICOM[0], "OTHER_1", False),
        ("1.2.826.0.1.3680043.9.38110.1", PYNETDICOM[1], False),
        ("", "", False),
    ],
)
def test_only_pynetdicom_is_held(class_uid, version_name, expected):
    """Implementation Class UID and Version Name must both be those of pynetdicom; this client has others."""
    agreement = Agreement("SCU", "PACS", {}, 0, implementation=version_name, implementation_class_uid=class_uid)
    assert LOST_RESPONSES.is_of(agreement) is expected


def test_every_server_of_the_package_holds_like_the_archive():
    """The storage SCP of a test suite, the receiver of a client and a replay answer pynetdicom too."""
    assert Settings(policy=AcceptorPolicy(transfer_syntaxes=())).pynetdicom_hold == Config().clients.pynetdicom_hold > 0


def test_the_delay_is_the_longest_recent_pause_and_a_fixed_time():
    """A requestor that is slow at present is slow with its second thread too; one that paused for longer is not slow,
    and has had the time already.
    """
    hold = ResponseHold(0.008)
    assert hold._remaining(0.008, 0.002) == pytest.approx(0.008 + 1.5 * 0.002 - 0.002)
    assert hold._remaining(0.008, 0.050) == pytest.approx(0.008 + 1.5 * 0.050 - 0.050)
    assert hold._remaining(0.008, 0.002) == pytest.approx(0.008 + 1.5 * 0.050 - 0.002)
    assert hold._remaining(0.008, LONGEST_PAUSE) == 0
    assert hold._remaining(0.008, 0.002) == pytest.approx(0.008 + 1.5 * 0.050 - 0.002)


@pytest.mark.long
def test_stock_pynetdicom_loses_nothing():
    """A tenth of `python -m tests.interop.lost_responses`."""
    results = measure({"C-FIND": 2_000, "C-STORE": 500, "C-GET": 50})
    assert {each.kind: each.lost for each in results} == {"C-FIND": 0, "C-STORE": 0, "C-GET": 0}
