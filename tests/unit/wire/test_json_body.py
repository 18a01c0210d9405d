"""What a body's outer shell is opened for, and what it is refused for before any object is made."""

import json
import re
from collections import Counter
from typing import cast

import msgspec
import pytest

from llmproxy_asgi.wire.json_body import (
    Bounds,
    MalformedBody,
    OverBounds,
    contains,
    count_separators,
    count_values,
    elements,
    open_object,
)

LOW = Bounds(values=1_000, json_depth=8)


def members(count: int, value: bytes = b"1") -> bytes:
    return b"{" + b",".join(b'"k%d":%b' % (number, value) for number in range(count)) + b"}"


def test_values_stay_as_they_came() -> None:
    """Spelling and order of what is inside are kept; the last of a repeated key counts."""
    opened = open_object(b'{"b": 1.50, "a": {"x" : [1e3]}, "b": 2.0}').raw
    assert [(key, bytes(value)) for key, value in opened.items()] == [("b", b"2.0"), ("a", b'{"x" : [1e3]}')]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (b"{}", 1),
        (b'{"a":1}', 1),
        (b'{"a":1,"b":[1,2,3]}', 5),
        (b'{"a":[{"x":1},{"x":2}]}', 5),
        (b'{"a":"1,2,[{,","b":"\\",\\",[","c":"\\\\"}', 3),
    ],
)
def test_elements_and_members_are_counted(text: bytes, values: int) -> None:
    """Each element of an array and each member of an object is one; what stands in a string is none."""
    padded = b'{"a":' * 9 + text + b"}" * 9
    # So many brackets make it look closely; an estimate would be no lower.
    assert count_values(padded, Bounds(values=10**6, json_depth=13)) >= values + 9
    assert count_values(padded, Bounds(values=values + 9, json_depth=13)) == values + 9
    with pytest.raises(OverBounds, match=r"limits\.values"):
        count_values(padded, Bounds(values=values + 8, json_depth=64))


@pytest.mark.parametrize("value", [b"1", b'"a:,b"', b'"a\\",\\"b"', b'"\\\\"', b'"\\\\\\","'])
@pytest.mark.parametrize("nested", [False, True])
def test_one_value_too_many_is_refused(value: bytes, *, nested: bool) -> None:
    """The bound itself is allowed, whatever the values are and wherever they stand."""

    def body(count: int) -> bytes:
        return b'{"metadata":' + members(count - 1, value) + b"}" if nested else members(count, value)

    open_object(body(LOW.values), LOW)
    with pytest.raises(
        OverBounds, match=r"at most 1000 are allowed \(limits\.values\), and (at least )?1001 were sent"
    ):
        open_object(body(LOW.values + 1), LOW)


def test_text_neither_counts_nor_hides_values() -> None:
    """Signs in a text are no values, and quotes in it end nothing."""
    text = 'words: and, more; "quoted, too" [1, 2] \\ {x} \\" ' * 10_000
    body = json.dumps({"text": text, "list": list(range(990))}).encode()
    assert msgspec.json.decode(open_object(body, LOW).raw["text"]) == text
    with pytest.raises(OverBounds):
        open_object(json.dumps({"text": text, "list": list(range(1_000))}).encode(), LOW)


@pytest.mark.parametrize("text", [b"\\\\" * 600_000, b'\\"' * 600_000, b"x" + b"\\\\" * 600_000, b'x\\\\\\"' * 400_000])
def test_escapes_are_read_right_where_a_long_text_is_taken_in_pieces(text: bytes) -> None:
    """A piece never ends within an escape."""
    body = b'{"text":"' + text + b'","list":[' + b",".join([b"1"] * 1_001) + b"]}"
    with pytest.raises(OverBounds, match="1003 were sent"):
        open_object(body, LOW)


