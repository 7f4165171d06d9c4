"""Who may import whom, and that all of it is typed, linted and formatted."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "every room imports only what its floor may": ["-c", "from importlinter.cli import lint_imports_command as c; c()"],
    "every name is typed": ["-m", "mypy"],
    "every line keeps the rules of pyproject.toml": ["-m", "ruff", "check", "--quiet", "."],
    "every file is formatted": ["-m", "ruff", "format", "--check", "--quiet", "."],
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("arguments", PROGRAMS.values(), ids=list(PROGRAMS))
def test_the_house_is_in_order(arguments):
    """The same programs a developer runs, with the settings of pyproject.toml."""
    ran = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def imported_privates(path):
    """The private names a module takes from other rooms of the house."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pacs"):
            yield from (f"{path.name}: {node.module}.{each.name}" for each in node.names if each.name.startswith("_"))


def test_nobody_imports_a_private_name_of_another_room():
    """What begins with an underscore belongs to its module, dunder names aside."""
    found = [each for path in (ROOT / "pacs").rglob("*.py") for each in imported_privates(path)]
    assert [each for each in found if not each.endswith("__")] == []
