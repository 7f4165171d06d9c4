"""`pacs explain`."""

import json
import os
import re
import subprocess
import sys
from contextlib import suppress

import pytest

from pacs.archive import EXPLAINED, Archive
from pacs.config import from_settings
from pacs.testing import study, write


@pytest.fixture
def filled(pacs, tmp_path):
    """`pacs` with a CT study of DOE^JOHN and an MR study of ROE^JANE."""
    write(study(series=1, instances=2), tmp_path / "in" / "ct")
    write(study("ROE^JANE", "MR", 1, 2, patient_id="P2"), tmp_path / "in" / "mr")
    assert pacs("import", tmp_path / "in").exit_code == 0
    return pacs


def explained(pacs, *words):
    """Return the output of `pacs explain --json`."""
    result = pacs("explain", "--json", *words)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def read(terminal):
    """Read from a terminal, b"" at its end."""
    with suppress(OSError):
        return os.read(terminal, 1 << 16)
    return b""


def lines(pacs, *words):
    """Return the output of `pacs explain`."""
    result = pacs("explain", *words)
    assert result.exit_code == 0, result.stderr
    return result.stdout.splitlines()


def test_each_key_has_a_line(filled):
    """Then the SQL with -v, then the responses of both matching modes."""
    asked = ("-k", "PatientName=doe*", "-k", "StudyDate", "-k", "SeriesNumber", "--level", "STUDY")
    said = lines(filled, "-v", *asked)
    assert not any("SQL" in each or "SELECT" in each for each in lines(filled, *asked))
    assert said[0] == "C-FIND, Study Root, level STUDY, matching mode tolerant"
    assert "StudyDate '': returned only, universal, from row elements" in said
    assert any(each.startswith("PatientName 'doe*': matched, wild card doe*, in column ") for each in said)
    assert "SeriesNumber '': ignored, belongs to level SERIES, below the query level" in said
    assert any(each.startswith("SQL for the first 20 candidates: patient: uses its primary key") for each in said)
    assert said[-2] == "tolerant: Pending FF01, then 0000"
    assert said[-1].startswith("strict: A900, Below the query level: SeriesNumber")


def test_run_names_a_value_that_differs_only_in_case(filled):
    """Of a single value and of a wild card; not of a value that differs in more."""
    for asked, found in (("ct study 1", "CT study 1"), ("mr*", "MR study 1")):
        said = lines(filled, "-k", f"StudyDescription={asked}", "-k", "StudyInstanceUID", "--run")
        assert said[-1] == f"    '{found}' differs only in case"
        assert said[-2] == "without StudyDescription: 2 would match"
    said = lines(filled, "-k", "StudyDescription=us study", "-k", "StudyInstanceUID", "--run")
    assert not any("only in case" in each for each in said)


def test_keys_and_the_level_are_words_or_options(filled):
    """As in `pacs ls`; dates are explained as they are typed."""
    by_words = lines(filled, "studies", "StudyDate=2026-01")
    assert by_words == lines(filled, "--level", "STUDY", "-k", "StudyDate=2026-01")
    assert any("'2026-01'" in each for each in by_words)


def test_run_names_the_key_that_excludes_all_matches(filled):
    """Without which there would be some."""
    said = lines(filled, "--run", "-k", "PatientName=doe*", "-k", "ModalitiesInStudy=MR", "--level", "study")
    assert said[-3:] == [
        "answered: 0000, matches: 0",
        "without ModalitiesInStudy: 1 would match",
        "without PatientName: 1 would match",
    ]
    assert lines(filled, "--run", "-k", "PatientName=doe*")[-1] == "answered: 0000, matches: 1"


def test_without_run_there_is_no_outcome(filled):
    """The query is not executed."""
    assert explained(filled, "-k", "PatientID=P1")["outcome"] is None


def test_a_retrieve_counts_its_instances(filled):
    """And what the strict mode would refuse."""
    found = explained(filled, "--retrieve", "--run", "-k", "StudyDate=2026-", "-k", "StudyInstanceUID")
    assert (found["operation"], found["outcome"]["status"]) == ("C-MOVE", "A900")
    found = explained(filled, "--retrieve", "--run", "-k", f"StudyInstanceUID={study()[0].StudyInstanceUID}")
    assert found["outcome"]["counts"] == {"instances": 2}


