"""A short run of `benchmarks.longrun`: the resources of a server do not grow."""

import xml.etree.ElementTree as ElementTree

from benchmarks import longrun, peers
from benchmarks.longrun import Sample


def test_p7_nothing_grows_by_probes_associations_and_instances(tmp_path):
    """Memory grows only by bounded caches, threads and descriptors not at all."""
    totals = {"probes": 600, "associations": 200, "instances": 1000}
    with peers.systems(["pacs"], tmp_path, ()) as (system,):
        found = {"pacs": list(longrun.run(system, totals))}
    for phase in found["pacs"]:
        assert phase.grown(lambda each: each.megabytes) < 16
        assert phase.grown(lambda each: each.threads) <= 1
        assert phase.grown(lambda each: each.descriptors) <= 8, "a connection to the index for each sender, no more"
    assert [line.split(" | ")[2] for line in longrun.table(found).splitlines()[2:]] == ["600", "200", "1,000"]
    assert ElementTree.fromstring(longrun.curve(found)).tag.endswith("svg")


def test_growth_is_counted_after_warm_up():
    """Memory that is allocated once at the beginning does not count."""
    phase = longrun.Phase("x", 20, samples=[Sample(at, 10.0 * min(at, 4) + at, 5, at) for at in range(1, 21)])
    assert phase.grown(lambda each: each.megabytes) == 16
    assert phase.grown(lambda each: each.threads) == 0
