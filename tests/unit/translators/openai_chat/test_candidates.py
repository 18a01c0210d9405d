"""The state of a stream's calls: when arguments that arrive in pieces are complete, found in linear time."""

import json
from time import process_time

from hypothesis import example, given
from hypothesis import strategies as st

from llmproxy_asgi.conversation import Finished
from llmproxy_asgi.translators.openai_chat.candidates import ObjectScanner
from llmproxy_asgi.translators.openai_chat.stream_decoder import ChatStreamDecoder
from support.wires.openai_chat import DONE, delta, upstream, upstream_request

FRAGMENTS = [
    "{",
    "}",
    "[",
    "]",
    '"',
    "\\",
    '\\"',
    "\\\\",
    '"a":',
    "1",
    ",",
    " ",
    "\n",
    "\u00a0",
    '{"a":"}"}',
    '{"a\\\\":[{}]}',
]


def is_object(text: str) -> bool:
    try:
        return type(json.loads(text)) is dict
    except ValueError:
        return False


@given(pieces=st.lists(st.lists(st.sampled_from(FRAGMENTS), max_size=4).map("".join), max_size=8))
@example(pieces=["", " ", '{"a"', ':"\\', '"}', '"}', " ", "\n", "{}"])
@example(pieces=["{}", " ", "x"])
@example(pieces=["[]", "{}"])
def test_pieces_are_an_object_when_their_text_is(pieces: list[str]) -> None:
    """After each piece, and also if it is asked only at the end."""
    scanner, last = ObjectScanner(), ObjectScanner()
    for count in range(len(pieces) + 1):
        assert scanner.is_whole(pieces[:count]) == is_object("".join(pieces[:count]))
    assert last.is_whole(pieces) == is_object("".join(pieces))


def test_a_call_that_is_named_in_each_piece_takes_linear_work() -> None:
    """Eight times the pieces take eight times the time, with some tolerance, and not sixty-four times."""

    def seconds(count: int) -> float:
        call = {"index": 0, "id": "call_1", "function": {"name": "f", "arguments": "x" * 64}}
        first = {**call, "function": {"name": "f", "arguments": '{"a":"'}}
        body = b"".join(
            (
                delta({"tool_calls": [first]}),
                *[delta({"tool_calls": [call]})] * count,
                delta({"tool_calls": [{**call, "function": {"name": "f", "arguments": '"}'}}]}, finish="tool_calls"),
                DONE,
            )
        )
        decoder = ChatStreamDecoder(upstream_request(), upstream())
        begin = process_time()
        found = [*decoder.feed(body).events, *decoder.close().events]
        took = process_time() - begin
        assert any(isinstance(event, Finished) for event in found)
        return took

    few = min(seconds(1_000) for _ in range(3))
    assert seconds(8_000) < 24 * few
