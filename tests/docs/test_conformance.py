"""The conformance statement: equal to what the server says of itself, and every line of it asked by some test.

The tests that ask are in the modules `test_conformance_*` beside this one.
"""

import importlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from pacs.cli import main
from pacs.config import CommitmentSection, LimitsSection
from pacs.conformance.statement import wording
from pacs.dicom.commitment import FailureReason
from pacs.dicom.matching_mode import TOLERANT
from pacs.dimse.association.extended_negotiation import FIND_BYTES, RETRIEVE_BYTES
from pacs.dimse.messages.status import Service
from tests.docs import statement

ROOT = Path(__file__).parents[2]
ASKING = (
    "networking",
    "limits",
    "storage",
    "keys",
    "matching",
    "query",
    "charsets",
    "retrieve",
    "commitment",
    "client",
)

NOT_ASKED = {
    "structured after PS3.2": "of the document, not of the server",
    "`pacs conformance` prints it from the tables that the server uses": "of the command: see the tests of this module",
    "The client programs that come with it": "section 7 says it, and is asked",
    "More than 65,535 instances are refused with A701": "takes too long over the wire: tests/services/test_retrieve.py",
    "The log contains no patient data": "no answer of the server: tests/cli/test_telemetry.py reads the log",
}
"""Words of the statement that no test can ask a server about, and why."""


def test_the_document_is_what_the_server_prints():
    """`docs/conformance.md` is the output of `pacs conformance` for the defaults."""
    assert (ROOT / "docs" / "conformance.md").read_text("utf-8") == statement.TEXT


def test_the_command_prints_it_for_its_configuration(tmp_path):
    """`pacs conformance --config` speaks of the server that has this configuration."""
    file = tmp_path / "config.toml"
    file.write_text(
        '[server]\nae_title = "MINE"\n[storage]\nduplicates = "reject"\n[limits]\nassociations = 7\n'
        '[[peers]]\nae_title = "OTHER"\nhost = "127.0.0.1"\nport = 11113\nmanner = "strict"\n'
        'transfer_syntaxes = ["JPEGBaseline8Bit"]\nassociations = 3\nservices = ["find"]\ndestinations = []\n'
    )
    printed = CliRunner().invoke(main, ["conformance", "--config", str(file)], catch_exceptions=False).stdout
    assert "| AE title | MINE |" in printed
    assert "| limits.associations | 7 |" in printed
    assert "| storage.duplicates | reject | the instance is refused with 0111 | yes |" in printed
    assert "| OTHER | strict | JPEG Baseline (Process 1) | 3 | find | none | no |" in printed


def test_the_words_are_about_the_tables_of_the_code():
    """No key of the configuration, switch, negotiated byte or service is without its words, nor the other way round."""
    assert set(wording.LIMITS) == set(LimitsSection.model_fields)
    assert set(wording.COMMITMENT) == set(CommitmentSection.model_fields)
    assert set(wording.REASONS) == set(FailureReason)
    assert set(wording.SWITCHES) == {each for each in TOLERANT.__dataclass_fields__ if each != "name"}
    assert set(wording.EXTENDED_OPTIONS) == {name for name, _ in (*FIND_BYTES, *RETRIEVE_BYTES)}
    assert set(wording.ENDS) == set(wording.ERRORS) == set(Service)


@pytest.fixture(scope="module")
def asked():
    """The words and tables that tests ask about."""
    for name in ASKING:
        importlib.import_module(f"tests.docs.test_conformance_{name}")
    return [*statement.asked_words, *NOT_ASKED]


@pytest.mark.parametrize("sentence", statement.sentences())
def test_every_sentence_is_asked_about(asked, sentence):
    """Each sentence has words that a test asks about, or that are excused with a reason."""
    assert [each for each in asked if each in sentence], f"no test asks about: {sentence}"


@pytest.mark.parametrize("name", sorted({table.name for table in statement.tables()}), ids=" ".join)
def test_every_table_is_asked_about(asked, name):
    """Each table is taken row by row by some test."""
    assert name in statement.asked_tables


def test_what_is_asked_about_is_said(asked):
    """No test asks about words that the statement does not have any more."""
    text = " ".join(statement.TEXT.split())
    assert [each for each in asked if each not in text] == []
