"""A pytest plugin for whoever tests a program that speaks DICOM; this project is tested with it too.

- `pacs_server` is a fixture: the real archive, in this process, on a free port of 127.0.0.1, with a folder of its own,
  which sees what comes (`.received`) and misbehaves when it is told to (`.faults`).
- `storage_scp` is a fixture: where a C-MOVE of `pacs_server` can send to.
- `serving` and `storing` are the same as context managers, for any program.
- `study` and `studies` make data sets: valid, and the same for the same arguments.

Nothing heavy is imported before it is used.
"""

from typing import TYPE_CHECKING, Any

from pacs.faults.model import Fault, Scenario
from pacs.testing.builders import EXPLICIT_BIG, EXPLICIT_LITTLE, MODALITIES, studies, study, uid, write
from pacs.testing.running import serving, storing

if TYPE_CHECKING:
    from pacs.testing.received import Received
    from pacs.testing.server import PacsServer
    from pacs.testing.storage import StorageSCP

__all__ = [
    "EXPLICIT_BIG",
    "EXPLICIT_LITTLE",
    "MODALITIES",
    "Fault",
    "PacsServer",
    "Received",
    "Scenario",
    "StorageSCP",
    "serving",
    "storing",
    "studies",
    "study",
    "uid",
    "write",
]

_LATE = {
    "PacsServer": "server",
    "Received": "received",
    "StorageSCP": "storage",
    "pacs_server": "plugin",
    "storage_scp": "plugin",
}
"""What is imported when it is asked for, and from where. The fixtures need pytest: `__all__` is without them."""

pytest_plugins = ("pacs.testing.plugin",)
"""The plugin, for a pytest that loads this package by an entry point from before the plugin had its own."""


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
