"""Every id of `docs/checklist.md` resolves: those in the code have a row there, and each row names tests that exist."""

import ast
import re
import tokenize
from pathlib import Path

from pacs.conformance.checks.runner import CHECKS

ROOT = Path(__file__).parents[2]
ID = re.compile(r"\b[FGJKMNPSVX]\d{1,2}[a-z]?\b")
ROWS = {
    cells[0]: cells
    for cells in (
        line.strip("| ").split(" | ") for line in (ROOT / "docs/checklist.md").read_text("utf-8").splitlines()
    )
    if ID.fullmatch(cells[0])
}


def comments(path):
    """The comments and docstrings of a module."""
    with path.open("rb") as file:
        yield from (each.string for each in tokenize.tokenize(file.readline) if each.type == tokenize.COMMENT)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def test_every_id_in_the_code_has_a_row():
    """In comments and docstrings of `pacs`."""
    found = {
        (name, str(path.relative_to(ROOT)))
        for path in (ROOT / "pacs").rglob("*.py")
        for text in comments(path)
        for name in ID.findall(text)
    }
    assert found
    assert sorted(each for each in found if each[0] not in ROWS) == []


def test_every_check_has_a_row():
    """The row gives the same place in the standard as the check."""
    assert {check.id: check.paragraph for check in CHECKS} == {
        check.id: ROWS.get(check.id, ["", "", ""])[2] for check in CHECKS
    }


def test_every_id_in_the_name_of_a_test_has_a_row():
    """Such as test_x3_x4_..."""
    named = re.compile(r"^def test((?:_[a-z]\d{1,2}[a-z]?)+)_", re.MULTILINE)
    found = {
        name.lower()
        for path in (ROOT / "tests").rglob("test_*.py")
        for names in named.findall(path.read_text("utf-8"))
        for name in names.strip("_").split("_")
    }
    assert found - {name.lower() for name in ROWS} == set()


def test_each_row_names_tests_that_exist():
    """As file and function under `tests`."""
    assert len(ROWS) > len(CHECKS)
    for name, cells in ROWS.items():
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", cells[3])
        assert named, name
        for file, function in named:
            assert f"def {function}(" in (ROOT / "tests" / file).read_text("utf-8"), f"{name}: {file}::{function}"
