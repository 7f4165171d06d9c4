"""The buffer pool of the file store."""

import resource
import subprocess
import sys

import pytest

from pacs.errors import StorageUnavailable
from pacs.files.buffer_pool import SMALL, ObjectBuffer

FORKED = """
import os
from pacs.files.buffer_pool import POOL

POOL.give_back(POOL.take())
told, tell = os.pipe()
pid = os.fork()
mine = POOL.take()
if pid == 0:
    os.read(told, 1)
    mine.append(b"theirs")
    os._exit(0)
mine.append(b"ours..")
os.write(tell, b".")
os.waitpid(pid, 0)
print(bytes(mine.content).decode())
"""


def test_pooled_memory_is_not_shared_after_a_fork():
    """A supervisor that replayed a journal has pooled buffers, and each of its workers uses a copy of them."""
    ran = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=30, check=True)
    assert ran.stdout == "ours..\n"


def test_missing_memory_is_an_error_of_the_store():
    """A buffer that cannot grow raises StorageUnavailable, not OSError, and keeps what it has."""
    buffer, more = ObjectBuffer(), bytes(SMALL)
    buffer.append(b"x")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1, hard))
    try:
        with pytest.raises(StorageUnavailable):
            buffer.append(more)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert buffer.content == b"x"
