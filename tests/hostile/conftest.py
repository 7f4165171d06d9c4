"""The daemons that test modules share, and the check after each test."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import pytest

pytest.register_assert_rewrite("tests.hostile.daemons")

from tests.hostile import daemons  # noqa: E402 - after the registration for assertion rewriting
from tests.hostile.daemons import Daemon  # noqa: E402

Start = Callable[[Mapping[str, object]], Daemon]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Return a function that starts the daemon with some settings, once for equal settings."""
    running: dict[str, Daemon] = {}
    with ExitStack() as stack:

        def start(settings: Mapping[str, object]) -> Daemon:
            name = repr(settings)
            if name not in running:
                running[name] = stack.enter_context(daemons.daemon(tmp_path_factory.mktemp("hostile"), settings))
            return running[name]

        yield start


@pytest.fixture
def daemon(request: pytest.FixtureRequest, start: Start) -> Iterator[Daemon]:
    """The daemon with the `SETTINGS` of the module, checked after the test."""
    running = start(getattr(request.module, "SETTINGS", {}))
    yield running
    running.check()
