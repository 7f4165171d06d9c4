"""Every point of a program at which something can happen: before each line of some modules.

A test runs its program once for each point and has the same thing happen exactly there, so that a race is found by
counting and not by luck.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any


class Points:
    """Counts the lines of `modules` that the current thread is about to run, and calls `act` before one of them.

    `act` is called before line number `at`, counted from 1, or as soon after it as `may_act` allows.
    """

    def __init__(
        self, modules: tuple[ModuleType, ...], at: int, act: Callable[[], None], may_act: Callable[[], bool]
    ) -> None:
        self._files = {str(each.__file__) for each in modules}
        self._at, self._act, self._may_act = at, act, may_act
        self.count = 0
        self.where = ""
        """The line before which `act` was called, '' before the call."""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> "Points | None":
        """Trace a frame: see `sys.settrace`."""
        if frame.f_code.co_filename not in self._files:
            return None
        if event in ("line", "return"):
            self.count += 1
            if self.count >= self._at and not self.where and self._may_act():
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno} ({event})"
                self._act()
        return self

    @contextmanager
    def traced(self) -> Iterator["Points"]:
        """Trace the current thread in the block."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            yield self
        finally:
            sys.settrace(before)

    @contextmanager
    def tracing_new(self, thread: str) -> Iterator["Points"]:
        """Trace the threads of this name that are started in the block."""

        def trace(frame: FrameType, event: str, argument: Any) -> "Points | None":
            return self(frame, event, argument) if threading.current_thread().name.startswith(thread) else None

        threading.settrace(trace)
        try:
            yield self
        finally:
            threading.settrace(None)  # type: ignore[arg-type]
