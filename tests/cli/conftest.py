"""Fixtures for tests of the command `pacs`."""

import logging

import pytest
import structlog
from click.testing import CliRunner

from pacs.cli import main
from pacs.observability import logging as pacs_logging


@pytest.fixture
def pacs(tmp_path, monkeypatch):
    """Run `pacs` with the given words in an empty folder; the result has `exit_code`, `stdout` and `stderr`."""
    monkeypatch.chdir(tmp_path)

    def run(*words, **options):
        result = CliRunner().invoke(main, [str(word) for word in words], prog_name="pacs", **options)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


@pytest.fixture(autouse=True)
def _restore_logging():
    """Restore the logging of the process after each test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in pacs_logging.QUIET}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, quiet in levels.items():
        logging.getLogger(name).setLevel(quiet)
    logging.captureWarnings(False)
    structlog.reset_defaults()
