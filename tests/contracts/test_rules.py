"""Import contracts, types, linting and formatting."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "the import contracts hold": ["-c", "from importlinter.cli import lint_imports_command as c; c()"],
    "all names are typed": ["-m", "mypy"],
    "the linter finds nothing": ["-m", "ruff", "check", "--quiet", "."],
    "all files are formatted": ["-m", "ruff", "format", "--check", "--quiet", "."],
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("arguments", PROGRAMS.values(), ids=list(PROGRAMS))
def test_the_rules_of_pyproject_toml_hold(arguments):
    """The same programs that a developer runs."""
    ran = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def imported_privates(path):
    """Yield the private names that a module imports from other modules of pacs."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pacs"):
            yield from (f"{path.name}: {node.module}.{each.name}" for each in node.names if each.name.startswith("_"))


def test_no_module_imports_a_private_name_of_another():
    """Names with a leading underscore, except for dunder names."""
    found = [each for path in (ROOT / "pacs").rglob("*.py") for each in imported_privates(path)]
    assert [each for each in found if not each.endswith("__")] == []
