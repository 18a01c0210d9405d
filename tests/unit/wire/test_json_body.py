"""What a body's outer shell is opened for, and what it is refused for before it costs anything."""

import json

import msgspec
import pytest

from llmproxy_asgi.wire.json_body import MAX_MEMBERS, MalformedBody, depth_exceeds, open_object


def members(count: int, value: bytes = b"1") -> bytes:
    return b"{" + b",".join(b'"k%d":%b' % (number, value) for number in range(count)) + b"}"


def test_values_stay_as_they_came() -> None:
    """Spelling and order of what is inside are kept; the last of a repeated key counts."""
    opened = open_object(b'{"b": 1.50, "a": {"x" : [1e3]}, "b": 2.0}')
    assert [(key, bytes(value)) for key, value in opened.items()] == [("b", b"2.0"), ("a", b'{"x" : [1e3]}')]


@pytest.mark.parametrize("value", [b"1", b"[]", b"{}", b'"a:,b"', b'"a\\",\\"b"'])
@pytest.mark.parametrize("nested", [False, True])
def test_a_crowd_of_members_is_refused(value: bytes, *, nested: bool) -> None:
    """One object of too many plain members, wherever it stands; the limit itself is allowed."""

    def body(count: int) -> bytes:
        return b'{"metadata":' + members(count, value) + b"}" if nested else members(count, value)

    open_object(body(MAX_MEMBERS))
    with pytest.raises(MalformedBody, match=str(MAX_MEMBERS)):
        open_object(body(MAX_MEMBERS + 2))


def test_a_crowd_behind_much_text_is_refused() -> None:
    """It need not be where a first look falls."""
    body = b'{"text":"' + b"words: and, more; " * 100_000 + b'","x":' + members(MAX_MEMBERS + 2) + b"}"
    with pytest.raises(MalformedBody, match=str(MAX_MEMBERS)):
        open_object(body)


def test_long_conversations_and_long_lists_are_no_crowd() -> None:
    """Many messages, many numbers, and text that is full of colons and commas are what callers send."""
    body = {
        "messages": [{"role": "user", "content": 'a: b, c: "d", e'} for _ in range(20_000)],
        "numbers": list(range(50_000)),
        "text": '{"a":1,' * 30_000,
    }
    assert msgspec.json.decode(open_object(json.dumps(body).encode())["text"]) == body["text"]


def test_depth_is_counted_outside_of_strings() -> None:
    """The outermost counts; brackets and escaped quotes within strings do not."""
    for body, depth in (
        (b"[]", 1),
        (b'{"a":[{}]}', 3),
        (b'["\\"[[[", "\\\\", [1]]', 2),
        (b'{"a":"' + b"[" * 99 + b'"}', 1),
    ):
        assert not depth_exceeds(body, depth)
        assert depth_exceeds(b"[" * 70 + body + b"]" * 70, depth + 69)
        assert not depth_exceeds(b"[" * 70 + body + b"]" * 70, depth + 70)
