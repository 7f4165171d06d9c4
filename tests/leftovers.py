"""What a library leaves to the garbage collector, collected where it is known whose it is."""

import gc
import warnings


def collect_quietly() -> None:
    """Have the garbage collector close the sockets that pynetdicom left open."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
