"""The protocol itself: every method names an owner."""

import dataclasses
import inspect
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.principal import Owner, Principal
from llmproxy_asgi.stores.base import RecordStore
from llmproxy_asgi.stores.memory import MemoryStore


def methods(cls: type) -> list[str]:
    return [name for name, _ in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize("cls", [RecordStore, MemoryStore])
def test_every_method_names_the_owner_first(cls: type) -> None:
    """An `Owner` without a default comes before anything else; only closing needs none."""
    named = set(methods(cls)) - {"aclose"}
    assert named == {"get", "get_many", "put", "delete", "touch", "keys", "erase"}
    for name in named:
        method = getattr(cls, name)
        first = list(inspect.signature(method).parameters.values())[1]
        assert first.name == "owner"
        assert first.default is inspect.Parameter.empty
        assert get_type_hints(method)["owner"] is Owner


def test_an_owner_is_kind_tenant_and_id() -> None:
    """Nothing else about a principal decides what is its own, and nothing of the principal decides the kind."""
    one = Principal("u1", tenant="acme", display_name="One", groups=("a",))
    assert Owner.of(one) == Owner.of(Principal("u1", tenant="acme")) == Owner("user", "acme", "u1")
    assert Owner.of(one) != Owner.of(Principal("u1"))
    assert len({Owner.of(one), Owner("user", "acme", "u1"), Owner("user", "", "u1"), Owner("key", "", "u1")}) == 3
    assert {field.name for field in dataclasses.fields(Principal)}.isdisjoint({"kind"})


TRICKY = st.text(st.sampled_from("a:/%\0é "), max_size=4)
OWNERS = st.builds(Owner, st.sampled_from(["user", "key", "open", "local"]), TRICKY, TRICKY)


@given(OWNERS, OWNERS)
def test_no_owners_storage_keys_begin_like_anothers(one: Owner, other: Owner) -> None:
    """A text that begins every storage key of one owner begins none of another, whatever stands in ids and tenants."""
    assert (one == other) is one.storage_prefix.startswith(other.storage_prefix)
