"""Old names of modules can still be imported, with a DeprecationWarning."""

import subprocess
import sys
from importlib import import_module

import pytest

from pacs._moved import MOVED

PACKAGES = {
    "pacs.dimse.server": "Settings",
    "pacs.dimse.association": "Association",
    "pacs.dimse.messages": "Message",
    "pacs.client.series": "load_series",
}


def test_every_old_name_imports_the_new_module():
    """The same module, so that its classes are the same."""
    for old, new in MOVED.items():
        sys.modules.pop(old, None)
        with pytest.warns(DeprecationWarning, match=f"{old} has moved to {new.split()[0]}"):
            module = import_module(old)
        if " " not in new:
            assert module is import_module(new), old


def test_the_old_module_of_events_has_the_log_as_well():
    """It is two modules today."""
    sys.modules.pop("pacs.telemetry", None)
    with pytest.warns(DeprecationWarning, match=r"events and pacs.observability.logging"):
        from pacs.telemetry import EventStream, setup_logging
    assert (EventStream.__module__, setup_logging.__module__) == (
        "pacs.observability.events",
        "pacs.observability.logging",
    )


@pytest.mark.parametrize(("package", "name"), PACKAGES.items())
def test_a_module_that_is_a_package_today_has_its_old_names(package, name):
    """But no others."""
    with pytest.warns(DeprecationWarning, match=f"{package}.{name} has moved"):
        assert getattr(import_module(package), name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        import_module(package).nothing  # noqa: B018


def test_the_warning_names_the_line_that_imports():
    """Python shows it for code that is run directly."""
    ran = subprocess.run(
        [sys.executable, "-c", "import pacs.notify"], capture_output=True, text=True, check=True, timeout=30
    )
    assert ran.stderr.startswith("<string>:1: DeprecationWarning: pacs.notify has moved to pacs.observability.systemd")
