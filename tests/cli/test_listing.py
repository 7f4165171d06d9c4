"""`pacs ls`: what it lists, in which order, and how."""

import json
import os
import re

import pytest

from pacs.index import schema
from pacs.index.database import Index
from pacs.testing import study, write


@pytest.fixture
def filled(pacs, tmp_path):
    """`pacs` with a CT study of 2026, an older MR study, and the newest study, of a patient with a long name."""
    write(study(instances=3), tmp_path / "in" / "ct")
    write(
        study("ROE^JANE", "MR", 1, 2, patient_id="P2", StudyDate="20250930", AccessionNumber=""), tmp_path / "in" / "mr"
    )
    longest = {"StudyDescription": "Kopf und Hals mit Kontrastmittel nativ", "AccessionNumber": "A" * 16}
    long = study("MÜLLER-LÜDENSCHEIDT^ANNEMARIE", "CT", 1, 1, patient_id="P" * 20, StudyDate="20261231", **longest)
    write(long, tmp_path / "in" / "long")
    assert pacs("import", tmp_path / "in").exit_code == 0
    return pacs


def listed(pacs, *words):
    """Return the output of `pacs ls --json`."""
    result = pacs("ls", *words, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def dates(found):
    """Return the study dates of a listing."""
    return [each["StudyDate"] for each in found]


# --- keys and levels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (["patients"], 3),
        (["patient"], 3),
        (["studies"], 3),
        (["study"], 3),
        (["STUDY"], 3),
        (["series"], 4),
        (["images"], 9),
        (["instance"], 9),
        (["--level", "images"], 9),
        ([], 3),
    ],
)
def test_levels_are_in_the_singular_or_plural(filled, words, number):
    """Studies by default."""
    assert len(listed(filled, *words)) == number


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (["series", "Modality=CT"], 3),
        (["Modality=CT"], 3),
        (["-k", "Modality=CT"], 3),
        (["images", "PatientID=P1", "-k", "InstanceNumber=2"], 2),
        (["images", "Rows=8"], 9),
        (["images", "Rows=9"], 0),
        (["images", "0028,0011=8\\9"], 9),
        (["SamplesPerPixel=1"], 9),
        (["images", "KVP=120"], 7),
        (["StudyDate=20260101-20261231"], 2),
        (["StudyDate=2025-09-30"], 1),
        (["StudyDate=2025-09"], 1),
        (["StudyDate=20270101-"], 0),
        (["patients", "PatientID=P1\\P2"], 2),
        (["ModalitiesInStudy=MR"], 1),
        (["PatientName=*"], 3),
        (["PatientName="], 3),
    ],
)
def test_keys_match_as_in_a_c_find(filled, words, number):
    """With -k or as words; the level is that of the lowest key."""
    assert len(listed(filled, *words)) == number


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["planets"], "'planets' is neither a level nor KEY=VALUE; expected one of patients, studies, series, images"),
        (["stduies"], "'stduies' is neither a level nor KEY=VALUE; did you mean studies?"),
        (["--level", "imags"], "'imags' is not a level; did you mean images?"),
        (["studies", "images"], "two levels are given: STUDY and IMAGE"),
        (["studies", "PatientID"], "'PatientID' is neither a level nor KEY=VALUE; did you mean -k PatientID?"),
        (["studies", "PatientNmae=X"], "did you mean PatientName?"),
        (["studies", "studydate=20260101"], "did you mean StudyDate?"),
        (["studies", "Modality=CT"], "Modality is a key of series, not of studies; did you mean ModalitiesInStudy"),
        (["studies", "-k", "Modality"], "did you mean ModalitiesInStudy"),
        (["studies", "--columns", "Modality"], "did you mean ModalitiesInStudy"),
        (["patients", "Rows=8"], "Rows is a key of images, not of patients; did you mean the level images?"),
        (["images", "Rows=many"], "of VR US cannot be 'many'"),
        (["images", "Rows=-1"], "of VR US cannot be '-1'"),
        (["PatientID=P1", "PatientID=P2"], "PatientID has two values; expected several values as in 'PatientID=A\\B'"),
        (["StudyDate=yesterday"], "Not a date or range of dates: StudyDate"),
        (["--sort", "StudyDat"], "did you mean StudyDate?"),
    ],
)
def test_what_cannot_be_listed_is_refused_with_a_suggestion(filled, words, said):
    """Nothing is printed."""
    result = filled("ls", *words)
    assert result.exit_code in (1, 2)
    assert said in result.stderr
    assert result.stdout == ""


