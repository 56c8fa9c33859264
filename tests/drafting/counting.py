"""Counts what code does, as lines executed: the same on every machine."""

import inspect
import sys
from collections.abc import Callable


def lines_of(cls: type, run: Callable[[], object]) -> int:
    """Lines of the module of `cls` that a call executes.  A line may hold a loop in C: what such
    loops do is bounded by other assertions."""
    file = inspect.getsourcefile(cls)
    count = 0

    def local(frame, event, argument):
        nonlocal count
        count += event == "line"
        return local

    def trace(frame, event, argument):
        return local if frame.f_code.co_filename == file else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return count
