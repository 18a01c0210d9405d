"""Which store an address opens."""

import pytest

from llmproxy_asgi.config.loader import load_config
from llmproxy_asgi.errors import ConfigError
from llmproxy_asgi.stores.base import Bounds
from llmproxy_asgi.stores.memory import MemoryStore
from llmproxy_asgi.stores.open import open_store
from support.clock import FakeClock
from support.stores import ALICE


@pytest.mark.anyio
async def test_memory() -> None:
    """It has the bounds and the clock that it was opened with, and no two share a record."""
    clock = FakeClock()
    one = open_store("memory", kind="responses", bounds=Bounds(owner_records=1), clock=clock)
    other = open_store("memory", kind="reasoning", clock=clock)
    assert isinstance(one, MemoryStore)
    await one.put(ALICE, "a", b"1", ttl=10)
    await one.put(ALICE, "b", b"1", ttl=10)
    assert await one.keys(ALICE) == ("b",)
    assert await other.keys(ALICE) == ()
    clock.at += 11
    assert await one.keys(ALICE) == ()


@pytest.mark.parametrize("url", ["sqlite:///x.db", "", "memory://", "ftp://user:secret@host/"])
def test_an_unknown_scheme_is_refused(url: str) -> None:
    """With those that there are, and without the address, which may hold a password; by a configuration as well."""
    with pytest.raises(ConfigError) as refused:
        open_store(url, kind="responses")
    assert "memory" in str(refused.value)
    assert "secret" not in str(refused.value)
    with pytest.raises(ConfigError) as refused:
        load_config({"database": url})
    assert "memory" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_memory_takes_no_more() -> None:
    """Refuse a path behind `memory`, which suggests a file."""
    with pytest.raises(ConfigError):
        open_store("memory:///some/where", kind="responses")
