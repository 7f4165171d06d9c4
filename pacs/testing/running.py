"""Context managers that run servers, for fixtures and for programs without pytest."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pacs.faults.model import Scenario
    from pacs.testing.server import PacsServer
    from pacs.testing.store_scp import StorageSCP

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
    """Run an archive during the `with` block, with its data in `folder` or in a temporary folder.

    It listens on a free port of 127.0.0.1, `.port`, and has no web server unless `settings` enable it. `settings` are
    values by dotted key as in config.toml: `{"storage.duplicates": "replace", "peers": [...]}`. They override those of
    the `scenario`, which is a Scenario, a scenario file or the name of a preset.

    With `watched` or a scenario, the server has `.received` and `.faults`; otherwise it runs exactly as `pacs serve`
    does. Raises ConfigurationError as `pacs serve` does.
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
    """Run a storage SCP during the `with` block that keeps the received instances in memory: a move destination.

    It listens on a free port of 127.0.0.1 unless `port` is given.
    """
    from pacs.testing.store_scp import StorageSCP

    with StorageSCP(ae_title, port, scenario) as scp:
        yield scp
