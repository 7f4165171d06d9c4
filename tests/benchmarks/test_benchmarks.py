"""The benchmarks run against this archive with small loads. The values are not checked."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from benchmarks import data, history, rows
from benchmarks.bench import Better, Line, Row
from benchmarks.goals import Goal, GoalResult, goal_results, ratio
from benchmarks.report import Report, goals, markdown

REPOSITORY = Path(__file__).parents[2]

RESULTS = "benchmarks.jsonl"


def run(folder: Path, *arguments: object) -> str:
    """Run `python -m benchmarks --quick` with data and results in a folder, and return its standard output."""
    command = [sys.executable, "-m", "benchmarks", "--quick", "--folder", folder, "--results", folder / RESULTS]
    done = subprocess.run(
        [*map(str, command), *map(str, arguments)], cwd=REPOSITORY, capture_output=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def results(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of the results file."""
    return [json.loads(line) for line in (folder / RESULTS).read_text().splitlines()]


def values(folder: Path) -> dict[str, float]:
    """Return all values of the results file by their keys."""
    return {key: value for each in results(folder) for key, value in each["values"].items()}


def test_the_benchmark_prints_a_table_and_draws_a_chart(tmp_path):
    """The Markdown table has a value for each system in each line, and the SVG is valid XML."""
    chart = tmp_path / "chart.svg"
    printed = run(tmp_path, "--only", "setup", "--systems", "pacs", "sink", "--chart", chart)
    table = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("|")]
    assert table[0] == ["what", "unit", "pacs", "sink"]
    assert [cells[0].partition(",")[0] for cells in table[2:4]] == ["association set-up"] * 2
    assert all(float(cells[2]) > 0 and float(cells[3]) > 0 for cells in table[2:4])
    assert len(table) == 4
    assert ElementTree.parse(chart).getroot().tag.endswith("svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchmarks.jsonl", "chart.svg"]


def test_the_benchmark_retrieves_nearby_and_over_a_long_line(tmp_path):
    """By C-MOVE and C-GET, all three studies; a round trip of 20 ms is in each of five images one after the other."""
    run(tmp_path, "--only", "retrieve", "far", "--systems", "pacs")
    written = values(tmp_path)
    ways = ("move", "get", "far.move", "far1.move", "far4.move", "farwindow.move", "far.get")
    assert set(written) == {
        f"{way}.{study}{unit}" for way in ways for study in ("9kB", "512kB", "500MB") for unit in ("", ".mb")
    }
    assert written["far1.move.9kB"] >= 5 * 20
    assert all(value > 0 for value in written.values())


def test_the_benchmark_finds_and_retrieves_while_others_store(tmp_path):
    """The stores go on at the same time."""
    run(tmp_path, "--only", "loaded", "--systems", "pacs")
    written = values(tmp_path)
    for operation in ("find", "move", "get"):
        assert written[f"loaded.{operation}"] <= written[f"loaded.{operation}.longest"]
        assert written[f"loaded.{operation}.quiet"] > 0
        assert written[f"loaded.{operation}.stores"] > 0


def test_the_benchmark_moves_compressed_images_to_an_uncompressed_destination(tmp_path):
    """From each transfer syntax."""
    run(tmp_path, "--only", "convert", "--systems", "pacs")
    written = values(tmp_path)
    assert list(written) == [f"convert.{each}" for each in ("jls", "jpeg", "j2k", "htj2k", "rle")]
    assert all(value > 0 for value in written.values())


def test_the_benchmark_finds_what_it_stored(tmp_path):
    """The titles have the number of matches."""
    printed = run(tmp_path, "--only", "find", "--systems", "pacs")
    assert "studies all: last response (100 matches)" in printed
    assert "studies by Patient ID: last response (1 match)" in printed


def test_each_finished_cell_is_a_line_of_json_and_is_not_measured_again(tmp_path):
    """An interrupted run goes on with the cells that are missing, and a line that was cut off is one of them."""
    arguments = ("--only", "sustained", "--systems", "pacs", "--shapes", "one-a-study", "--associations", 1, 2)
    first = run(tmp_path, *arguments)
    written = results(tmp_path)
    keys = [f"sustained.one-a-study.{associations}" for associations in (1, 2)]
    assert [(next(iter(each["values"])), each["system"], each["run"]) for each in written] == [
        (key, "pacs", 0) for key in keys
    ]
    assert all(each["commit"] and each["machine"] and each["date"] and each["versions"] for each in written)
    assert all(values(tmp_path)[key] > 0 for key in keys)
    file = tmp_path / RESULTS
    file.write_text(file.read_text()[:-20])
    second = run(tmp_path, *arguments)
    line = next(line for line in first.splitlines() if line.startswith("| 9 kB, one image a study, 1 association |"))
    assert line in second.splitlines(), "the finished cell, as it was measured"
    assert file.read_text().count(f"{keys[0]}.p99") == 1
    assert file.read_text().count(f"{keys[1]}.p99") == 2, "the line that was cut off, and a whole one"
    assert json.loads(file.read_text().splitlines()[-1])["values"][keys[1]] > 0


def test_the_benchmark_reports_the_best_number_of_workers(tmp_path):
    """Of the measured numbers, for each load and for all loads."""
    printed = run(tmp_path, "--only", "workers", "--systems", "pacs-1", "pacs-2")
    tables = [[each.strip("| ").split(" | ") for each in part.splitlines()] for part in printed.split("\n\n")]
    (judged,) = (table for table in tables if table[0][0] == "database")
    assert [cells[:2] for cells in judged[2:]][-1] == ["SQLite", "all of these"]
    assert len(judged) == 2 + 6 + 1
    assert all(cells[2] in ("1", "2") for cells in judged[2:])


