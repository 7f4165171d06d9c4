"""`server.workers = "auto"`: the cores that the server may use, at most four; and where there is one process anyway."""

import json
import os
from pathlib import Path

import pytest

from pacs.config import Config
from pacs.settings import MOST_WORKERS, workers
from pacs.support.cores import cores
from tests.cli.test_daemon import process
from tests.cli.test_workers import children

USABLE = len(os.sched_getaffinity(0))

VERSION_2, VERSION_1 = "0::/a.slice/b.service\n", "5:memory:/a\n4:cpuacct,cpu:/docker/b\n1:name=systemd:/x\n0::/\n"
"""`/proc/self/cgroup` of a process in a control group of version 2, and of version 1."""

QUOTAS = {
    "version 2": (VERSION_2, {"a.slice/b.service/cpu.max": "50000 100000"}, 1),
    "version 2, of a group around it": (VERSION_2, {"a.slice/b.service/cpu.max": "max 100000", "cpu.max": "9 10"}, 1),
    "version 2, the path of the host": (VERSION_2, {"cpu.max": "100000 100000"}, 1),
    "version 2, rounded up": (VERSION_2, {"cpu.max": "110000 100000"}, min(2, USABLE)),
    "version 2, next to nothing": (VERSION_2, {"cpu.max": "0 100000"}, 1),
    "version 2, no quota": (VERSION_2, {"cpu.max": "max 100000"}, USABLE),
    "version 2, of another group": (VERSION_2, {"a.slice/c.service/cpu.max": "50000 100000"}, USABLE),
    "version 1": (VERSION_1, {"cpu/docker/b/cpu.cfs_quota_us": "900", "cpu/docker/b/cpu.cfs_period_us": "1000"}, 1),
    "version 1, the path of the host": (VERSION_1, {"cpu/cpu.cfs_quota_us": "1", "cpu/cpu.cfs_period_us": "2"}, 1),
    "version 1, no quota": (VERSION_1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "1000"}, USABLE),
    "nothing that can be read": (VERSION_2, {"cpu.max": "?"}, USABLE),
    "no control groups": ("", {}, USABLE),
}
"""What `/proc/self/cgroup` has, the files below `/sys/fs/cgroup`, and how many cores that is."""


@pytest.mark.parametrize("name", QUOTAS)
def test_a_quota_of_control_groups_limits_the_cores(tmp_path: Path, name: str):
    """The smallest of all groups that the process is in; `USABLE` is what the affinity allows."""
    groups, files, expected = QUOTAS[name]
    for path, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{each}": files[each] for each in files}}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert cores(tmp_path) == expected


def test_a_system_without_control_groups_has_the_cores_of_the_affinity(tmp_path: Path):
    """As macOS, which has no /proc."""
    assert cores(tmp_path) == USABLE


def test_the_affinity_limits_the_workers():
    """One core is one process; a number that was chosen stays."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert workers(Config()) == 1
        assert workers(Config(server={"workers": 3})) == 3
    finally:
        os.sched_setaffinity(0, before)
    assert workers(Config()) == min(len(before), cores(), MOST_WORKERS)


@pytest.mark.skipif(cores() < 2, reason="one core is one process")
def test_by_default_pacs_serve_has_a_worker_for_each_core(tmp_path: Path):
    """None of them is the process that was started."""
    with process(tmp_path, "--workers", "auto") as server:
        assert len(children(server)) == workers(Config())


def test_a_scenario_is_served_by_one_process(tmp_path: Path):
    """By default, as the faults count messages."""
    with process(tmp_path, "--scenario", "no-counts", "--workers", "auto", "--set", "log.format=json") as server:
        assert children(server) == []


def test_the_configuration_shows_what_was_chosen(pacs):
    """Not the number that it is here, which may be another where the server runs."""
    (shown,) = json.loads(pacs("config", "show", "server.workers", "--json").stdout)
    assert (shown["value"], shown["source"]) == ("auto", "default")


def test_a_wrong_number_is_explained(pacs):
    """With all that is valid."""
    refused = pacs("serve", "--workers", "0")
    assert refused.exit_code == 2
    assert "server.workers = '0': expected 'auto' or" in refused.stderr
