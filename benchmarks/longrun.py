"""`python -m benchmarks.longrun`: run a server for a long time, and report whether its resources grow.

The phases are connections that open and close, associations, and C-STORE requests. Resident memory, threads and
descriptors of the server are read twenty times in each phase. The table shows their growth from the first fifth of a
phase, after warm-up, to its end.
"""

import argparse
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import client, data, peers, processes
from benchmarks.bench import say
from benchmarks.client import Association
from benchmarks.peers import System

SAMPLES = 20
"""The number of samples of each phase."""

SETTLED = SAMPLES // 5
"""The sample after which nothing may grow."""

LANES = 4
"""The number of concurrent associations for C-STORE."""


@dataclass(frozen=True)
class Sample:
    """The resources of the server after a number of operations."""

    done: int
    megabytes: float
    threads: int
    descriptors: int


@dataclass
class Phase:
    """The operations of a phase, their number and time, and the samples."""

    name: str
    total: int
    seconds: float = 0.0
    samples: list[Sample] = field(default_factory=list)

    def grown(self, what: Callable[[Sample], float]) -> float:
        """Return the growth of a resource since the server had settled."""
        return what(self.samples[-1]) - what(self.samples[SETTLED - 1])


def probes(system: System, count: int) -> None:
    """Connect and close, as a health check of a load balancer does."""
    for _ in range(count):
        socket.create_connection(("127.0.0.1", system.port), client.PATIENCE).close()


def associations(system: System, count: int) -> None:
    """Associate and release."""
    for _ in range(count):
        with Association(system.port, system.ae_title):
            pass


def instances(system: System, count: int) -> None:
    """Store images of 9 kB."""
    shares = [count // LANES + (lane < count % LANES) for lane in range(LANES)]
    client.store(system.port, system.ae_title, [data.images("9 kB", share) for share in shares if share])


PHASES: dict[str, Callable[[System, int], None]] = {
    "probes": probes, "associations": associations, "instances": instances,
}  # fmt: skip
TITLES = {
    "probes": "connections that open and close",
    "associations": "associations",
    "instances": "instances of 9 kB, 4 associations",
}


def run(system: System, totals: dict[str, int]) -> Iterator[Phase]:
    """Run the phases, and yield each when it is done."""
    for name, total in totals.items():
        phase = Phase(TITLES[name], total)
        began = time.perf_counter()
        for part in range(SAMPLES):
            PHASES[name](system, total * (part + 1) // SAMPLES - total * part // SAMPLES)
            phase.samples.append(_sample(system.pid, total * (part + 1) // SAMPLES))
        phase.seconds = time.perf_counter() - began
        say(f"{system.name}: {total:,} {phase.name} in {phase.seconds:.0f} s")
        yield phase


def _sample(pid: int, done: int) -> Sample:
    """Return the resources of the server once they are stable, or after two seconds."""
    counted = _count_open(pid)
    for _ in range(20):
        time.sleep(0.05)
        before, counted = counted, _count_open(pid)
        if counted == before:
            break
    return Sample(done, processes.resident_megabytes(pid), *counted)


def _count_open(pid: int) -> tuple[int, int]:
    return tuple(len(list(Path(f"/proc/{pid}/{each}").iterdir())) for each in ("task", "fd"))  # type: ignore[return-value]


# --- what is printed ---------------------------------------------------------------------------------------------


def table(found: dict[str, list[Phase]]) -> str:
    """Return the totals of each system in Markdown."""
    heads = ("system", "what", "how many", "seconds", "memory, MB", "more MB", "more threads", "more descriptors")
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    for name, phases in found.items():
        for phase in phases:
            first, last = phase.samples[SETTLED - 1], phase.samples[-1]
            cells = [
                name, phase.name, f"{phase.total:,}", f"{phase.seconds:.0f}",
                f"{first.megabytes:.1f} → {last.megabytes:.1f}", f"{phase.grown(lambda each: each.megabytes):+.1f}",
                f"{phase.grown(lambda each: each.threads):+.0f}", f"{phase.grown(lambda each: each.descriptors):+.0f}",
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


WIDTH, HEIGHT, LEFT, TOP = 860, 260, 60, 40
COLOURS = {"pacs": "#0b6e99", "pacs-postgres": "#5aa9c7", "orthanc": "#b5651d", "dcmqrscp": "#7a7a7a"}


def curve(found: dict[str, list[Phase]]) -> str:
    """Return the resident memory over all phases as SVG: a line for each system, a column for each phase."""
    highest = max(each.megabytes for phases in found.values() for phase in phases for each in phase.samples) * 1.1
    width, height = WIDTH - LEFT - 20, HEIGHT - TOP - 40
    drawn = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>']
    drawn.append('<text class="head" x="10" y="18">Resident memory of the server, MB</text>')
    for part in range(5):
        y = TOP + height * part / 4
        drawn.append(f'<line x1="{LEFT}" x2="{LEFT + width}" y1="{y:.0f}" y2="{y:.0f}" stroke="#ddd"/>')
        drawn.append(f'<text x="{LEFT - 8}" y="{y + 4:.0f}" text-anchor="end">{highest * (4 - part) / 4:.0f}</text>')
    for number, phase in enumerate(next(iter(found.values()))):
        x = LEFT + width * number / len(next(iter(found.values())))
        drawn.append(f'<line x1="{x:.0f}" x2="{x:.0f}" y1="{TOP}" y2="{TOP + height}" stroke="#bbb"/>')
        drawn.append(f'<text x="{x + 6:.0f}" y="{TOP + height + 18}">{phase.total:,} {phase.name}</text>')
    for place, (name, phases) in enumerate(found.items()):
        samples = [each for phase in phases for each in phase.samples]
        points = " ".join(
            f"{LEFT + width * (at + 1) / len(samples):.1f},{TOP + height * (1 - each.megabytes / highest):.1f}"
            for at, each in enumerate(samples)
        )
        colour = COLOURS.get(name, "#333")
        drawn.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn.append(f'<text x="{LEFT + 260 + 110 * place}" y="18" style="fill:{colour}">{name}</text>')
    style = "<style>text{font:12px system-ui,sans-serif;fill:#333}.head{font-weight:600}</style>"
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
    )
    return "\n".join([opening, style, *drawn, "</svg>"]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print the totals, and optionally draw the chart."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.longrun", description=(__doc__ or "").partition(": ")[2]
    )
    parser.add_argument(
        "--systems", nargs="+", choices=peers.SYSTEMS, default=["pacs"], metavar="NAME", help="servers to run"
    )
    parser.add_argument("--probes", type=int, default=10_000, help="number of connections that open and close")
    parser.add_argument("--associations", type=int, default=10_000, help="number of associations")
    parser.add_argument("--instances", type=int, default=100_000, help="number of instances to store")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="folder for all data, on a real disk"
    )
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the resident memory in FILE as SVG")
    options = parser.parse_args(arguments)
    totals = {name: getattr(options, name) for name in PHASES}
    found = {}
    for name in options.systems:
        with (
            tempfile.TemporaryDirectory(dir=options.folder) as folder,
            peers.systems([name], Path(folder), ()) as started,
        ):
            found[name] = list(run(started[0], totals))
    sys.stdout.write(table(found))
    if options.chart:
        options.chart.write_text(curve(found), encoding="utf-8")


if __name__ == "__main__":
    main()
