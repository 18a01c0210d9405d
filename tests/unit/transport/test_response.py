"""The reading side of an answer, whatever delivers its bytes."""

import pytest

from llmproxy_asgi.errors import UpstreamProtocolError
from llmproxy_asgi.transport import CHUNK
from support.answers import FakeAnswer

pytestmark = pytest.mark.anyio


async def test_small_pieces_pass_untouched() -> None:
    """A piece of no more than the promised size is handed on as the very object it came as."""
    pieces = [b"one", b"x" * CHUNK]
    answer = FakeAnswer(*pieces)
    assert [await answer.chunk() for _ in range(2)] == pieces
    assert await answer.chunk() == b""


@pytest.mark.parametrize("size", [CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1, 100 * CHUNK])
async def test_large_pieces_are_cut(size: int) -> None:
    """A larger piece is cut, and what follows comes after it."""
    answer = FakeAnswer(b"x" * size, b"end")
    pieces = [piece async for piece in answer]
    assert b"".join(pieces) == b"x" * size + b"end"
    assert max(map(len, pieces)) == CHUNK
    assert pieces[-1] == b"end"


async def test_reading_within_the_limit() -> None:
    """The whole body is read; at one byte over the limit reading stops and the answer is closed."""
    assert await FakeAnswer(b"ab", b"cd").read(4) == b"abcd"
    assert await FakeAnswer().read(0) == b""
    answer = FakeAnswer(b"ab", b"cd", b"never read")
    with pytest.raises(UpstreamProtocolError):
        await answer.read(3)
    assert answer.closed
    assert answer.pieces == [b"never read"]


async def test_undecodable_closes() -> None:
    """An answer that cannot be decoded is closed at once."""
    answer = FakeAnswer(b"no gzip", encoding="gzip")
    with pytest.raises(UpstreamProtocolError):
        await answer.chunk()
    assert answer.closed


async def test_headers_are_read_once() -> None:
    """Names are lower-cased, repeated ones joined, and values that could harm the gateway's headers left out."""
    answer = FakeAnswer(headers=[(b"A", b"1"), (b"a", b"2"), (b"B", b"\xff"), (b"c", b"x\x0by"), (b"d", b"x\ty")])
    assert dict(answer.headers) == {"a": "1, 2", "b": "ÿ", "d": "x\ty"}
    assert answer.headers is answer.headers
    assert (answer.header("b"), answer.header("c")) == ("ÿ", None)


async def test_as_a_context_it_closes_itself() -> None:
    """Leaving the block closes the answer."""
    async with FakeAnswer(b"x") as answer:
        assert not answer.closed
    assert answer.closed