# --- order and columns -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["patients", "studies", "series", "images"])
def test_the_newest_study_comes_first(filled, level):
    """At every level; a patient is as new as their newest study."""
    if level == "patients":
        assert [each["PatientID"] for each in listed(filled, level)] == ["P" * 20, "P1", "P2"]
    else:
        found = dates(listed(filled, level, "-k", "StudyDate", "-k", "StudyInstanceUID"))
        assert list(dict.fromkeys(found)) == ["20261231", "20260101", "20250930"]
        assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("StudyDate", ["20250930", "20260101", "20261231"]),
        ("-StudyDate", ["20261231", "20260101", "20250930"]),
        ("PatientName", ["20260101", "20261231", "20250930"]),
        ("-NumberOfStudyRelatedInstances,PatientID", ["20260101", "20250930", "20261231"]),
        ("-0010,0010,StudyDate", ["20250930", "20261231", "20260101"]),
    ],
)
def test_sort_has_several_keys_and_directions(filled, sort, expected):
    """By value and not by text: names without case, numbers as numbers."""
    assert dates(listed(filled, "--sort", sort)) == expected


@pytest.mark.parametrize("reverse", ["", "-"])
def test_what_has_no_value_is_last(filled, reverse):
    """In both directions."""
    *_, last = listed(filled, "--sort", f"{reverse}AccessionNumber")
    assert last["AccessionNumber"] == ""


def test_a_limit_lists_the_first_ones(filled):
    """After sorting."""
    assert dates(listed(filled, "--limit", "1")) == ["20261231"]
    assert dates(listed(filled, "--limit", "1", "--sort", "StudyDate")) == ["20250930"]


def test_columns_are_chosen(filled):
    """By --columns, or by return keys as in `pacs find`."""
    columns = filled("ls", "--columns", "StudyDate,0010,0020,PatientName").stdout.splitlines()
    assert columns[0] == "StudyDate,PatientID,PatientName"
    keys = filled("ls", "PatientID=P1", "-k", "StudyDate").stdout.splitlines()
    assert keys == ["PatientID,StudyDate", "P1,20260101"]


def test_csv_in_a_pipe_has_uids(filled):
    """A header line and a line for each patient, no total."""
    lines = filled("ls", "patients", "PatientID=P1").stdout.splitlines()
    assert lines == [
        "PatientID,IssuerOfPatientID,PatientName,PatientBirthDate,PatientSex,NumberOfPatientRelatedStudies,"
        "NumberOfPatientRelatedInstances",
        "P1,,DOE^JOHN,19700101,O,1,6",
    ]
    assert filled("ls").stdout.startswith("StudyInstanceUID,")


def test_listings_in_csv_are_safe_to_show_and_to_open(pacs, tmp_path):
    """That of a deletion, too; JSON has the values exactly."""
    write(study("=CMD^A", series=1, instances=1, StudyDescription="red \x1b[31m"), tmp_path / "in")
    pacs("import", tmp_path / "in")
    for words in (["ls"], ["delete", "--all"]):
        shown = pacs(*words, input="n\n").stdout
        assert "'=CMD^A" in shown
        assert r"red \x1b[31m" in shown
    (found,) = listed(pacs)
    assert (found["PatientName"], found["StudyDescription"]) == ("=CMD^A", "red \x1b[31m")


# --- tables ------------------------------------------------------------------------------------------------------


@pytest.fixture
def terminal(filled, monkeypatch):
    """Run `pacs ls` as on a terminal of some width and height; return its lines without colours."""

    def run(*words, width=80, height=100):
        monkeypatch.setattr("pacs.cli.output.is_terminal", lambda: True)
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("LINES", str(height))
        result = filled("ls", *words, color=True)
        assert result.exit_code == 0, result.stderr
        return re.sub(r"\x1b\[[0-9;]*m", "", result.stdout).splitlines()

    return run


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("level", ["patients", "studies", "series", "images"])
def test_a_table_fits_the_terminal_without_uids(terminal, level, width):
    """One line for each, and a total."""
    heading, second, *rows, total = terminal(level, width=width)
    assert all(len(line) <= width for line in (heading, second, *rows))
    assert len(rows) == {"patients": 3, "studies": 3, "series": 4, "images": 9}[level]
    assert total == f"{len(rows)} {level}"
    assert "UID" not in heading + second
    assert ("…" in rows[0]) == (width == 80)


