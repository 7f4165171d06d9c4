"""Fixtures for tests of upgrades and restores."""

import itertools
from contextlib import ExitStack

import pytest

from tests.cli.conftest import _restore_logging, pacs  # noqa: F401  # fixtures
from tests.databases import fresh_database
from tests.upgrade.place import Place


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Remove the wait of `pacs fsck` for concurrent processes, as there are none."""
    monkeypatch.setattr("pacs.services.fsck.GRACE", 0)


@pytest.fixture
def new(request, pacs, tmp_path):  # noqa: F811
    """Return a new and empty archive on a kind of database each time it is called."""
    numbers = itertools.count()
    with ExitStack() as stack:

        def place(kind: str) -> Place:
            folder = tmp_path / f"new {next(numbers)}"
            folder.mkdir()
            return Place(pacs, stack.enter_context(fresh_database(kind, request, folder)), folder / "files")

        yield place
