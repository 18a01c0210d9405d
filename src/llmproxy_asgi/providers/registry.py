"""The registry of provider types. A module is imported only when the configuration names its type."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from importlib.metadata import EntryPoints, entry_points

from llmproxy_asgi.errors import MisuseError
from llmproxy_asgi.providers.base import REGISTERED, Provider

BUILT_IN: dict[str, str] = {
    "openai": "llmproxy_asgi.providers.openai",
    "openai-compatible": "llmproxy_asgi.providers.openai_compatible",
    "anthropic": "llmproxy_asgi.providers.anthropic",
    "gemini": "llmproxy_asgi.providers.gemini",
    "simulated": "llmproxy_asgi.providers.simulated",
}
"""The module that registers each type."""

ENTRY_POINTS = "llmproxy_asgi.providers"

_read: ContextVar[list[EntryPoints] | None] = ContextVar("entry_points_read", default=None)


class BrokenProvider(MisuseError):
    """A provider type of an installed package can't be loaded."""


@contextmanager
def entry_points_read_once() -> Iterator[None]:
    """Read the entry points once for all look-ups within, because reading them inspects every installed package."""
    before = _read.set([])
    try:
        yield
    finally:
        _read.reset(before)


def _entry_points() -> EntryPoints:
    read = _read.get()
    if read:
        return read[0]
    found = entry_points(group=ENTRY_POINTS)
    if read is not None:
        read.append(found)
    return found


def provider_class(name: str) -> type[Provider]:
    """Return the class of a type: registered already, built in, or an entry point of that name.

    Raises:
        MisuseError: The type is unknown; the message lists the known ones.
        BrokenProvider: Importing the type failed.
    """
    if name not in REGISTERED:
        _import(name)
    found = REGISTERED.get(name)
    if found is None:
        raise MisuseError(f"unknown provider type {name!r}; known: {', '.join(known_types())}")
    return found


def known_types() -> list[str]:
    """Return every type name that can be configured, sorted, without importing one."""
    external = {point.name for point in _entry_points()}
    return sorted({*BUILT_IN, *REGISTERED, *external})


def _import(name: str) -> None:
    if name in BUILT_IN:
        import_module(BUILT_IN[name])
        return
    for point in _entry_points().select(name=name):
        try:
            point.load()
        except (Exception, SystemExit) as error:
            raise BrokenProvider(f"cannot be loaded from {point.value}: {one_line(error)}") from error
        if name not in REGISTERED:
            raise BrokenProvider(f"is not registered by {point.value}: put @provider({name!r}) on its class")


def one_line(error: BaseException) -> str:
    """Return an exception of foreign code as one short line."""
    words = " ".join(str(error).split())
    kept = words if len(words) <= 200 else f"{words[:200]}..."
    return f"{type(error).__name__}: {kept}" if kept.isprintable() and kept else type(error).__name__
