"""The protocol itself: nobody can ask it for anything without saying for whom."""

import inspect
from typing import get_type_hints

import pytest

from llmproxy_asgi.principal import Principal
from llmproxy_asgi.stores.base import Owner, RecordStore
from llmproxy_asgi.stores.memory import MemoryStore


def methods(cls: type) -> list[str]:
    return [name for name, _ in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize("cls", [RecordStore, MemoryStore])
def test_every_method_names_the_owner_first(cls: type) -> None:
    """An `Owner` without a default comes before anything else; only closing needs none."""
    named = set(methods(cls)) - {"aclose"}
    assert named == {"get", "get_many", "put", "delete", "touch", "keys"}
    for name in named:
        method = getattr(cls, name)
        first = list(inspect.signature(method).parameters.values())[1]
        assert first.name == "owner"
        assert first.default is inspect.Parameter.empty
        assert get_type_hints(method)["owner"] is Owner


def test_an_owner_is_tenant_and_id() -> None:
    """Nothing else about a principal decides what is its own."""
    one = Principal("u1", tenant="acme", display_name="One", groups=("a",))
    assert Owner.of(one) == Owner.of(Principal("u1", tenant="acme")) == Owner("acme", "u1")
    assert Owner.of(one) != Owner.of(Principal("u1"))
    assert len({Owner.of(one), Owner("acme", "u1"), Owner("", "u1")}) == 2
