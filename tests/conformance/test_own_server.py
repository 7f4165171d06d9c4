"""The conformance checks against this archive."""

import pytest

from pacs.conformance.checks.results import ResultKind
from pacs.conformance.checks.runner import CHECKS
from pacs.testing import serving
from tests.conformance.conftest import TITLE, ServerUnderTest


@pytest.fixture(scope="module")
def column(strict):
    """The results of all checks of a server in the strict matching mode."""
    return strict.run_checks()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_this_archive_conforms(column, check):
    """In the strict matching mode every check conforms, or the standard leaves its answer open."""
    result = column.results[check.id]
    assert result.kind in (ResultKind.CONFORMS, ResultKind.FREE), result.seen
    assert result.seen


@pytest.mark.parametrize("name", ["F1", "F2", "V1", "V1b", "S1", "S1b", "S2c", "M12", "M15c"])
def test_free_choices_of_this_archive(column, name):
    """The strict matching mode refuses these requests with the status that the checks expect."""
    assert column.results[name].kind is ResultKind.CONFORMS


def test_a_second_run_has_the_same_results(strict, column):
    """It stores the same instances again."""
    again = strict.run_checks()
    assert {name: each.kind for name, each in again.results.items()} == {
        name: each.kind for name, each in column.results.items()
    }


def test_only_k2_deviates_in_the_tolerant_matching_mode(tmp_path, free_receiver):
    """A required key whose stored value is empty matches no other value there, by design."""
    peers = [{"ae_title": TITLE, "host": "127.0.0.1", "port": free_receiver}]
    with serving(tmp_path, {"peers": peers}) as archive:
        found = ServerUnderTest(archive.port, free_receiver).run_checks("finding", "matching")
    assert [name for name, each in found.results.items() if each.kind is ResultKind.DEVIATES] == ["K2"]


def test_the_implementation_version_name_is_reported(column):
    """It begins with PACS_."""
    assert column.implementation.startswith("PACS_")


def test_checks_have_unique_ids_and_questions():
    """Each question is one line."""
    assert len({check.id for check in CHECKS}) == len(CHECKS)
    assert all("?" in check.question and "\n" not in check.question for check in CHECKS)
