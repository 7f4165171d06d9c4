"""Signals that arrive faster than they are handled."""

import os
import signal
import threading

import pytest

from pacs.daemon import SignalWaiter


@pytest.fixture
def waiter():
    """Waits for SIGTERM, SIGINT and SIGHUP sent to this process."""
    with SignalWaiter((signal.SIGTERM, signal.SIGINT, signal.SIGHUP)) as found:
        yield found


def test_no_signal_is_lost_behind_thousands_of_others(waiter):
    """The socket that ends the waiting is full long before: the counts of the handlers decide."""
    for _ in range(5000):
        os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    assert [waiter.wait() for _ in range(3)] == [signal.SIGTERM, signal.SIGTERM, signal.SIGHUP]
    assert waiter.take() is None


def test_a_signal_to_any_thread_ends_the_wait(waiter):
    """The main thread waits; another one sends the signal, to itself."""
    sender = threading.Timer(0.05, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGHUP))
    sender.start()
    assert waiter.wait() == signal.SIGHUP
    sender.join()


def test_a_wake_ends_one_wait(waiter):
    """It is returned after the signals, as 0."""
    waiter.wake()
    os.kill(os.getpid(), signal.SIGINT)
    assert [waiter.wait(), waiter.wait()] == [signal.SIGINT, 0]
    assert waiter.take() is None
