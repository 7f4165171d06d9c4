"""Orthanc with an empty store, by its REST interface."""

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.programs import free_port, needs, running, wait_for_port


class Orthanc:
    """A running Orthanc, by its REST interface."""

    def __init__(self, http: int, dicom: int) -> None:
        self.http, self.port = http, dicom

    @property
    def row(self) -> dict[str, object]:
        """Its row for the table of peers."""
        return {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": self.port}

    def content(self, path: str, data: bytes | None = None) -> bytes:
        """Return the response of a GET, or of a POST with data."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}/{path}", data)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.read()

    def call(self, path: str, data: bytes | None = None):
        """Return the JSON of a response."""
        return json.loads(self.content(path, data))

    def post(self, path: str, **values: object):
        """Return the response of a POST of JSON."""
        return self.call(path, json.dumps(values).encode())

    def outcome(self, path: str):
        """Wait for the report of a transaction and return it."""
        deadline = time.monotonic() + 20
        while (found := self.call(path))["Status"] == "Pending":
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found


@contextmanager
def orthanc(folder: Path, theirs: int, port: int = 0, **more: object) -> Iterator[Orthanc]:
    """Orthanc with an empty store, which has this archive as modality `pacs` at a port; `more` are settings."""
    program = needs("Orthanc")
    made = Orthanc(free_port(), port or free_port())
    folder.mkdir()
    settings = {
        "Name": "requester",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": made.http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomPort": made.port,
        "DicomModalities": {"pacs": ["PACS", "127.0.0.1", theirs]},
        **more,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with running([program, folder / "orthanc.json"], folder / "log"):
        wait_for_port(made.http)
        wait_for_port(made.port)
        yield made
