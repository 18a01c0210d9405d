"""Lone surrogates in JSON escapes: found wherever the text is cut, in steps and without much memory."""

import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.wire import surrogates
from llmproxy_asgi.wire.surrogates import mark_halves, replace_halves

FRAGMENTS = [
    rb"\ud83d",
    rb"\uDE00",
    rb"\\",
    rb"\"",
    b'"',
    b"x",
    rb"\n",
    rb"\u00e9",
    b"ud83d",
    rb"\ud8",
    rb"\u",
    "é".encode(),
]
ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u([dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL)


def expected(data: bytes, *, mark: bool) -> bytes | None:
    """Look at each escape in turn."""
    found = False

    def replace(escape: re.Match[bytes]) -> bytes:
        nonlocal found
        if escape[1] is None:
            return escape[0]
        found = True
        half = int(escape[1], 16)
        begin, end = escape.span()
        border = data[begin - 1 : begin] == b'"' if half >= 0xDC00 else data[end : end + 1] == b'"'
        return (chr(0x10F000 - 0xD800 + half) if mark and border else "\ufffd").encode()

    replaced = ESCAPE.sub(replace, data)
    return replaced if found else None


@given(fragments=st.lists(st.sampled_from(FRAGMENTS), max_size=12), piece=st.integers(7, 20))
def test_halves_are_found_wherever_a_text_is_cut(fragments: list[bytes], piece: int) -> None:
    """Pairs and other escapes stay; a half at the border of a string is marked for its neighbour."""
    data = b"x" + b"".join(fragments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surrogates, "_PIECE", piece)
        assert mark_halves(data) == expected(data, mark=True)
        assert replace_halves(data) == expected(data, mark=False)


def test_text_with_a_null_character_stays_invalid() -> None:
    """It is no JSON, and does not become any."""
    assert replace_halves(b'"\\ud83d \x00\x00n"') is None


@pytest.mark.parametrize("replaced", [replace_halves, mark_halves])
def test_many_halves_take_little_memory(replaced: object) -> None:
    """A text of a million halves needs a few times its own size, not an object for each of them."""
    assert callable(replaced)
    data = b'"' + rb"\ud83d " * 300_000 + b'"'
    tracemalloc.start()
    try:
        assert replaced(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * len(data)
