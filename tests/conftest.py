"""What every test may use."""

import pytest

pytest_plugins = ["tests.databases", "pacs.testing"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The switch for the long forms of tests: more examples, more kills."""
    parser.addoption("--long", action="store_true", help="run the long forms of tests too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long forms out unless they are asked for."""
    if not config.getoption("--long"):
        for item in items:
            if "long" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="a long form: run with --long"))
