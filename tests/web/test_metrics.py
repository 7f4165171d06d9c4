"""/metrics of a running server: counts of all workers; peers cannot create series."""

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from pacs.errors import AssociationRejected
from pacs.index import writer
from pacs.observability.metrics import counters
from pacs.observability.metrics.counters import Counters
from pacs.services.maintenance import Maintenance
from pacs.testing import serving, study
from tests import raw
from tests.archives import MOVE, identifier
from tests.cli.test_daemon import ask
from tests.cli.test_workers import Client, children, eventually
from tests.programs import free_port
from tests.raw import Raw, request
from tests.web.answering import answering, associated, get, numbers

STORED = 'pacs_store_instances_total{sop_class="CT Image Storage",status="%s"}'
EVIL = 'EVIL"} # {'


def move(port, where, **keys):
    """Return the final status of a C-MOVE."""
    with Raw(port) as client:
        client.associate((1, MOVE, [raw.IMPLICIT]))
        extra = [raw.element(0x0600, where.encode())]
        client.send(request(raw.C_MOVE, 1, MOVE, 1, identifier("STUDY", **keys), extra))
        return client.until_final()[-1].status


def test_events_are_counted(tmp_path):
    """Stores, duplicates, refusals, queries, failed moves and rejections, and nothing else."""
    first, second = study(series=1, instances=2)
    (other,) = study(series=1, instances=1, StudyDescription="other")
    peers = [{"ae_title": "GONE", "host": "127.0.0.1", "port": free_port()}]
    settings = {"web.enabled": True, "web.port": 0, "peers": peers, "access.called_ae": "ours"}
    with serving(tmp_path, settings) as archive:
        with Client(archive.port) as client:
            assert [client.store(each) for each in (first, second, first)] == [0, 0, 0]
            assert client.store(other) >> 12 == 0xC
            assert len(client.found()) == 2
            during = numbers(archive.web_port)
        assert move(archive.port, "GONE", StudyInstanceUID=first.StudyInstanceUID) == 0xA702
        assert move(archive.port, "STRANGER", StudyInstanceUID=first.StudyInstanceUID) == 0xA801
        with pytest.raises(AssociationRejected):
            ask(archive, called="OTHER")
        eventually(lambda: numbers(archive.web_port)["pacs_associations_active"] == 0)
        found = numbers(archive.web_port)
    assert during["pacs_associations_active"] == 1
    assert found["pacs_associations_total"] == 3
    assert found['pacs_associations_rejected_total{reason="1/1/7"}'] == 1
    assert found[STORED % "new"] == 2
    assert found[STORED % "known"] == 1
    assert found['pacs_store_refused_total{error="InstanceConflict"}'] == 1
    assert found['pacs_operations_total{operation="store",status="success"}'] == 3
    assert found['pacs_operations_total{operation="store",status="failure"}'] == 1
    assert found['pacs_operations_total{operation="find",status="success"}'] == 1
    assert found['pacs_operations_total{operation="move",status="failure"}'] == 2
    assert found["pacs_store_seconds_count"] == found['pacs_store_seconds_bucket{le="+Inf"}'] == 4
    assert found["pacs_store_bytes_total"] > 0
    assert found['pacs_suboperations_total{destination="GONE",result="failure"}'] == 2
    assert found['pacs_destination_failures_total{destination="GONE"}'] >= 1
    assert found["pacs_files_free_bytes"] > 0
    assert found["pacs_database_ping_seconds"] > 0
    assert found["pacs_associations_limit"] == 100
    if Path("/proc/self/stat").exists():
        assert found['process_resident_memory_bytes{worker="0"}'] > 0


def test_what_the_archive_has_is_shown(tmp_path, monkeypatch):
    """Also what was there at the start, and without what was deleted; before the first count it is unknown."""
    monkeypatch.setattr("pacs.services.holdings.INTERVAL", 0.05)
    with serving(tmp_path) as archive:
        archive.add(study(series=1, instances=3) + study(series=2, instances=1, number=2))
    gone = [each.SOPInstanceUID for each in study(series=2, instances=1, number=2)]
    with serving(tmp_path, {"web.enabled": True, "web.port": 0}) as archive:
        eventually(lambda: numbers(archive.web_port)["pacs_archive_instances"] == 5)
        found = numbers(archive.web_port)
        size = sum(path.stat().st_size for path in (tmp_path / "files").rglob("*.dcm"))
        assert (found["pacs_archive_studies"], found["pacs_archive_bytes"]) == (2, size)
        Maintenance(archive.index, archive.files).delete(writer.find_all(archive.index, gone))
        eventually(lambda: numbers(archive.web_port)["pacs_archive_instances"] == 3)
        with associated(archive.port):
            eventually(lambda: numbers(archive.web_port)["pacs_associations_active"] == 1)
        assert numbers(archive.web_port)["pacs_archive_studies"] == 1