def test_rows_inserted_by_sql_equal_those_of_the_archive():
    """At every level of several studies."""
    made = list(rows.rows(3))
    assert [len(each) for each in made] == [4, 6, 4]
    levels = {level: rows.Level(level) for level in rows.QueryLevel}
    for study in map(data.Study, range(3)):
        levels[rows.PATIENT].row(study.patient, check=True)
        levels[rows.STUDY].row(study.study, check=True)
        for series in study.series:
            levels[rows.SERIES].row(series, check=True)
            levels[rows.IMAGE].row(series, check=True)


@pytest.mark.parametrize(("better", "expected"), [(Better.MORE, 4.0), (Better.LESS, 0.125)])
def test_a_ratio_is_the_median_of_the_runs_to_the_best_peer(better, expected):
    """In each run the best peer counts, without those that failed or had an easier load."""
    line = Line("key", "a line", "unit", better)
    row = Row(
        line, {"pacs": [8, 8, 8], "orthanc": [2, 1, 4], "dcmqrscp": [1, 1, 1], "qrscp": [9], "orthanc-db": [99, 99, 99]}
    )
    row.eased = frozenset(["orthanc-db"])
    assert ratio(row, "pacs", ("orthanc", "orthanc-db", "dcmqrscp", "qrscp")) == expected


def test_a_line_without_values_has_no_ratio():
    """The other lines are printed."""
    row = Row(Line("key", "a line", "unit", Better.MORE), {}, {"pacs": "failed: why"})
    assert ratio(row, "pacs", ("orthanc",)) is None
    done = Row(Line("other", "another", "unit", Better.MORE), {"pacs": [1.0]})
    assert "| another | unit ↑ | 1.00 |" in markdown(Report([row, done], "python -m benchmarks", quick=False))


def test_notes_are_below_the_table():
    """A system without a value has a dash, and the reason is printed once for all rows."""
    lines = [Line(f"key.{at}", f"line {at}", "MB/s", Better.MORE) for at in range(5)]
    written = [Row(line, {"pacs": [1234.5], "orthanc": []}, {"orthanc": "failed: why"}) for line in lines]
    printed = markdown(Report(written, "python -m benchmarks", quick=False))
    assert "| line 3 | MB/s ↑ | 1,234 | – |" in printed
    assert printed.count("orthanc: failed: why (key.0 to key.4, 5 rows)") == 1


@pytest.mark.parametrize(
    ("goal", "value", "reached"),
    [
        (Goal("x", "x", 2, ("orthanc",), aim=3), 2.5, "yes"),
        (Goal("x", "x", 2, ("orthanc",), aim=3), 3.5, "aim"),
        (Goal("x", "x", 2, ("orthanc",), aim=3), 1.5, "no"),
        (Goal("x", "x", 3, other="y"), 2.0, "yes"),
        (Goal("x", "x", 2, other="y", inverse=True), 1.5, "no"),
        (Goal("x", "x", 250, aim=150), 200, "yes"),
        (Goal("x", "x", 250, aim=150), 300, "no"),
    ],
)
def test_a_goal_is_reached_at_its_bound_or_at_its_aim(goal, value, reached):
    """A ratio to other systems and a gain are at least the bound, everything else is at most the bound."""
    assert goals([GoalResult(goal, value)])[1][0][-1] == reached


def test_goals_are_judged_by_the_rows_that_were_measured():
    """A goal relates a line to another system or to another line; goals without lines are omitted."""
    lines = {key: Line(key, key, "ms", Better.LESS) for key in ("loaded.find", "loaded.find.quiet", "setup.1")}
    of = {"loaded.find": [6.0, 9.0, 8.0], "loaded.find.quiet": [2.0, 2.0, 4.0], "setup.1": [2.0]}
    stores = Row(
        Line("sustained.one-a-study.4", "x", "inst/s", Better.MORE), {"pacs": [900.0, 1000], "orthanc": [300.0, 500]}
    )
    judged = goal_results([*(Row(lines[key], {"pacs": found}) for key, found in of.items()), stores])
    assert {each.goal.key: each.value for each in judged} == {
        "loaded.find": 4.0, "setup.1": 2.0, "sustained.one-a-study.4": 2.5,
    }  # fmt: skip


def test_the_history_draws_the_medians_of_each_commit(tmp_path):
    """Cells of other settings than the newest are omitted."""
    same = {"machine": "here", "options": {"seconds": 30}}
    cells = [
        {**same, "options": {"seconds": 1}, "commit": "old", "system": "pacs", "values": {"storescu": 99.0}},
        {**same, "commit": "one", "system": "pacs", "values": {"storescu": 1.0}},
        {**same, "commit": "one", "system": "pacs", "values": {"storescu": 3.0}},
        {**same, "commit": "two", "system": "pacs", "values": {"storescu": 4.0}},
        {**same, "commit": "two", "system": "orthanc", "values": {"storescu": 1.0}},
    ]
    assert history.history(cells) == (
        ["one", "two"],
        {"storescu": {"pacs": {"one": 2.0, "two": 4.0}, "orthanc": {"two": 1.0}}},
    )
    file, chart = tmp_path / RESULTS, tmp_path / "history.svg"
    file.write_text("".join(f"{json.dumps(each)}\n" for each in cells))
    history.main([str(file), str(chart)])
    drawn = ElementTree.parse(chart).getroot()
    assert [each.text for each in drawn.iter() if each.get("class") == "head"] == ["storescu"]
    assert len([each for each in drawn.iter() if each.tag.endswith("circle")]) == 3
