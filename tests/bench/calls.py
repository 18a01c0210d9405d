"""Counts the calls that a piece of work makes: a cost that is the same on every machine, however busy it is."""

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Self


class Calls:
    """Counts calls, of functions written in Python or in C, and of JSON readers and writers among them."""

    def __init__(self) -> None:
        self.all = 0
        self.json = 0

    def __call__(self, _frame: FrameType, event: str, called: Any) -> None:
        if event in {"call", "c_call"}:
            self.all += 1
        if event == "c_call" and (called.__module__ or type(called.__self__).__module__).startswith("msgspec"):
            self.json += 1

    def during(self, work: Callable[[], object]) -> Self:
        """Count what `work` calls.

        Garbage is collected before and not meanwhile: finalizers and the hooks in `gc.callbacks` are calls too, and
        which objects other tests have left behind is no cost of the code under test.
        """
        before = sys.getprofile()
        collected = gc.isenabled()
        gc.collect()
        gc.disable()
        sys.setprofile(self)
        try:
            work()
        finally:
            sys.setprofile(before)
            if collected:
                gc.enable()
        return self
