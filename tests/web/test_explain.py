"""/explain: the last explanations as JSON, of all workers together, and not found unless requests are explained."""

import json
import re

import pytest

from pacs.testing import serving, study
from tests.archives import take_in
from tests.cli.test_reloading import configured
from tests.cli.test_workers import Client
from tests.dimse.test_explained import ask, explained
from tests.waiting import eventually
from tests.web.answering import WEB, WORDS, answering, get

ON = {"web.enabled": True, "web.port": 0, "query.explain": True}


def shown(port, path="/explain"):
    """What is shown, read as JSON."""
    status, headers, text = get(port, path)
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "application/json", "no-store"), text
    return json.loads(text)


def test_the_last_explanations_are_shown_and_each_by_its_number(tmp_path):
    """The newest first; of a number there is not 404."""
    with serving(tmp_path, ON) as archive:
        take_in(archive, study("DOE^JOHN", series=1, instances=1))
        assert shown(archive.web_port) == []
        for count, name in enumerate(("DOE*", "ROE*"), 1):
            ask(archive, PatientName=name, StudyInstanceUID="")
            explained(archive, count)
        newest, oldest = shown(archive.web_port)
        asked = [[key["asked"] for key in each["keys"] if key["key"] == "PatientName"] for each in (newest, oldest)]
        assert asked == [["ROE*"], ["DOE*"]]
        assert [each["outcome"]["counts"] for each in (newest, oldest)] == [{"matches": 0}, {"matches": 1}]
        assert shown(archive.web_port, f"/explain/{oldest['number']}") == oldest
        assert get(archive.web_port, "/explain/99")[0] == 404
        assert get(archive.web_port, "/explain/x")[0] == 404


def test_nothing_is_found_unless_requests_are_explained(tmp_path):
    """As of any other path that there is not."""
    with serving(tmp_path, ON | {"query.explain": False}) as archive:
        nowhere = get(archive.web_port, "/nowhere")
        for path in ("/explain", "/explain/1"):
            status, _, text = get(archive.web_port, path)
            assert (status, text) == (nowhere[0], nowhere[2]) == (404, "Not Found")


def test_a_peer_that_is_explained_is_enough(tmp_path):
    """Somebody is."""
    peers = [{"ae_title": "WS", "host": "127.0.0.1", "port": 104, "explain": True}]
    with serving(tmp_path, ON | {"query.explain": False, "peers": peers}) as archive:
        ask(archive, StudyInstanceUID="")
        explained(archive)
        assert [each["calling_ae_title"] for each in shown(archive.web_port)] == ["WS"]


def test_any_worker_shows_what_all_of_them_explained(tmp_path):
    """Asked often enough, both have answered queries, and each answers HTTP."""
    with answering(tmp_path, "--workers", "2", "--set", "query.explain=true") as server:
        for _ in range(8):
            with Client(server.port) as client:
                client.found()
        assert eventually(lambda: len(shown(server.web)) == 8)
        for _ in range(4):
            assert len(shown(server.web)) == 8
        assert len({each["number"] for each in shown(server.web)}) == 8


@pytest.mark.parametrize("words", [(), ("--workers", "2")], ids=["one process", "two workers"])
def test_sighup_switches_it_on_and_off(tmp_path, words):
    """In all workers; what was explained is forgotten when it is off."""
    off, on = "[query]\nexplain = false\n", "[query]\nexplain = true\n"
    with configured(tmp_path, off, *WORDS, *words) as server:
        port = int(WEB.fullmatch(server.stdout.readline())[1])
        assert get(port, "/explain")[0] == 404
        server.reconfigure(on)
        assert eventually(lambda: all(get(port, "/explain")[0] == 200 for _ in range(4)))
        with Client(server.port) as client:
            client.found()
        assert eventually(lambda: len(shown(port)) == 1)
        assert eventually(lambda: re.search(r"explanation \d+: C-FIND, Study Root, level", server.log.read_text()))
        server.reconfigure(off)
        assert eventually(lambda: all(get(port, "/explain")[0] == 404 for _ in range(4)))
        server.reconfigure(on)
        assert eventually(lambda: all(get(port, "/explain")[::2] == (200, "[]") for _ in range(4)))
