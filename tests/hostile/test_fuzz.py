"""Mutated input for the running daemon, more of it with --long, and command sets and Identifiers by hypothesis.

`python -m tests.hostile fuzz` sends any number of inputs.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests import raw
from tests.archives import FIND, identifier
from tests.docs.requests import VERIFICATION
from tests.hostile import fuzz
from tests.hostile.daemons import Daemon
from tests.hostile.mutations import KINDS, made
from tests.programs import needs
from tests.raw import IMPLICIT, Raw


def check_harmless(totals: fuzz.Totals, inputs: int) -> None:
    """Check that no input did harm or left anything behind."""
    assert sum(totals.inputs.values()) == inputs == totals.survived
    assert (totals.crashes, totals.hangs, totals.late) == ([], [], 0)
    assert (totals.tracebacks, totals.unescaped) == (0, 0)
    assert totals.grown(0) < 24


def test_mutated_input_of_every_kind_does_no_harm(tmp_path: Path) -> None:
    """The same inputs each time."""
    check_harmless(fuzz.run("pacs", 1000, "tests", tmp_path, most=300), 300)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(5))
def test_more_mutated_input_of_every_kind_does_no_harm(tmp_path: Path, seed: int) -> None:
    """Twenty thousand inputs."""
    check_harmless(fuzz.run("pacs", 1000, seed, tmp_path, most=4000), 4000)


def test_the_same_seed_makes_the_same_input() -> None:
    """Of all kinds."""
    inputs = [made("a", number) for number in range(50)]
    assert inputs == [made("a", number) for number in range(50)]
    assert {each.kind for each in inputs} == set(KINDS)
    assert inputs != [made("b", number) for number in range(50)]


def test_another_server_can_be_fuzzed(tmp_path: Path) -> None:
    """Its totals are in the same table, with the crashes of its children."""
    for program in ("dcmqrscp", "strace"):
        needs(program)
    totals = fuzz.run("dcmqrscp", 30, "tests", tmp_path, most=50)
    assert sum(totals.inputs.values()) == 50
    assert "| dcmqrscp |" in fuzz.table([totals])


# --- by hypothesis -----------------------------------------------------------------------------------------------

BOUNDED = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
ELEMENTS = st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=40))


@BOUNDED
@given(
    elements=st.lists(ELEMENTS, max_size=12),
    usual=st.booleans(),
    is_command=st.sampled_from((0x30, 0x20, 0x01, 0x0FFF, 0x8030, 0x150)),
)
def test_any_command_set_is_answered_or_ends_the_association(
    daemon: Daemon, elements: list[tuple[int, bytes]], usual: bool, is_command: int
) -> None:
    """With a response, a release or an A-ABORT; the log lines are not counted."""
    sent = [raw.element(0x0002, VERIFICATION.encode()), raw.us(0x0100, is_command), raw.us(0x0110, 1)] if usual else []
    sent += [raw.element(tag, value) for tag, value in elements]
    with Raw(daemon.port) as client:
        client.associate((1, VERIFICATION, [IMPLICIT]))
        client.send(raw.pdv(1, raw.command_set(sent), command=True), raw.pdu(0x05, bytes(4)))
        kind, _ = client.pdu()
    assert kind in (0x04, 0x06, 0x07)
    daemon.incidents()
    daemon.lines = 0


@BOUNDED
@given(
    level=st.sampled_from(("STUDY", "SERIES", "IMAGE", "PATIENT", "")),
    elements=st.lists(
        st.tuples(
            st.sampled_from((0x0008, 0x0010, 0x0020, 0x0040, 0x0009)), st.integers(0, 0xFFFF), st.binary(max_size=60)
        ),
        max_size=8,
    ),
)
def test_any_identifier_is_answered_or_refused(
    daemon: Daemon, level: str, elements: list[tuple[int, int, bytes]]
) -> None:
    """With a status of C-FIND; the association continues."""
    data = identifier(level) + b"".join(
        int.to_bytes(group, 2, "little") + int.to_bytes(number, 2, "little") + len(value).to_bytes(4, "little") + value
        for group, number, value in sorted(elements)
    )
    with Raw(daemon.port) as client:
        client.associate((1, FIND, [IMPLICIT]), calling="CHECK")
        client.send(raw.request(raw.C_FIND, 1, FIND, 1, data))
        status = client.until_final()[-1].status
        client.release()
    daemon.lines = 0
    assert status == 0x0000 or (status >> 12 in (0xA, 0xC) and status != 0xC001)
