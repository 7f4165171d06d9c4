"""The daemons that modules share, and the check after each of its tests."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import pytest

pytest.register_assert_rewrite("tests.hostile.house")

from tests.hostile import house  # noqa: E402 - after the line that has its assertions say more
from tests.hostile.house import Daemon  # noqa: E402

Start = Callable[[Mapping[str, object]], Daemon]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Gives the daemon with some settings, the same one whenever they are the same."""
    running: dict[str, Daemon] = {}
    with ExitStack() as stack:

        def start(settings: Mapping[str, object]) -> Daemon:
            name = repr(settings)
            if name not in running:
                running[name] = stack.enter_context(house.daemon(tmp_path_factory.mktemp("hostile"), settings))
            return running[name]

        yield start


@pytest.fixture
def daemon(request: pytest.FixtureRequest, start: Start) -> Iterator[Daemon]:
    """The daemon with the `SETTINGS` of the module, which has to be as it was when the test is over."""
    running = start(getattr(request.module, "SETTINGS", {}))
    yield running
    running.check()