def test_values_chosen_by_peers_are_no_labels(tmp_path):
    """Neither AE titles nor UIDs, however they are written; the output stays valid."""
    (dataset,) = study(series=1, instances=1)
    dataset.SOPClassUID = "1.2.3.4.666"
    settings = {"web.enabled": True, "web.port": 0, "storage.unknown_sop_classes": True}
    with serving(tmp_path, settings) as archive:
        with Raw(archive.port) as client:
            client.associate((1, dataset.SOPClassUID, [raw.EXPLICIT]), calling=EVIL, called=EVIL)
            uid = raw.element(0x1000, dataset.SOPInstanceUID.encode())
            data = raw.encoded(dataset, raw.EXPLICIT)
            client.send(request(raw.C_STORE, 1, dataset.SOPClassUID, 1, data, [uid]))
            assert client.message().status == 0
        assert move(archive.port, EVIL, StudyInstanceUID=dataset.StudyInstanceUID) == 0xA801
        text = get(archive.web_port, "/metrics")[2]
    assert 'pacs_store_instances_total{sop_class="other",status="new"} 1.0' in text
    assert "3.4.666" not in text
    assert "EVIL" not in text
    assert all(line.startswith("#") or line.rpartition(" ")[2] for line in text.splitlines())


def test_every_worker_shows_the_numbers_of_all(tmp_path):
    """Also after one has died: no count decreases, and its associations are no longer active."""
    datasets = study(series=1, instances=8)
    with answering(tmp_path, "--workers", "2") as server, ExitStack() as stack:
        for dataset in datasets:
            assert stack.enter_context(Client(server.port)).store(dataset) == 0
        for _ in range(12):
            found = numbers(server.web)
            assert (found[STORED % "new"], found["pacs_associations_active"]) == (8, 8)
        assert len([name for name in found if name.startswith("process_cpu_seconds_total")]) == 2
        victim, _ = children(server)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: numbers(server.web)["pacs_workers_died_total"] == 1)
        eventually(lambda: victim not in children(server) and len(children(server)) == 2)
        for _ in range(12):
            found = numbers(server.web)
            assert found[STORED % "new"] == found["pacs_associations_total"] == 8
            assert 0 < found["pacs_associations_active"] < 8
        stack.close()
        with associated(server.port):
            eventually(lambda: numbers(server.web)["pacs_associations_active"] == 1)


# --- shared memory -----------------------------------------------------------------------------------------------


def test_a_new_worker_continues_in_the_region_of_the_dead_one():
    """It finds the numbers there, and the totals are those of all workers."""
    shared = Counters(2)
    first = shared.of(0)
    first.add(("stored", "CT"), 3)
    first.add(("active",), 2)
    shared.of(1).add(("stored", "CT"))
    successor = shared.of(0)
    successor.clear(["active"])
    successor.add(("stored", "CT"))
    successor.add(("stored", "ÄÖ"), 0.5)
    assert shared.totals() == {("stored", "CT"): 5, ("active",): 0, ("stored", "ÄÖ"): 0.5}
    assert shared.each()[1] == {("stored", "CT"): 1}


def test_a_full_region_takes_no_new_series_and_still_counts_the_others(monkeypatch):
    """Its series are counted; the other region stays empty."""
    monkeypatch.setattr(counters, "MOST_SERIES", 100)
    shared = Counters(2)
    region = shared.of(0)
    for number in range(1000):
        region.add(("series", str(number)))
    region.add(("series", "0"))
    assert len(shared.each()[0]) == 100
    assert shared.totals()[("series", "0")] == 2
    assert shared.each()[1] == {}


def test_a_region_has_room_for_thousands_of_destinations():
    """Each of 3,000 peers has series of its own, for sub-operations that succeed, warn and fail, and for failures."""
    shared = Counters()
    region = shared.of(0)
    names = [f"HOSPITAL_{number:07}" for number in range(3000)]
    for name in names:
        for outcome in ("success", "warning", "failure"):
            region.add(("suboperations", name, outcome))
        region.add(("destination_failed", name))
    assert len(shared.each()[0]) == 12000