def test_a_retrieve_says_what_is_converted_for_its_destination(filled, tmp_path):
    """By `send_as` of the destination; without one, of the requestor."""
    peers = '[[peers]]\nae_title = "%s"\nhost = "127.0.0.1"\nport = 104\nsend_as = ["%s"]\n'
    with (tmp_path / "config.toml").open("a") as file:
        file.write(peers % ("VIEWER", "rle") + peers % ("GETTER", "implicit"))
    keys = ("--retrieve", "--run", "-k", f"StudyInstanceUID={study()[0].StudyInstanceUID}")
    stored = (
        "instances in Explicit VR Little Endian: 2, sent as stored where it is accepted, else the first accepted of"
    )
    for options, first in (
        (("--destination", "VIEWER", "--peer", "GETTER"), "RLE Lossless, Implicit VR Little Endian, "),
        (("--peer", "GETTER"), "Implicit VR Little Endian, Explicit VR Big Endian, "),
        ((), "Implicit VR Little Endian, Explicit VR Big Endian, "),
    ):
        assert lines(filled, *options, *keys)[-1].startswith(f"{stored} {first}")
    assert lines(filled, "--destination", "NOBODY", *keys)[-1].startswith("answered: A801, ")


def test_a_destination_without_a_retrieve_is_a_usage_error(pacs):
    """It would have no effect."""
    done = pacs("explain", "--destination", "VIEWER", "-k", "PatientID")
    assert done.exit_code == 2
    assert "--destination needs --retrieve and --run" in done.stderr


@pytest.mark.parametrize(
    ("words", "level", "model", "manner"),
    [
        (("-k", "PatientName=DOE"), "STUDY", "Study Root", "tolerant"),
        (("-P", "-k", "PatientName=DOE"), "PATIENT", "Patient Root", "tolerant"),
        (("-k", "PatientName=DOE", "--level", "PATIENT"), "PATIENT", "Patient Root", "tolerant"),
        (("-S", "-k", "Modality=CT", "-k", "StudyDate"), "SERIES", "Study Root", "tolerant"),
        (("--strict", "-k", "SOPInstanceUID"), "IMAGE", "Study Root", "strict"),
        (("--manner", "strict", "-k", "QueryRetrieveLevel=SERIES"), "SERIES", "Study Root", "strict"),
        (("--peer", "WS", "-k", "PatientID"), "STUDY", "Study Root", "strict"),
    ],
)
def test_level_model_and_matching_mode_are_inferred_or_given(filled, tmp_path, words, level, model, manner):
    """The lowest level of the keys; the mode of the server or of the peer."""
    config = '[[peers]]\nae_title = "WS"\nhost = "127.0.0.1"\nport = 104\nmanner = "strict"\n'
    (tmp_path / "config.toml").write_text(config)
    found = explained(filled, *words)
    assert (found["level"], found["model"], found["manner"]) == (level, model, manner)


def test_negotiated_options_are_given_by_name(filled):
    """An unknown name is an error that lists the known ones."""
    found = explained(filled, "--negotiated", "relational,datetime,fuzzy,empty,multiple", "-k", "PatientID")
    assert set(found["negotiated"]) == {
        "relational", "combined_date_time", "fuzzy_names", "empty_values", "multiple_values",
    }  # fmt: skip
    refused = filled("explain", "--negotiated", "everything", "-k", "PatientID")
    assert refused.exit_code == 2
    assert "'everything' is not an option of Extended Negotiation; expected one of relational, date" in refused.stderr


@pytest.mark.usefixtures("filled")
def test_on_a_terminal_the_keys_are_a_table(tmp_path):
    """In a pipe each has a line."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "pacs", "explain", "-k", "PatientID=P1", "-k", "StudyDate"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=theirs, env=os.environ | {"COLUMNS": "120"}) as explaining:
        os.close(theirs)
        text = b"".join(iter(lambda: read(ours), b"")).decode()
        assert explaining.wait(30) == 0
    os.close(ours)
    rows = [line.split() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    assert rows[0][0] == "C-FIND,"
    assert rows[1] == ["key", "asked", "understood", "why"]
    assert ["PatientID", "P1", "matched,", "single", "value", "P1", "in", "column", "patient.patient_id"] in rows


def test_check_and_the_log_say_that_requests_are_explained(pacs, tmp_path):
    """Because the log has patient data then."""
    (tmp_path / "config.toml").write_text("[query]\nexplain = true\n[server]\nport = 0\n[web]\nport = 0\n")
    assert "the log explains requests of all peers, with patient data" in pacs("check").stdout
    (tmp_path / "config.toml").write_text("[server]\nport = 0\n[web]\nport = 0\n")
    assert "explain" not in pacs("check").stdout
    said: list[str] = []
    for explain in (False, True):
        with Archive(from_settings({"server.port": 0, "web.enabled": False, "query.explain": explain})) as archive:
            archive.events.subscribe(lambda event: said.append(getattr(event, "sentence", "")))
            archive.start()
    assert [each for each in said if each] == [EXPLAINED]
