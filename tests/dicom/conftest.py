"""Fixtures of the tests of `pacs.dicom`."""

import pytest

from tests.real_files import CheckFiles


@pytest.fixture(scope="session")
def check_files(request: pytest.FixtureRequest) -> CheckFiles:
    """Runs a check on a sample of the real files, and on all of them with --long."""
    return CheckFiles(is_long=request.config.getoption("--long"))
