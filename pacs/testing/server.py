"""The real archive as a test server."""

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmwrite

from pacs.archive import Archive
from pacs.config import from_settings, load_scenario
from pacs.dicom.part10 import read_file_meta
from pacs.errors import InstanceConflict, MissingUID, PacsError
from pacs.faults.interposer import Interposer
from pacs.faults.model import Scenario
from pacs.faults.selection import ArmedFaults
from pacs.observability.events import AssociationEnded, Event, EventStream
from pacs.support.sockets import host_and_port
from pacs.testing.builders import EXPLICIT_LITTLE
from pacs.testing.message_log import MessageLog
from pacs.testing.received import Received, counted

Addable = Dataset | str | Path | Iterable[Any]
"""A data set, a file, a folder, or several of these."""


class PacsServer(Archive):
    """A running archive with everything that `Archive` has: `events`, `config`, `storage`, `drain` and more.

    `scenario` is a Scenario, a scenario file or the name of a preset. See `pacs.testing.serving`.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        scenario: Scenario | str | Path | None = None,
        watched: bool = False,
    ) -> None:
        loaded = load_scenario(scenario) if isinstance(scenario, str | Path) else scenario
        self._given_settings = {
            "server.port": 0,
            "server.workers": 1,
            "database.url": f"sqlite:///{folder}/pacs.db",
            "files.url": str(folder / "files"),
            "limits.drain_seconds": 1,
            "web.enabled": False,
            **(loaded.settings if loaded is not None else {}),
            **settings,
        }
        self._message_log = MessageLog()
        self._received = Received(self._message_log)
        self._test_interposer = Interposer(loaded, self._message_log) if watched or loaded is not None else None
        super().__init__(from_settings(self._given_settings), EventStream(), self._test_interposer)
        self.events.subscribe(self._on_event)

    def __repr__(self) -> str:
        counts = f": {counted(self._received)}" if self._test_interposer is not None else ""
        return f"<PacsServer {self.address}{counts}>"

    # --- address --------------------------------------------------------------------------------------------------

    @property
    def host(self) -> str:
        """The address that it listens on."""
        return self.config.server.host

    @property
    def ae_title(self) -> str:
        """Its AE title."""
        return self.config.server.ae_title

    @property
    def address(self) -> str:
        """Its full address: PACS@127.0.0.1:11112, or PACS@[::1]:11112."""
        return f"{self.ae_title}@{host_and_port(self.host, self.port)}"

    # --- contents -------------------------------------------------------------------------------------------------

    def add(self, *what: Addable) -> None:
        """Store data sets, Part 10 files, all files in folders, and lists of these, as a C-STORE would.

        Raises PacsError with the reason, and with the path of a file, for what cannot be stored, such as an instance
        that is stored already with other content; TypeError for other arguments. The traceback ends here.
        """
        __tracebackhide__ = True
        for each in _flat(what):
            try:
                self._add(each)
            except PacsError as error:
                place = f"{each}: " if isinstance(each, Path) else ""
                hint = _SAME if isinstance(error, InstanceConflict) else ""
                raise type(error)(f"{place}{error.comment}{hint}", error.tags) from None

    def _add(self, what: Dataset | Path) -> None:
        if isinstance(what, Path):
            self.storage.import_file(what)
        else:
            self._store(what)

    def _store(self, dataset: Dataset) -> None:
        lacking = [each for each in ("SOPClassUID", "SOPInstanceUID") if not dataset.get(each)]
        if lacking:
            raise MissingUID(f"The data set has no {' and no '.join(lacking)}; pacs.testing.study makes complete ones")
        file, syntax, offset = io.BytesIO(), EXPLICIT_LITTLE, 0
        if "TransferSyntaxUID" in getattr(dataset, "file_meta", ()):
            dcmwrite(file, dataset, enforce_file_format=True)
            file.seek(0)
            head = read_file_meta(file)
            syntax, offset = head.transfer_syntax, head.data_offset
        else:
            dcmwrite(file, dataset, implicit_vr=False, little_endian=True)
        with self.storage.receive(dataset.SOPClassUID, dataset.SOPInstanceUID, syntax, "TEST") as reception:
            reception.write(file.getvalue()[offset:])
            reception.finish()

    # --- peers ----------------------------------------------------------------------------------------------------

    def add_peer(self, ae_title: str, host: str, port: int, **more: Any) -> None:
        """Add a peer, for example a move destination; `more` are other keys of [[peers]].

        Raises ConfigurationError.
        """
        peer = {"ae_title": ae_title, "host": host, "port": port, **more}
        self._given_settings["peers"] = [*self._given_settings.get("peers", ()), peer]
        self.reload(from_settings(self._given_settings))

    # --- observation and faults -----------------------------------------------------------------------------------

    @property
    def received(self) -> Received:
        """What the server received. Raises RuntimeError for a server that is not watched."""
        self._require_watched()
        return self._received

    @property
    def faults(self) -> ArmedFaults:
        """The faults of the server: `add(Fault(...))` returns a fault with `.fired` and `.remove()`; `clear()` removes
        all.

        Raises RuntimeError for a server that is not watched.
        """
        return self._require_watched().faults

    def _require_watched(self) -> Interposer:
        if self._test_interposer is None:
            raise RuntimeError("this server is not watched: use the fixture pacs_server, or serving(watched=True)")
        return self._test_interposer

    def _on_event(self, event: Event) -> None:
        if isinstance(event, AssociationEnded):
            self._message_log.ended(event.association, event.how, event.duration)


_SAME = "; data sets that `study` makes for one patient and modality need another `number`"
"""What to do about two different instances of the same UID."""


def _flat(what: Iterable[Any]) -> Iterator[Dataset | Path]:
    """Yield the data sets and the paths of files. Raises TypeError."""
    for each in what:
        if isinstance(each, Dataset):
            yield each
        elif isinstance(each, str | Path):
            yield from _files(Path(each))
        elif isinstance(each, Iterable):
            yield from _flat(each)
        else:
            raise TypeError(f"expected a data set, a path, or a list of these, not {each!r}")


def _files(path: Path) -> list[Path]:
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