def test_a_long_body_is_counted_no_further_than_to_its_first_value_too_many() -> None:
    """The refusal says that there are more; where the first piece is all, it names their number."""
    body = b'{"a":[' + b",".join([b'""'] * 10_000) + b"]}"
    with pytest.raises(OverBounds, match="and 10001 were sent"):
        open_object(body, LOW)
    with pytest.raises(OverBounds, match=r"at least 34952\d were sent"):
        open_object(b'{"a":[' + b",".join([b'""'] * 1_000_000) + b"]}", LOW)


@pytest.mark.parametrize("shift", range(8))
def test_strings_brackets_and_depth_go_on_over_the_border_of_two_pieces(shift: int) -> None:
    """Wherever a piece ends: in a string, in an escape, between two brackets."""
    item = rb'{"a,[":[["x\\",",[\"{"]],"b":{}},'
    items = 3 * 2**20 // len(item)
    body = b" " * shift + b'{"a":[' + item * items + b"1]}"
    count = 7 * items + 2
    assert count_values(body, Bounds(values=count, json_depth=5)) == count
    with pytest.raises(OverBounds):
        count_values(body, Bounds(values=count - 1, json_depth=5))
    with pytest.raises(OverBounds, match="nested too deep"):
        count_values(body, Bounds(values=count, json_depth=4))
    assert sum(count_separators(body), Counter()) == {2: items, 3: items, 5: items}


def test_depth_is_counted_outside_of_strings() -> None:
    """The outermost counts; brackets and escaped quotes within strings do not."""
    for body, depth in (
        (b"[]", 1),
        (b'{"a":[{}]}', 3),
        (b'["\\"[[[", "\\\\", [1]]', 2),
        (b'{"a":"' + b"[" * 99 + b'"}', 1),
        (b"[[1],[2],[[3]]]", 3),
    ):
        deep = b"[" * 70 + body + b"]" * 70
        count_values(deep, Bounds(json_depth=depth + 70))
        with pytest.raises(OverBounds, match=r"limits\.json_depth"):
            count_values(deep, Bounds(json_depth=depth + 69))


@pytest.mark.parametrize("place", [10, 2**20 - 1, 2**20, 2**20 + 1])
def test_what_is_no_utf8_is_refused_wherever_it_stands(place: int) -> None:
    """Characters that two pieces share are read whole."""
    text = "é中😀".encode() * 200_000
    body = b'{"a":"' + text + b'"}'
    open_object(body)
    with pytest.raises(MalformedBody, match="UTF-8"):
        open_object(body[:place] + b"\xff" + body[place + 1 :])
    with pytest.raises(MalformedBody, match="UTF-8"):
        open_object(body[:-2] + b"\xf0\x9f")


def test_elements_of_a_list_stay_bytes() -> None:
    """They are cut apart and not read."""
    assert [bytes(each) for each in elements(msgspec.Raw(b'[1.50, {"a" : 1}]'))] == [b"1.50", b'{"a" : 1}']


@pytest.mark.parametrize("shift", range(-6, 2))
def test_a_long_text_is_searched_over_the_border_of_two_pieces(shift: int) -> None:
    """A match is found wherever the text is cut, and a text without one is searched to its end."""
    name = re.compile(rb'"file"')
    before = b"x" * (2**20 + shift)
    text = before + b'"file"' + before
    assert contains(text, name, len('"file"'))
    assert contains(msgspec.Raw(text), name, len('"file"'))
    assert not contains(text.replace(b'"file"', b'"fila"'), name, len('"file"'))


def test_a_long_text_is_searched_in_short_steps() -> None:
    """No step searches more than a mebibyte and one match, so a thread releases the interpreter lock in between."""
    steps: list[int] = []

    class Spy:
        def search(self, data: bytes, start: int, end: int) -> None:
            steps.append(min(end, len(data)) - start)

    assert not contains(b"x" * (5 * 2**20 + 7), cast("re.Pattern[bytes]", Spy()), 10)
    assert len(steps) == 6
    assert max(steps) == 2**20 + 10
