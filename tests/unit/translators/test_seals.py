import json
import zlib
from base64 import b64decode, b64encode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.conversation import Seal
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.seals import MAX_SIZE, keep, unwrap, usable, wrap
from support.conversations import seals, texts

SEAL = Seal(issuer="openai", kind="encrypted", data="Z0FBQUFB", model="m", item_id="rs_1")


def upstream(issuer: str, model: str = "m") -> Upstream:
    return Upstream(provider="p", model=model, client_model="a", issuer=issuer)


def wrapped(content: bytes) -> str:
    return b64encode(b"llmproxy1" + zlib.compress(content)).decode()


@given(seals(), texts())
def test_what_is_wrapped_unwraps(seal: Seal, data: str) -> None:
    """Any seal comes back whole, whatever its data, and wraps to the same text again."""
    for one in (seal, Seal(issuer=seal.issuer, kind=seal.kind, data=data)):
        assert unwrap(wrap(one)) == one
        assert wrap(one) == wrap(one)


@given(seals())
def test_wrapped_seals_are_standard_base64(seal: Seal) -> None:
    """The text is legal where bytes are asked for, and starts with our sign."""
    assert b64decode(wrap(seal), validate=True).startswith(b"llmproxy1")


@given(seals())
def test_other_spellings_of_the_same_bytes_unwrap(seal: Seal) -> None:
    """Callers who keep bytes may write them in the URL-safe alphabet and without padding."""
    urlsafe = urlsafe_b64encode(b64decode(wrap(seal))).decode()
    assert unwrap(urlsafe) == seal
    assert unwrap(urlsafe.rstrip("=")) == seal


@given(st.text() | st.text().map(lambda text: "bGxtcHJveHkx" + text))
def test_rubbish_is_nobodys_seal(text: str) -> None:
    """No text makes unwrapping raise, with our sign before it or not."""
    assert unwrap(text) is None


@given(seals(), st.data())
def test_damaged_seals_are_nobodys(seal: Seal, data: st.DataObject) -> None:
    """A wrapped seal that was cut short is none."""
    text = wrap(seal)
    assert unwrap(text[: data.draw(st.integers(0, len(text) - 5))]) is None


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b'{"issuer":"a","kind":"signature"}', id="no data"),
        pytest.param(b'{"issuer":"a","kind":"other","data":"x"}', id="unknown kind"),
        pytest.param(b'{"issuer":1,"kind":"signature","data":"x"}', id="wrong type"),
        pytest.param(b'{"issuer":"a","kind":"signature","data":"\xff"}', id="not UTF-8"),
        pytest.param(b'{"x":' + b"[" * 100_000, id="too deep"),
    ],
)
def test_wrapped_rubbish_is_nobodys_seal(content: bytes) -> None:
    """What is wrapped as ours but is no seal is refused."""
    assert unwrap(wrapped(content)) is None


def test_a_bomb_does_not_go_off() -> None:
    """A small text that would inflate beyond the limit is refused; one within it is read."""
    head, tail = b'{"issuer":"a","kind":"signature","data":"', b'"}'
    room = MAX_SIZE - len(head) - len(tail)
    assert unwrap(wrapped(head + b"x" * room + tail)) is not None
    assert unwrap(wrapped(head + b"x" * (room + 1) + tail)) is None


def test_bytes_after_the_end_are_refused() -> None:
    """One seal, one text: nothing may hang behind it."""
    content = json.dumps({"issuer": "a", "kind": "signature", "data": "x"}).encode()
    assert unwrap(b64encode(b"llmproxy1" + zlib.compress(content) + b"more").decode()) is None


def test_only_the_issuer_gets_its_seal() -> None:
    """The issuer decides; a signature is bound to its model as well."""
    signature = Seal(issuer="anthropic", kind="signature", data="x", model="m")
    assert usable(signature, upstream("anthropic"))
    assert not usable(signature, upstream("openai"))
    assert not usable(signature, upstream("anthropic", "other"))
    assert usable(Seal(issuer="anthropic", kind="signature", data="x"), upstream("anthropic", "other"))
    assert usable(SEAL, upstream("openai", "other"))


@given(st.lists(seals(), max_size=5))
def test_kept_and_dropped_add_up(offered: list[Seal]) -> None:
    """Every seal is kept or counted, and those kept keep their order."""
    kept, dropped = keep(iter(offered), upstream("anthropic"))
    assert list(kept) == [
        seal for seal in offered if seal.issuer == "anthropic" and usable(seal, upstream("anthropic"))
    ]
    assert len(kept) + dropped == len(offered)
