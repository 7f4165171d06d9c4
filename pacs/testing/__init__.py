"""A pytest plugin for testing DICOM programs; the tests of this project use it too.

- `pacs_server` is a fixture: the real archive, in this process, on a free port of 127.0.0.1, with its own folder. It
  records what it receives (`.received`) and can misbehave (`.faults`).
- `storage_scp` is a fixture: a move destination of `pacs_server`.
- `serving` and `storing` are the same as context managers, for any program.
- `study` and `studies` make data sets: valid, and identical for identical arguments.

Heavy modules are imported on first use.
"""

from typing import TYPE_CHECKING, Any

from pacs.faults.model import Fault, Scenario
from pacs.testing.builders import EXPLICIT_BIG, EXPLICIT_LITTLE, MODALITIES, studies, study, uid, write
from pacs.testing.running import serving, storing

if TYPE_CHECKING:
    from pacs.testing.received import Received
    from pacs.testing.server import PacsServer
    from pacs.testing.store_scp import StorageSCP

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
    "StorageSCP": "store_scp",
    "pacs_server": "plugin",
    "storage_scp": "plugin",
}
"""Names that are imported on first use, and their modules. The fixtures need pytest, so `__all__` omits them."""

pytest_plugins = ("pacs.testing.plugin",)
"""The plugin, for a pytest that loads this package by the entry point of an earlier version."""


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