def test_dates_and_counts_are_not_shortened(terminal):
    """Long names, IDs and descriptions are."""
    _, _, first, *_ = terminal()
    assert re.match(r"P+… +M\S+… 20261231 A+\S* +CT +Kopf\s?.*… 1 +1", first)


def test_the_total_says_how_many_are_not_shown(terminal):
    """With --limit."""
    assert terminal("--limit", "1")[-1] == "1 of 3 studies"
    assert terminal("PatientID=P1")[-1] == "1 study"


def test_a_uid_that_is_asked_for_is_whole(terminal):
    """As a return key or a column; where it does not fit, each row is a paragraph."""
    uid = study(instances=3)[0].StudyInstanceUID
    assert any(uid in line for line in terminal("-k", "StudyInstanceUID", "-k", "StudyDate", width=100))
    narrow = terminal("--columns", "StudyInstanceUID,PatientName", "PatientID=P1", width=40)
    assert narrow == ["PatientName       DOE^JOHN", f"StudyInstanceUID  {uid}", "1 study"]


def test_a_long_table_is_shown_in_a_pager(terminal, monkeypatch):
    """That of the user, else `less`, which leaves a short one on the screen."""
    paged = []
    monkeypatch.setattr("click.echo_via_pager", lambda text, color: paged.append(text))
    assert terminal("images", height=8) == []
    assert paged[0].endswith("9 images")
    assert os.environ["LESS"] == "-FRX"
    assert len(terminal("images", height=20)) == 12


def test_nothing_found_is_said(filled, terminal):
    """On standard error; CSV has a header, JSON is an empty list."""
    assert filled("ls", "PatientID=NONE").stderr == "no matches\n"
    assert listed(filled, "PatientID=NONE") == []
    assert terminal("PatientID=NONE") == []


# --- where there is no archive -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [["ls"], ["export", "out", "--all"], ["delete", "--all", "--yes"], ["explain", "-k", "PatientID"], ["fsck"],
     ["fsck", "--repair"], ["backup", "copy"], ["reindex"]],
)  # fmt: skip
def test_a_command_in_a_wrong_folder_creates_no_archive(pacs, tmp_path, words):
    """It says that there is none, and what to do."""
    result = pacs(*words)
    assert result.exit_code == 2
    assert "no archive here: " in result.stderr
    assert str(tmp_path / "pacs-data" / "files") in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_lost_index_is_not_replaced_by_an_empty_one(filled, tmp_path):
    """`pacs reindex` creates it."""
    (tmp_path / "pacs-data" / "pacs.db").unlink()
    result = filled("ls")
    assert (result.exit_code, "run `pacs reindex`" in result.stderr) == (2, True)
    assert filled("db", "check").exit_code == 2
    assert not (tmp_path / "pacs-data" / "pacs.db").exists()
    assert filled("reindex").exit_code == 0
    assert len(listed(filled, "images")) == 9


def test_no_command_but_serve_and_db_upgrade_upgrades_the_schema(filled, tmp_path):
    """It says what to do."""
    url = f"sqlite:///{tmp_path}/pacs-data/pacs.db"
    index = Index(url)
    schema.downgrade(index, "-1")
    before = schema.current(index)
    for words in (["ls"], ["export", "out", "--all"], ["delete", "--all", "--yes"], ["fsck"], ["import", "in"]):
        result = filled(*words)
        assert result.exit_code == 1
        assert "the index has an older schema: run `pacs db upgrade`" in result.stderr
        assert schema.current(index) == before
    index.close()
    assert filled("db", "upgrade").exit_code == 0
    assert len(listed(filled, "images")) == 9


def test_a_listing_creates_no_audit_log(filled, tmp_path):
    """Nor any other file."""
    before = sorted(tmp_path.rglob("*"))
    assert filled("ls", "--set", "audit.file=audit.log").exit_code == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_listing_needs_no_private_key(filled):
    """It may be readable for the server's user only: `pacs serve` needs it, `pacs ls` does not."""
    secured = ("--set", "tls.enabled=true", "--set", "tls.certificate=none.pem", "--set", "tls.key=none.pem")
    assert filled("ls", "patients", *secured).exit_code == 0
    refused = filled("serve", "--port", "0", *secured)
    assert refused.exit_code == 2
    assert "tls.certificate" in refused.output
