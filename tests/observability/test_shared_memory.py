"""Memory shared by processes: slots that other processes read without a lock."""

import os
import threading

import pytest

from pacs.support.shared_memory import Slots, shared_bytes


def in_child(function):
    """Run a function in a forked process and wait for its end."""
    pid = os.fork()
    if pid == 0:
        function()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def test_what_a_forked_process_writes_is_read_here():
    """Numbers and slots; an empty slot reads as b''."""
    numbers, slots = shared_bytes(16).cast("Q"), Slots(3, 8)

    def write():
        numbers[1] = 7
        slots.write(2, b"12345678")

    in_child(write)
    assert numbers.tolist() == [0, 7]
    assert [slots.read(slot) for slot in range(3)] == [b"", b"", b"12345678"]
    slots.clear(2)
    assert slots.read(2) == b""


def test_content_beyond_the_capacity_is_an_error():
    """The slot keeps what it has, and so does the next one."""
    slots = Slots(2, 8)
    slots.write(0, b"old")
    slots.write(1, b"next")
    with pytest.raises(ValueError, match="9 bytes"):
        slots.write(0, b"123456789")
    assert [slots.read(0), slots.read(1)] == [b"old", b"next"]


def test_a_reader_sees_whole_contents_or_none():
    """While another thread writes the same slot."""
    slots, done = Slots(1, 5000), threading.Event()

    def write():
        while not done.is_set():
            for letter in (b"a", b"b"):
                slots.write(0, letter * 5000)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = {slots.read(0) for _ in range(2000)}
    finally:
        done.set()
        writer.join()
    assert found <= {b"", b"a" * 5000, b"b" * 5000}
