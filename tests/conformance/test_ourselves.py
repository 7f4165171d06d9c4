"""The conformance run against this archive: what it asks is a test of us."""

import pytest

from pacs.conformance.checks import CHECKS, Kind
from pacs.testing import serving
from tests.conformance.conftest import TITLE, Examined


@pytest.fixture(scope="module")
def column(strict):
    """What came of all checks on a server in the strict manner."""
    return strict.examine()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_this_archive_does_as_the_standard_says(column, check):
    """In the strict manner every check is well, or its answer is left open by the standard; each says what it saw."""
    verdict = column.verdicts[check.id]
    assert verdict.kind in (Kind.CONFORMS, Kind.FREE), verdict.seen
    assert verdict.seen


@pytest.mark.parametrize("name", ["F1", "F2", "V1", "V1b", "S1", "S1b", "S2c", "M12", "M15c"])
def test_where_others_choose_this_archive_does_what_its_statement_says(column, name):
    """The standard leaves these open, or the question breaks a rule: refused in the strict manner, or understood."""
    assert column.verdicts[name].kind is Kind.CONFORMS


def test_run_again_it_comes_to_the_same(strict, column):
    """The same instances are stored again: nothing piles up that would be found."""
    again = strict.examine()
    assert {name: each.kind for name, each in again.verdicts.items()} == {
        name: each.kind for name, each in column.verdicts.items()
    }


def test_in_the_tolerant_manner_k2_alone_is_otherwise(tmp_path, free_receiver):
    """Where the value of a required key is empty, it matches no other: that is what the tolerant manner is for."""
    peers = [{"ae_title": TITLE, "host": "127.0.0.1", "port": free_receiver}]
    with serving(tmp_path, {"peers": peers}) as archive:
        found = Examined(archive.port, free_receiver).examine("finding", "matching")
    assert [name for name, each in found.verdicts.items() if each.kind is Kind.DEVIATES] == ["K2"]


def test_it_names_what_the_server_calls_itself(column):
    """The Implementation Version Name stands at the column."""
    assert column.implementation.startswith("PACS_")


def test_checks_can_be_told_apart():
    """No two have the same ID, and each asks something."""
    assert len({check.id for check in CHECKS}) == len(CHECKS)
    assert all("?" in check.question and "\n" not in check.question for check in CHECKS)
