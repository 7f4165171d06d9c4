"""The command `pacs` for tests."""

import pytest
from click.testing import CliRunner

from pacs.cli import main


@pytest.fixture
def pacs(tmp_path, monkeypatch):
    """Run `pacs` with the given words in an empty folder; the result has `exit_code`, `stdout` and `stderr`."""
    monkeypatch.chdir(tmp_path)

    def run(*words, **options):
        result = CliRunner().invoke(main, [str(word) for word in words], prog_name="pacs", **options)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run
