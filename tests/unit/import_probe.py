"""Import one module and its public names in this fresh interpreter; print as JSON what that did.

Used as `python import_probe.py MODULE`. `environment` lists the variables that the package's own
code touched: what its dependencies read is theirs to answer for.
"""

import importlib
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from typing_extensions import override

# Code through which an attribute look-up passes on its way from the importing module.
_BETWEEN = {__file__, os.__file__, "<frozen os>", "<frozen _collections_abc>"}

_touched: list[tuple[str, str]] = []


def _record(name: str) -> None:
    frame = sys._getframe(1)
    while frame.f_code.co_filename in _BETWEEN and frame.f_back is not None:
        frame = frame.f_back
    _touched.append((frame.f_code.co_filename, name))


class _WatchedEnvironment(os._Environ[str]):
    """`os.environ` that remembers who asked it for what."""

    @override
    def __getitem__(self, name: str) -> str:
        _record(name)
        return super().__getitem__(name)

    @override
    def __setitem__(self, name: str, value: str) -> None:
        _record(name)
        super().__setitem__(name, value)

    @override
    def __delitem__(self, name: str) -> None:
        _record(name)
        super().__delitem__(name)


def _handlers() -> dict[int, object]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def main() -> None:
    """Import what the first argument names and report on standard output."""
    variables, handlers = dict(os.environ), _handlers()
    os.environ.__class__ = _WatchedEnvironment

    module = importlib.import_module(sys.argv[1])
    for name in getattr(module, "__all__", ()):
        getattr(module, name)  # what is loaded on first use counts as well

    touched = list(_touched)
    os.environ.__class__ = os._Environ
    origin = Path(module.__file__ or "").resolve()
    folder = origin.parent if origin.name == "__init__.py" else origin
    report = {
        "modules": sorted(sys.modules),
        "environment": sorted(name for file, name in touched if Path(file).resolve().is_relative_to(folder)),
        "environment_changed": dict(os.environ) != variables,
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "signal_handlers_changed": _handlers() != handlers,
        "log_handlers": [repr(handler) for handler in logging.getLogger().handlers],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
