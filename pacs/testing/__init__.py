"""A pytest plugin for whoever tests a program that speaks DICOM; this project is tested with it too.

- `pacs_server` is a fixture: the real archive, in this process, on a free port of 127.0.0.1, with a folder of its own,
  which sees what comes (`.received`) and misbehaves when it is told to (`.faults`).
- `storage_scp` is a fixture: where a C-MOVE of `pacs_server` can send to.
- `serving` and `storing` are the same as context managers, for any program.
- `study` and `studies` make data sets: valid, and the same for the same arguments.

Nothing heavy is imported before it is used.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pacs.dimse.faults.model import Fault, Scenario
from pacs.testing.builders import EXPLICIT_BIG, EXPLICIT_LITTLE, MODALITIES, studies, study, uid, write
from pacs.testing.running import serving, storing

if find_spec("pytest") is not None:  # a program that only serves needs none
    from pacs.testing.plugin import pacs_server, pytest_addoption, pytest_configure, storage_scp

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
    "pacs_server",
    "pytest_addoption",
    "pytest_configure",
    "serving",
    "storage_scp",
    "storing",
    "studies",
    "study",
    "uid",
    "write",
]

_HEAVY = {"PacsServer": "server", "Received": "received", "StorageSCP": "storage"}
"""What is imported when it is asked for, for annotations, and from where."""


def __getattr__(name: str) -> Any:
    if name not in _HEAVY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HEAVY[name]}"), name)
