"""The plugin as pytest loads it in another project."""

import os
import re
import subprocess
import sys

import pytest

from tests.programs import free_port

SUITE = """
from pynetdicom import AE

def echo(server):
    ae = AE()
    ae.add_requested_context("1.2.840.10008.1.1")
    association = ae.associate(server.host, server.port)
    status = association.send_c_echo().Status
    association.release()
    return status

def test_it_answers(pacs_server):
    assert echo(pacs_server) == 0
    assert len(pacs_server.received.c_echo) == 1

def test_nothing_is_left_of_another_test(pacs_server):
    assert pacs_server.received.requests == []
    assert echo(pacs_server) == 0
"""


def run(folder, suite, *options, **variables):
    """Run a suite in its own folder and return what pytest prints."""
    (folder / "test_suite.py").write_text(suite)
    unused = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")  # the latter takes half a second to import
    command = [sys.executable, "-m", "pytest", "-q", *unused, "--strict-markers", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | variables
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=50, check=False, env=environment)
    return ran.stdout + ran.stderr


def test_a_suite_only_needs_the_fixture(tmp_path):
    """Each test gets its own archive."""
    assert "2 passed" in run(tmp_path, SUITE)


def test_a_suite_can_run_on_several_workers(tmp_path):
    """Each has its own ports, also if a port is given."""
    assert "2 passed" in run(tmp_path, SUITE, "-n", "2", "--pacs-port", str(free_port()))


def test_title_and_port_can_be_chosen(tmp_path):
    """For an SCU with a fixed server address."""
    port = free_port()
    suite = f"def test_it(pacs_server):\n    assert pacs_server.address == 'MINE@127.0.0.1:{port}'\n"
    assert "1 passed" in run(tmp_path, suite, "--pacs-aet", "MINE", "--pacs-port", str(port), "-n", "0")


WRONG_MARKERS = {
    "settings={'server.prt': 1}": "server.prt: unknown key; did you mean server.port?",
    "scenario='rude'": "no scenario file or preset 'rude'",
    "'strict-a900'": "pacs('strict-a900'): expected keywords; did you mean pacs(scenario='strict-a900')?",
    "{'server.ae_title': 'A'}": "did you mean pacs(settings={...})?",
    "sceanrio='strict-a900'": "pacs(sceanrio=...): expected settings and scenario; did you mean scenario?",
    "port=104": "pacs(port=...): expected settings and scenario",
}


def test_an_invalid_marker_is_an_error(tmp_path):
    """With the messages of `pacs serve`."""
    tests = [
        f"@pytest.mark.pacs({marker})\ndef test_{number}(pacs_server):\n    pass\n"
        for number, marker in enumerate(WRONG_MARKERS)
    ]
    said = run(tmp_path, "\n".join(["import pytest", *tests]), "-n", "0")
    _, *parts = re.split(r"_ ERROR at setup of test_(\d) _", said)
    errors = dict(zip(map(int, parts[::2]), parts[1::2], strict=True))
    wrong = [marker for number, (marker, text) in enumerate(WRONG_MARKERS.items()) if text not in errors[number]]
    assert wrong == []
    assert "6 errors" in said


HEAVY = """
import sys
import pytest
from pacs.testing import study

@pytest.fixture(autouse=True, scope="session")
def before():
    print("imported", [each for each in ("pynetdicom", "sqlalchemy", "pacs.testing.server") if each in sys.modules])
"""


@pytest.mark.parametrize(
    ("arguments", "imported"),
    [
        ("pacs_server", ["pynetdicom", "sqlalchemy", "pacs.testing.server"]),
        ("", []),
    ],
    ids=["used", "unused"],
)
def test_the_server_is_imported_before_the_first_test(tmp_path, arguments, imported):
    """And not in a run without such tests."""
    suite = f"{HEAVY}\ndef test_it({arguments}):\n    pass\n"
    said = run(tmp_path, suite, "-n", "0", "-s")
    assert f"imported {imported}" in said
    assert "1 passed" in said


def test_the_package_can_be_named_as_the_plugin(tmp_path):
    """If plugins are not loaded automatically, or the installed entry point names the package."""
    (tmp_path / "conftest.py").write_text("pytest_plugins = ['pacs.testing']\n")
    assert "2 passed" in run(tmp_path, SUITE, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")


@pytest.mark.parametrize(
    ("lines", "expected"), [("query.manner = strict", "1 passed"), ("strict", "is not KEY = VALUE")]
)
def test_the_ini_file_has_settings_for_all_tests(tmp_path, lines, expected):
    """One per line; those of a marker take precedence."""
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npacs_settings =\n    {lines}\n")
    suite = "def test_it(pacs_server):\n    assert pacs_server.config.query.manner == 'strict'\n"
    assert expected in run(tmp_path, suite, "-n", "0")
