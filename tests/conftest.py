"""Options and fixtures for all tests."""

import os
import signal
from collections.abc import Iterator
from socketserver import BaseServer

import pytest

from tests.decoders import decoders
from tests.leftovers import collect_quietly
from tests.waiting import eventually

pytest_plugins = ["tests.databases", "pacs.testing"]

# Servers of pynetdicom poll for their end, by default every 0.5 s.
BaseServer.serve_forever.__defaults__ = (0.01,)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--long`: more examples, more kills."""
    parser.addoption("--long", action="store_true", help="run the long forms of tests too")


def pytest_configure() -> None:
    """Restore the handling of SIGINT for tests and their processes, if this run was started with it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes `-n auto` starts: half again as many as there are cores, as most tests wait a lot."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores * 3 // 2


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the long forms without `--long`."""
    if not config.getoption("--long"):
        for item in items:
            if "long" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="a long form: run with --long"))


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_to_other_modules(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collect the sockets that pynetdicom left open in a module, before they cause warnings in another one."""
    yield
    marks = getattr(request.module, "pytestmark", ())
    for mark in marks if isinstance(marks, list | tuple) else (marks,):
        if mark.name == "filterwarnings" and "PytestUnraisableExceptionWarning" in mark.args[0]:
            collect_quietly()


@pytest.fixture(scope="module", autouse=True)
def _no_decoder_process_is_left() -> Iterator[None]:
    """Check that every archive of a module has ended its decoder processes."""
    yield
    eventually(lambda: not decoders(os.getpid()))
