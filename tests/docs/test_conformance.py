"""The conformance statement equals the output of the server, and a test covers each sentence and table of it.

The modules `test_conformance_*` have these tests.
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
MODULES = (
    "networking",
    "limits",
    "storage",
    "keys",
    "matching",
    "query",
    "charsets",
    "retrieve",
    "pixels",
    "commitment",
    "client",
)

NOT_TESTED = {
    "structured after PS3.2": "describes the document, not the server",
    "`pacs conformance` prints it from the tables that the server uses": "describes the command: see below",
    "The client programs that come with it": "section 7 describes them, and is tested",
    "More than 65,535 instances are refused with A701": "takes too long over the wire: tests/services/test_retrieve.py",
    "The log contains no patient data": "is not visible in a response: tests/cli/test_telemetry.py reads the log",
}
"""Texts of the statement that no test can check on a server, with the reason."""


def test_the_document_is_up_to_date():
    """`docs/conformance.md` is the output of `pacs conformance` for the defaults."""
    assert (ROOT / "docs" / "conformance.md").read_text("utf-8") == statement.TEXT


def test_the_command_uses_its_configuration(tmp_path):
    """`pacs conformance --config` describes a server with this configuration."""
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


def test_the_texts_match_the_tables_of_the_code():
    """Each configuration key, switch, negotiated byte and service has a text, and each text belongs to one."""
    assert set(wording.LIMITS) == set(LimitsSection.model_fields)
    assert set(wording.COMMITMENT) == set(CommitmentSection.model_fields)
    assert set(wording.REASONS) == set(FailureReason)
    assert set(wording.SWITCHES) == {each for each in TOLERANT.__dataclass_fields__ if each != "name"}
    assert set(wording.EXTENDED_OPTIONS) == {name for name, _ in (*FIND_BYTES, *RETRIEVE_BYTES)}
    assert set(wording.ENDS) == set(wording.ERRORS) == set(Service)


@pytest.fixture(scope="module")
def covered():
    """The texts that tests cover."""
    for name in MODULES:
        importlib.import_module(f"tests.docs.test_conformance_{name}")
    return [*statement.covered_texts, *NOT_TESTED]


@pytest.mark.parametrize("sentence", statement.sentences())
def test_every_sentence_is_covered(covered, sentence):
    """By a test, or by a reason why there is none."""
    assert [each for each in covered if each in sentence], f"no test covers: {sentence}"


@pytest.mark.parametrize("name", sorted({table.name for table in statement.tables()}), ids=" ".join)
def test_every_table_is_covered(covered, name):
    """Row by row."""
    assert name in statement.covered_tables


def test_every_covered_text_exists(covered):
    """No test covers a text that the statement no longer has."""
    text = " ".join(statement.TEXT.split())
    assert [each for each in covered if each not in text] == []
