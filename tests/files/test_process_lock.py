"""Folders that are locked while their process lives."""

import fcntl
import os
import threading

from pacs.files import process_lock
from pacs.files.process_lock import LockedFolder, is_locked, try_lock


def test_a_folder_of_a_living_process_cannot_be_locked(tmp_path):
    """It can once its process has ended."""
    folder = LockedFolder.create(tmp_path / "running")
    assert is_locked(folder.path)
    assert try_lock(folder.path) is None
    folder.release(remove=False)
    assert not is_locked(folder.path)


def test_a_process_that_only_looks_does_not_hide_that_the_owner_died(tmp_path, monkeypatch):
    """Its shared lock is released after the first try: the second one succeeds."""
    monkeypatch.setattr(process_lock, "PAUSE", 0.2)
    looking = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    timer = threading.Timer(0.1, os.close, (looking,))
    timer.start()
    locked = try_lock(tmp_path)
    timer.join()
    assert locked is not None
    locked.release(remove=False)


def test_a_folder_that_is_gone_cannot_be_locked(tmp_path):
    """It is not locked either."""
    assert try_lock(tmp_path / "gone") is None
    assert not is_locked(tmp_path / "gone")
