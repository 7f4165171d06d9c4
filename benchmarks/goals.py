"""The goals: bounds of medians, and of ratios between medians of one invocation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.bench import Better, Row
from benchmarks.peers import PEERS


@dataclass(frozen=True)
class Goal:
    """A goal for one line: relative to the best of `systems`, relative to another line, or absolute."""

    title: str
    key: str
    bound: float
    systems: Sequence[str] = ()
    other: str = ""
    ours: str = "pacs"

    @property
    def at_most(self) -> bool:
        """Whether the bound is an upper bound."""
        return not self.systems


CAPABLE = ("orthanc", "dcmqrscp")
CONVERTERS = ("orthanc", "orthanc-gdcm")

GOALS = (
    Goal("stock storescu, 9 kB ÷ best C or C++ peer", "storescu", 40, CAPABLE),
    Goal("raw client, 9 kB, 1 association ÷ Orthanc", "ingest.9kB.1", 2, ("orthanc",)),
    Goal("raw client, 9 kB, 4 associations ÷ Orthanc", "ingest.9kB.4", 1.5, ("orthanc",)),
    Goal("the same, two workers", "ingest.9kB.4", 1.5, ("orthanc",), ours="pacs-2"),
    Goal("raw client, 512 kB, 4 associations ÷ best peer", "ingest.512kB.4.mb", 5, PEERS),
    Goal("the same, two workers", "ingest.512kB.4.mb", 5, PEERS, ours="pacs-2"),
    Goal("ingest of 512 kB, 1 association, share of the limit", "ingest.512kB.1.mb", 0.6, ("limit",)),
    Goal("ingest of 512 kB, 4 associations, share of the limit", "ingest.512kB.4.mb", 0.6, ("limit",)),
    Goal("C-FIND by Patient ID: Orthanc's time ÷ ours", "find.patient_id.last", 8, ("orthanc",)),
    Goal("C-FIND by Accession Number: Orthanc's time ÷ ours", "find.accession.last", 8, ("orthanc",)),
    Goal("all 10,000 studies with counts ÷ Orthanc", "find.all.counts.rate", 2, ("orthanc",)),
    Goal("point query at 1,000,000 ÷ at 10,000", "million.find.patient_id.last", 2, other="find.patient_id.last"),
    Goal("name infix at 1,000,000, first response, ms", "million.find.infix.first", 100),
    Goal("C-MOVE 100 × 512 kB ÷ best of Orthanc and dcmqrscp", "move", 1.2, CAPABLE),
    *(
        Goal(f"C-MOVE 100 × 512 kB, {title} to uncompressed ÷ Orthanc", f"convert.{key}", 1, CONVERTERS)
        for key, title in (("jls", "JPEG-LS"), ("jpeg", "JPEG lossless"), ("j2k", "JPEG 2000"))
    ),
    Goal("association set-up, 1 context, ms", "setup.1", 5),
    Goal("association set-up, 128 contexts, ms", "setup.128", 15),
    Goal("100 idle associations, % of a core", "idle.cpu", 1),
    Goal("memory of a 2 GB C-STORE, native, MB", "memory.native", 64),
    Goal("memory of a 2 GB C-STORE, deflated, MB", "memory.deflated", 64),
    Goal("memory of a 2 GB C-STORE, encapsulated, MB", "memory.encapsulated", 64),
    Goal("memory of a C-FIND of 1,000,000 matches, MB", "million.all.memory", 64),
)


@dataclass(frozen=True)
class GoalResult:
    """The result of a goal."""

    goal: Goal
    value: float

    @property
    def reached(self) -> bool:
        """Whether the value satisfies the bound."""
        return self.value <= self.goal.bound if self.goal.at_most else self.value >= self.goal.bound


def goal_results(rows: Sequence[Row]) -> list[GoalResult]:
    """Return the results of the goals that were measured."""
    by_key = {row.line.key: row for row in rows}
    values = ((goal, _value(goal, by_key)) for goal in GOALS)
    return [GoalResult(goal, value) for goal, value in values if value is not None]


def _value(goal: Goal, rows: Mapping[str, Row]) -> float | None:
    row = rows.get(goal.key)
    ours = row.median(goal.ours) if row is not None else None
    if row is None or ours is None:
        return None
    if goal.systems:
        return ratio(row, goal.ours, goal.systems)
    if not goal.other:
        return ours
    other = rows[goal.other].median(goal.ours) if goal.other in rows else None
    return ours / other if other else None


def ratio(row: Row, ours: str, systems: Sequence[str]) -> float | None:
    """Return how many times better `ours` is than the best of `systems` with the same load (median of the runs)."""
    names = (ours, *(name for name in systems if name not in row.eased))
    complete = [row.values[name] for name in names if name in row.values and len(row.values[name]) == _runs(row)]
    if ours not in row.values or len(complete) < 2 or complete[0] is not row.values[ours]:
        return None
    return median(_times_better(row.line.better, mine, others) for mine, *others in zip(*complete, strict=True))


def _runs(row: Row) -> int:
    return max(map(len, row.values.values()), default=0)


def _times_better(better: Better, mine: float, others: Sequence[float]) -> float:
    if better is Better.MORE:
        return mine / max(others) if max(others) else float("inf")
    return min(others) / mine if mine else float("inf")
