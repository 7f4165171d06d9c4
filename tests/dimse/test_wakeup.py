"""Waking a thread that waits, from another thread or from a signal handler."""

import os
import select
import signal
import threading

from pacs.dimse.upper.waiting import WaitContext, wait
from pacs.support.cancellation import Cancellation
from pacs.support.wakeup import WakeUp


def is_readable(wake_up: WakeUp) -> bool:
    """Return whether a wait for the wake-up would end at once."""
    return bool(select.select([wake_up], [], [], 0)[0])


def test_a_wake_up_stays_until_it_is_cleared():
    """Also after many calls, and for a wait that begins later."""
    with WakeUp() as wake_up:
        assert not is_readable(wake_up)
        for _ in range(100_000):
            wake_up.wake()
        assert is_readable(wake_up)
        while is_readable(wake_up):
            wake_up.clear()
        wake_up.clear()  # there is nothing to clear
        wake_up.wake()
        assert is_readable(wake_up)
    wake_up.wake()  # closed: does nothing


def test_a_wake_up_ends_a_wait_once():
    """`wait` returns 0 for something else than its own descriptor, and clears the wake-up."""
    with WakeUp() as wake_up, WakeUp() as other:
        wait_context = WaitContext(Cancellation(), wake_up=wake_up)
        timer = threading.Timer(0.05, wake_up.wake)
        timer.start()
        assert wait(other.fileno(), select.POLLIN, None, wait_context) == 0
        timer.join()
        assert not is_readable(wake_up)


def test_a_signal_wakes():
    """By `signal.set_wakeup_fd`."""
    with WakeUp() as wake_up:
        handler = signal.signal(signal.SIGUSR1, lambda *_: None)
        before = signal.set_wakeup_fd(wake_up.write_fileno)
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert is_readable(wake_up)
        finally:
            signal.set_wakeup_fd(before)
            signal.signal(signal.SIGUSR1, handler)
