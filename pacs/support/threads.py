"""Threads that are started, or not at all: the system may allow no more of them."""

import threading
from collections.abc import Callable

from pacs.errors import OutOfResources


def start_thread(name: str, run: Callable[..., object], *arguments: object) -> threading.Thread:
    """Start a daemon thread and return it. Raises OutOfResources when the system allows no more threads."""
    thread = threading.Thread(target=run, args=arguments, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise OutOfResources("The server cannot start another thread") from error
    return thread
