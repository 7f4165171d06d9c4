"""Loaded by each Python that runs by a turned clock: replaces `time.sleep`.

`time.sleep` waits with clock_nanosleep until a time of CLOCK_MONOTONIC. libfaketime 0.9.10 turns that time like one of
the wall clock, so that after a jump the call raises OSError or returns at once.
"""

import select
import time

time.sleep = lambda seconds: select.select((), (), (), seconds)[3:]  # type: ignore[assignment]
