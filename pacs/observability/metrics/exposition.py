"""The metrics in the text format of Prometheus; the only module that imports prometheus-client."""

import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from pydicom.uid import UID

from pacs import __version__
from pacs.observability.metrics.counters import Counters, Series
from pacs.observability.metrics.counting import ACTIVE, BOUNDS, DIED, OPERATIONS, OTHER, PROCESS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

COUNTED = "New ones are counted each minute; deleted ones too, unless counting takes more than 0.6 s."
NOT_YET = float("nan")

Numbers = Mapping[Series, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Values measured at the time of the request, NaN if unknown."""

    database_up: bool
    database_seconds: float
    files_up: bool
    files_free: float
    files_total: float
    """Bytes of the disk of the files."""
    index_completed: float
    """The part of the files that is known to be in the index: 1 unless it is being completed."""
    commitments: float
    oldest_commitment: float
    """Seconds since the oldest request for storage commitment that has not been reported yet."""
    oldest_operation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Values that do not change while the server runs."""

    database: str
    workers: int
    most_associations: int


def exposition(counters: Counters, facts: Facts, moment: Moment) -> bytes:
    """Return all metrics of the server in the text format, version 0.0.4."""
    return generate_latest(_Families(counters, facts, moment))


class _Families(CollectorRegistry):
    """Collects the metric families of one request."""

    def __init__(self, counters: Counters, facts: Facts, moment: Moment) -> None:
        super().__init__()
        self._workers, self._numbers = counters.each(), counters.totals()
        self._facts, self._moment = facts, moment

    def collect(self) -> Iterator[Metric]:
        """Yield every family, also those without counts."""
        yield from self._about_the_server()
        yield from self._about_associations()
        yield from self._about_operations()
        yield from self._about_the_archive()
        yield from _processes(self._workers)

    def _about_the_server(self) -> Iterator[Metric]:
        facts = self._facts
        build = GaugeMetricFamily(
            "pacs_build_info",
            "Versions of pacs and Python, and the kind of database.",
            labels=("version", "python", "database"),
        )
        build.add_metric((__version__, platform.python_version(), facts.database), 1.0)
        yield build
        yield GaugeMetricFamily("pacs_workers", "Configured worker processes.", value=facts.workers)
        yield self._counter("pacs_workers_died", "Workers that died.", DIED)
        yield self._counter("pacs_audit_lost", "Records that could not be written to the audit log.", "audit_lost")

    def _about_associations(self) -> Iterator[Metric]:
        active = self._numbers.get((ACTIVE,), 0.0)
        yield GaugeMetricFamily("pacs_associations_active", "Current associations.", value=active)
        most = self._facts.most_associations
        yield GaugeMetricFamily("pacs_associations_limit", "Maximum number of simultaneous associations.", value=most)
        yield self._counter("pacs_associations", "Associations accepted.", "associations")
        rejected = "Associations rejected, by result/source/reason (PS3.8 9.3.4), and invalid requests aborted."
        yield self._counter("pacs_associations_rejected", rejected, "rejected", "reason")

    def _about_operations(self) -> Iterator[Metric]:
        done = "Operations that had their final response, by the class of its status (PS3.7 Annex C)."
        yield self._counter("pacs_operations", done, "operations", "operation", "status")
        for name in (*OPERATIONS.values(), OTHER):
            yield self._durations(name)
        sent = "C-STORE sub-operations of retrieves; those of a C-GET have no destination."
        yield self._counter("pacs_suboperations", sent, "suboperations", "destination", "result")
        converted = "Frames converted into another transfer syntax, or the error why one was not."
        yield self._counter("pacs_frames", converted, "frames", "result")
        failed = "Associations that a move destination did not accept."
        yield self._counter("pacs_destination_failures", failed, "destination_failed", "destination")

    def _about_the_archive(self) -> Iterator[Metric]:
        stored = CounterMetricFamily(
            "pacs_store_instances", "Instances received: new, or already stored.", labels=("sop_class", "status")
        )
        for (name, *labels), number in self._numbers.items():
            if name == "stored":
                stored.add_metric((_sop_class(labels[0]), labels[1]), number)
        yield stored
        yield self._counter("pacs_store_bytes", "Bytes of the data sets of new instances.", "bytes")
        yield self._counter("pacs_store_refused", "Instances refused, by error.", "refused", "error")
        yield self._counter("pacs_index_added", "Instances added to an index that lacked their files.", "index_added")
        for name, family, documentation in (
            ("held_studies", "pacs_archive_studies", "Studies in the archive."),
            ("held_instances", "pacs_archive_instances", "Instances in the archive."),
            ("held_bytes", "pacs_archive_bytes", "Bytes of the files of the archive."),
        ):
            value = self._numbers.get((name,), NOT_YET)
            yield GaugeMetricFamily(family, f"{documentation} {COUNTED}", value=value)
        moment = self._moment
        for family, documentation, value in (
            ("pacs_database_up", "Whether the database responds.", moment.database_up),
            ("pacs_database_ping_seconds", "Response time of the database.", moment.database_seconds),
            ("pacs_files_up", "Whether the file store is writable.", moment.files_up),
            ("pacs_files_free_bytes", "Free bytes on the disk of the files.", moment.files_free),
            ("pacs_files_size_bytes", "Size of the disk of the files.", moment.files_total),
            (
                "pacs_index_completed_ratio",
                "Part of the files known to be in the index: 1, or less while it is completed.",
                moment.index_completed,
            ),
            ("pacs_commitments", "Requests for storage commitment that have not been reported.", moment.commitments),
            ("pacs_commitments_oldest_seconds", "Age of the oldest of them, 0 without any.", moment.oldest_commitment),
            (
                "pacs_operations_oldest_seconds",
                "For how long the oldest operation has been running, 0 without any; C-STORE does not count.",
                moment.oldest_operation,
            ),
        ):
            yield GaugeMetricFamily(family, documentation, value=float(value))

    def _counter(self, family: str, documentation: str, name: str, *labels: str) -> Metric:
        """Return the family of a counter; one without labels begins at 0."""
        if not labels:
            return CounterMetricFamily(family, documentation, value=self._numbers.get((name,), 0.0))
        counter = CounterMetricFamily(family, documentation, labels=labels)
        for (each, *values), number in self._numbers.items():
            if each == name:
                counter.add_metric(values, number)
        return counter

    def _durations(self, name: str) -> Metric:
        """Return the histogram of the durations of one operation."""
        groups = [self._numbers.get(("seconds", name, str(place)), 0.0) for place in range(len(BOUNDS) + 1)]
        bounds = (*map(str, BOUNDS), "+Inf")
        buckets = [(bound, sum(groups[: place + 1])) for place, bound in enumerate(bounds)]
        histogram = HistogramMetricFamily(f"pacs_{name}_seconds", f"Duration of operations: {name}.")
        histogram.add_metric((), buckets, self._numbers.get(("seconds_sum", name), 0.0))
        return histogram


def _sop_class(uid: str) -> str:
    """Return the name of a SOP Class in PS3.6, or its UID if pydicom does not know it."""
    return UID(uid).name if uid != OTHER else OTHER


def _processes(workers: Iterable[Numbers]) -> Iterator[Metric]:
    """Return the process metrics of each worker, where /proc exists."""
    families: dict[str, Metric] = {}
    for worker, numbers in enumerate(workers):
        pid = int(numbers.get((PROCESS,), 0))
        if not pid:
            continue
        for family in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
            ours = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                ours.add_sample(sample.name, {"worker": str(worker)}, sample.value)
    yield from families.values()
