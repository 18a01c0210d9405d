"""Where each provider type lives. A module is imported when the configuration names its type, and not before."""

from importlib import import_module
from importlib.metadata import entry_points

from llmproxy_asgi.errors import MisuseError
from llmproxy_asgi.providers.base import REGISTERED, Provider

BUILT_IN: dict[str, str] = {
    "openai": "llmproxy_asgi.providers.openai",
    "openai-compatible": "llmproxy_asgi.providers.openai_compatible",
    "anthropic": "llmproxy_asgi.providers.anthropic",
    "gemini": "llmproxy_asgi.providers.gemini",
    "simulated": "llmproxy_asgi.providers.simulated",
}
"""Type name to the module that registers it."""

ENTRY_POINTS = "llmproxy_asgi.providers"


def provider_class(name: str) -> type[Provider]:
    """The class behind a type name: registered already, built in, or behind an entry point of that name.

    Raises:
        MisuseError: There is none; the message lists those there are.
    """
    if name not in REGISTERED:
        _import(name)
    found = REGISTERED.get(name)
    if found is None:
        raise MisuseError(f"unknown provider type {name!r}; known: {', '.join(known_types())}")
    return found


def known_types() -> list[str]:
    """Every type name that can be configured, sorted; nothing is imported to find out."""
    outside = {point.name for point in entry_points(group=ENTRY_POINTS)}
    return sorted({*BUILT_IN, *REGISTERED, *outside})


def _import(name: str) -> None:
    if name in BUILT_IN:
        import_module(BUILT_IN[name])
        return
    for point in entry_points(group=ENTRY_POINTS, name=name):
        point.load()
