"""The goals: bounds of medians, and of ratios between medians of one invocation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.bench import Better, Row


@dataclass(frozen=True)
class Goal:
    """A goal for one line: relative to the best of `systems`, relative to another line, or absolute."""

    title: str
    key: str
    bound: float
    systems: Sequence[str] = ()
    other: str = ""
    """The line that this one is divided by."""
    inverse: bool = False
    """The quotient is a gain: at least the bound is wanted."""
    ours: str = "pacs"
    aim: float | None = None

    @property
    def at_most(self) -> bool:
        """Whether the bound is an upper bound."""
        return not (self.systems or self.inverse)

    @property
    def is_ratio(self) -> bool:
        """Whether the value is a quotient."""
        return bool(self.systems or self.other)


CAPABLE = ("orthanc", "orthanc-tuned", "dcmqrscp")
CONVERTERS = ("orthanc", "orthanc-tuned", "orthanc-gdcm")
SMALL = {"one-a-study": "one image a study", "5-a-series": "5 a series", "300-a-series": "300 a series"}


def _of_small() -> Iterator[Goal]:
    """Yield the goals of 9 kB: for every shape and number of associations, and that no C-STORE waits for long."""
    for count, bound, aim in ((1, 1.5, 2.5), (4, 2.0, 3.0), (16, 2.0, 3.0)):
        for shape, title in SMALL.items():
            name, key = f"9 kB, {title}, {count} association{'s' if count > 1 else ''}", f"sustained.{shape}.{count}"
            yield Goal(f"{name} ÷ durable Orthanc", key, bound, ("orthanc",), aim=aim)
    for count in (1, 4, 16):
        for shape, title in SMALL.items():
            name, key = f"9 kB, {title}, {count} association{'s' if count > 1 else ''}", f"sustained.{shape}.{count}"
            yield Goal(f"{name}: 99th percentile ÷ median of a C-STORE", f"{key}.p99", 10, other=f"{key}.p50")


GOALS = (
    *_of_small(),
    *(
        Goal(f"512 kB, {title}, share of the limit", f"sustained.ct-512kB.{count}", 0.75, ("limit",), aim=0.9)
        for count, title in ((1, "1 association"), (4, "4 associations"))
    ),
    Goal("stock storescu, 9 kB ÷ best C or C++ peer", "storescu", 40, CAPABLE, aim=80),
    Goal("C-FIND by Patient ID: Orthanc's time ÷ ours", "find.patient_id.last", 8, ("orthanc",), aim=15),
    Goal("C-FIND by Accession Number: Orthanc's time ÷ ours", "find.accession.last", 8, ("orthanc",), aim=15),
    Goal("all 10,000 studies with counts ÷ Orthanc", "find.all.counts.rate", 3, ("orthanc",), aim=5),
    Goal("C-FIND while 4 associations store ÷ in a quiet time", "loaded.find", 3, other="loaded.find.quiet"),
    Goal("C-MOVE 100 × 512 kB ÷ best peer", "move.512kB", 1.5, CAPABLE, aim=2),
    Goal("C-MOVE 100 × 512 kB, 20 ms of round trip ÷ best peer", "far.move.512kB", 1.5, CAPABLE, aim=2),
    *(
        Goal(
            f"C-MOVE {title}, 20 ms: 1 association ÷ {how}", f"far1.move.{key}", 2, other=f"{other}.{key}", inverse=True
        )
        for key, title in (("9kB", "1,000 × 9 kB"), ("512kB", "100 × 512 kB"))
        for how, other in (("4", "far4.move"), ("1 with a window", "farwindow.move"))
    ),
    *(
        Goal(f"{title} with about 10,000 matches of 1,000,000 studies on SQLite, all answers, ms", key, 1000, aim=300)
        for title, key in (
            ("Patient ID prefix", "million.find.patient_id_prefix.last"),
            ("a month", "million.find.month.last"),
        )
    ),
    Goal("memory of four workers, idle, together (PSS), MB", "idle.alone", 250, ours="pacs-4", aim=150),
    Goal("memory under 16 × 30 MB, MB more", "sustained.multiframe-30MB.16.memory", 64),
    Goal("point query at 1,000,000 ÷ at 10,000", "million.find.patient_id.last", 2, other="find.patient_id.last"),
    Goal("name infix at 1,000,000, first response, ms", "million.find.infix.first", 100),
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
        return self._satisfies(self.goal.bound)

    @property
    def aim_reached(self) -> bool:
        """Whether the value satisfies the aim."""
        return self.goal.aim is not None and self._satisfies(self.goal.aim)

    def _satisfies(self, bound: float) -> bool:
        return self.value <= bound if self.goal.at_most else self.value >= bound


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
