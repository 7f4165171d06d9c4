"""Servers for a `with` block: for fixtures, and for programs that have no pytest."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pacs.faults.model import Scenario
    from pacs.testing.server import PacsServer
    from pacs.testing.storage import StorageSCP

AE_TITLE = "PACS"
STORAGE_AE_TITLE = "STORAGE_SCP"


@contextmanager
def serving(
    folder: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    scenario: "Scenario | str | Path | None" = None,
    watched: bool = False,
) -> Iterator["PacsServer"]:
    """A running archive that keeps its data in `folder`, a temporary one where there is none; stopped at the end.

    It listens on a free port of 127.0.0.1, `.port`, and answers no HTTP unless told to. `settings` has values by dotted
    key, as in config.toml: `{"storage.duplicates": "replace", "peers": [...]}`; they count before those of the
    `scenario`, which is one, the file of one, or the name of a preset.

    A `watched` one, and any with a scenario, has `.received` and `.faults`; others are served exactly as `pacs serve`
    does, with nothing in between. Raises ConfigurationError as `pacs serve` would.
    """
    from pacs.testing.server import PacsServer

    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pacs-")))
        server = stack.enter_context(PacsServer(folder, settings or {}, scenario=scenario, watched=watched))
        server.start()
        yield server


@contextmanager
def storing(
    ae_title: str = STORAGE_AE_TITLE, *, port: int = 0, scenario: "Scenario | None" = None
) -> Iterator["StorageSCP"]:
    """A storage SCP that keeps what it is sent in memory: a move destination; stopped at the end of the `with` block.

    It listens on a free port of 127.0.0.1 unless one is given.
    """
    from pacs.testing.storage import StorageSCP

    with StorageSCP(ae_title, port, scenario) as scp:
        yield scp
