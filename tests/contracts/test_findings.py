"""What was found wrong with the software we stand on (P1 to P16) stays mended: each has tests with its number."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
NAMED = re.compile(r"def test(?:_[a-z]\d+[a-z]?)*?_(p\d+)_")


def numbers():
    """The findings that tests are named after, and how many tests each has."""
    found = {}
    for path in TESTS.rglob("test_*.py"):
        for line in path.read_text("utf-8").splitlines():
            for name in re.findall(r"_(p\d+)(?=_)", line) if NAMED.search(line) else ():
                found.setdefault(name, []).append(path.name)
    return found


@pytest.mark.parametrize("finding", [f"p{number}" for number in range(1, 17)])
def test_every_finding_has_tests_of_its_name(finding):
    """Somewhere under tests."""
    assert numbers().get(finding), f"no test is named test_{finding}_..."
