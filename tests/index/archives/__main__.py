"""Write the archive of the newest revision."""

import tempfile

from pacs.index import commitments, schema
from tests.databases import opened
from tests.index.archives import DATASETS, write
from tests.index.instances import fill

with tempfile.TemporaryDirectory() as folder, opened(f"sqlite:///{folder}/pacs.db") as index:
    schema.upgrade(index)
    fill(index, *DATASETS)
    commitments.add(index, "MODALITY", "1.2.9", b"asked", seconds=0.0, check_limits=lambda _open: None)
    with index.read() as connection:
        write(connection, schema.head())
