"""Each defect found in pynetdicom and its application (P1 to P16, docs/checklist.md) has tests named after it."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
NAMED = re.compile(r"def test(?:_[a-z]\d+[a-z]?)*?_(p\d+)_")


def numbers():
    """Return the test files of each finding that a test is named after."""
    found = {}
    for path in TESTS.rglob("test_*.py"):
        for line in path.read_text("utf-8").splitlines():
            for name in re.findall(r"_(p\d+)(?=_)", line) if NAMED.search(line) else ():
                found.setdefault(name, []).append(path.name)
    return found


@pytest.mark.parametrize("finding", [f"p{number}" for number in range(1, 17)])
def test_every_finding_has_a_test(finding):
    """Named test_p1_..., anywhere under tests."""
    assert numbers().get(finding), f"no test is named test_{finding}_..."
