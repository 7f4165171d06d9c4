"""`pacs explain`, and the `-k` that it has in common with other commands."""

import json
import os
import re
import subprocess
import sys
from contextlib import suppress

import click
import pytest

from pacs.cli import keys
from pacs.config import from_settings
from pacs.daemon import EXPLAINED, Archive
from pacs.dicom.levels import QueryLevel, Root
from pacs.testing import study, write


@pytest.fixture
def filled(pacs, tmp_path):
    """`pacs` with a CT study of DOE^JOHN and an MR study of ROE^JANE."""
    write(study(series=1, instances=2), tmp_path / "in" / "ct")
    write(study("ROE^JANE", "MR", 1, 2, patient_id="P2"), tmp_path / "in" / "mr")
    assert pacs("import", tmp_path / "in").exit_code == 0
    return pacs


def explained(pacs, *words):
    """What `pacs explain --json` says."""
    result = pacs("explain", "--json", *words)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def read(terminal):
    """What comes from a terminal next, nothing when its other end is closed."""
    with suppress(OSError):
        return os.read(terminal, 1 << 16)
    return b""


def lines(pacs, *words):
    """What `pacs explain` prints."""
    result = pacs("explain", *words)
    assert result.exit_code == 0, result.stderr
    return result.stdout.splitlines()


def test_a_line_for_each_key_says_what_became_of_it(filled):
    """Then the SQL, then what two manners answer."""
    said = lines(filled, "-k", "PatientName=doe*", "-k", "StudyDate", "-k", "SeriesNumber", "--level", "STUDY")
    assert said[0] == "C-FIND, Study Root, level STUDY, manner tolerant"
    assert "StudyDate '': returned only, universal, from kept elements" in said
    assert any(each.startswith("PatientName 'doe*': matched, wild card doe*, in column ") for each in said)
    assert "SeriesNumber '': ignored, belongs to level SERIES, below the one asked for" in said
    assert any(each.startswith("SQL for the first 20 candidates: patient: uses its primary key") for each in said)
    assert said[-2] == "tolerant: Pending FF01, then 0000"
    assert said[-1].startswith("strict: A900, Below the query level: SeriesNumber")


def test_why_nothing_is_found_is_the_key_without_which_something_would_be(filled):
    """With --run."""
    said = lines(filled, "--run", "-k", "PatientName=doe*", "-k", "ModalitiesInStudy=MR", "--level", "study")
    assert said[-3:] == [
        "answered: 0000, matches: 0",
        "without ModalitiesInStudy: 1 would match",
        "without PatientName: 1 would match",
    ]
    assert lines(filled, "--run", "-k", "PatientName=doe*")[-1] == "answered: 0000, matches: 1"


def test_without_run_nothing_is_answered(filled):
    """There is no outcome."""
    assert explained(filled, "-k", "PatientID=P1")["outcome"] is None


def test_a_retrieve_says_how_many_instances_it_would_send(filled):
    """And what the strict manner has against it."""
    found = explained(filled, "--retrieve", "--run", "-k", "StudyDate=2026-", "-k", "StudyInstanceUID")
    assert (found["operation"], found["outcome"]["status"]) == ("C-MOVE", "A900")
    found = explained(filled, "--retrieve", "--run", "-k", f"StudyInstanceUID={study()[0].StudyInstanceUID}")
    assert found["outcome"]["counts"] == {"instances": 2}


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
def test_level_model_and_manner_are_inferred_or_said(filled, tmp_path, words, level, model, manner):
    """The lowest level of which a key is asked for; the manner of the server, or of the peer that asks."""
    config = '[[peers]]\nae_title = "WS"\nhost = "127.0.0.1"\nport = 104\nmanner = "strict"\n'
    (tmp_path / "config.toml").write_text(config)
    found = explained(filled, *words)
    assert (found["level"], found["model"], found["manner"]) == (level, model, manner)


def test_what_was_negotiated_is_said_in_words(filled):
    """Each switches on what PS3.4 C.5 has; another word is refused with those that there are."""
    found = explained(filled, "--negotiated", "relational,datetime,fuzzy,empty,multiple", "-k", "PatientID")
    assert set(found["negotiated"]) == {
        "relational", "combined_date_time", "fuzzy_names", "empty_values", "multiple_values",
    }  # fmt: skip
    refused = filled("explain", "--negotiated", "everything", "-k", "PatientID")
    assert refused.exit_code == 2
    assert "'everything' is none of relational, datetime, fuzzy, empty, multiple" in refused.stderr


@pytest.mark.usefixtures("filled")
def test_on_a_terminal_the_keys_are_a_table(tmp_path):
    """Piped there is a line for each."""
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


# --- -k ----------------------------------------------------------------------------------------------------------


