"""Garbage collection of the sockets that pynetdicom leaves open."""

import gc
import warnings


def collect_quietly() -> None:
    """Run the garbage collector, without warnings about open sockets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