def test_a_key_is_a_keyword_a_tag_or_a_path():
    """With a value to match, without one to be returned."""
    found = keys.identifier(
        ["PatientName=DOE^J*", "0010,0020=P1", "(0008,0050)", "00080020=20260101-", "StudyInstanceUID=1.2\\1.3"]
    )
    assert str(found.PatientName) == "DOE^J*"
    assert (found.PatientID, found.AccessionNumber, found.StudyDate) == ("P1", "", "20260101-")
    assert list(found.StudyInstanceUID) == ["1.2", "1.3"]


@pytest.mark.parametrize("path", ["RequestAttributesSequence", "RequestAttributesSequence[0]", "0040,0275"])
def test_a_path_leads_into_the_only_item_of_a_sequence(path):
    """Two keys of one sequence are keys of one item."""
    found = keys.identifier([f"{path}.ScheduledProcedureStepID=1", f"{path}.0040,1001"])
    (item,) = found.RequestAttributesSequence
    assert (item.ScheduledProcedureStepID, item.RequestedProcedureID) == ("1", "")


def test_a_sequence_alone_is_asked_for_as_a_whole():
    """Without any item; and it does not undo what was asked of its item."""
    assert list(keys.identifier(["RequestAttributesSequence"]).RequestAttributesSequence) == []
    both = keys.identifier(["RequestAttributesSequence.RequestedProcedureID=1", "RequestAttributesSequence"])
    assert len(both.RequestAttributesSequence) == 1


def test_numbers_are_numbers_and_anything_may_be_in_a_text():
    """Whether it is a value by the rules of its VR is for the server to say; what cannot be encoded is refused."""
    found = keys.identifier(["Rows=512", "StudyDate=yesterday", "SliceThickness=1.5", "KVP=", "EchoTime"])
    assert (found.Rows, found.StudyDate, str(found.SliceThickness)) == (512, "yesterday", "1.5")
    for wrong in ("Rows=many", "RequestAttributesSequence=1", "InstanceNumber=one"):
        with pytest.raises(click.BadParameter, match="cannot be"):
            keys.identifier([wrong])


def test_a_key_beyond_ascii_is_in_utf_8():
    """Unless another character set is named."""
    assert keys.identifier(["PatientName=Müller"]).SpecificCharacterSet == "ISO_IR 192"
    named = keys.identifier(["PatientName=Müller", "SpecificCharacterSet=ISO_IR 100"])
    assert named.SpecificCharacterSet == "ISO_IR 100"
    assert "SpecificCharacterSet" not in keys.identifier(["PatientName=DOE"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("PatientNam=X", "did you mean PatientName?"),
        ("patientname", "did you mean PatientName?"),
        ("=X", "expected one, or a tag such as 0010,0010"),
        ("PatientName.PatientID=1", "PatientName is no sequence"),
    ],
)
def test_a_word_that_is_no_key_is_refused_with_what_was_probably_meant(pacs, word, said):
    """Exit status 2."""
    result = pacs("explain", "-k", word)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    ("words", "root", "level"),
    [
        ([], Root.PATIENT, QueryLevel.PATIENT),
        ([], Root.STUDY, QueryLevel.STUDY),
        (["PatientName=X"], Root.STUDY, QueryLevel.STUDY),
        (["PatientName=X", "Modality=CT"], Root.PATIENT, QueryLevel.SERIES),
        (["StudyDate", "KVP"], Root.STUDY, QueryLevel.IMAGE),
        (["SOPInstanceUID"], Root.PATIENT_STUDY_ONLY, QueryLevel.STUDY),
        (["SpecificCharacterSet=ISO_IR 192", "ModalitiesInStudy"], Root.STUDY, QueryLevel.STUDY),
    ],
)
def test_the_level_is_the_lowest_of_which_a_key_is_asked_for(words, root, level):
    """As far as the model has it."""
    assert keys.inferred_level(keys.identifier(words), root) is level


def test_check_and_the_log_say_that_requests_are_explained(pacs, tmp_path):
    """It is patient data that is shown, and easily forgotten."""
    (tmp_path / "config.toml").write_text("[query]\nexplain = true\n[server]\nport = 0\n[web]\nport = 0\n")
    assert "what everybody asks is shown in the log and on 127.0.0.1:0/explain: patient data" in pacs("check").stdout
    (tmp_path / "config.toml").write_text("[server]\nport = 0\n[web]\nport = 0\n")
    assert "explain" not in pacs("check").stdout
    said: list[str] = []
    for explain in (False, True):
        with Archive(from_settings({"server.port": 0, "web.enabled": False, "query.explain": explain})) as archive:
            archive.events.subscribe(lambda event: said.append(getattr(event, "sentence", "")))
            archive.start()
    assert [each for each in said if each] == [EXPLAINED]
