"""Arrays whose elements come one by one."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.wire.json_stream import ArrayDecoder, ArrayEncoder, ElementTooLarge, NotAnArray

NASTY = ["]", "}", '"', "\\", '\\"', "[{", ",", "東京", "", 'a"b\\']
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(NASTY) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NASTY), inner, max_size=3),
    max_leaves=6,
)


def elements(decoder: ArrayDecoder, *pieces: bytes) -> list[Any]:
    return [json.loads(element) for piece in pieces for element in decoder.feed(piece)]


@given(st.lists(VALUES, max_size=4), st.sampled_from([None, 1]))
def test_every_element_comes_whole_however_the_bytes_are_cut(values: list[Any], indent: int | None) -> None:
    """Whole, byte by byte and cut in two at any place, an array gives the same elements, and ends."""
    data = json.dumps(values, ensure_ascii=False, indent=indent).encode()
    for cut in range(len(data) + 1):
        decoder = ArrayDecoder()
        assert elements(decoder, data[:cut], data[cut:]) == values
        decoder.close()
    single = ArrayDecoder()
    assert elements(single, *(data[at : at + 1] for at in range(len(data)))) == values
    assert single.ended


@given(st.lists(VALUES, max_size=4))
def test_what_is_encoded_is_decoded(values: list[Any]) -> None:
    """Elements written one by one are one legal array, also with blank lines between all pieces."""
    encoder = ArrayEncoder()
    pieces = [encoder.element(json.dumps(value).encode()) for value in values]
    whole = b"\n" + b"\n".join([*pieces, encoder.close()])
    assert json.loads(whole) == values
    assert elements(ArrayDecoder(), whole) == values


def test_an_object_is_given_before_its_comma_comes() -> None:
    """An element that is closed does not wait for what follows it."""
    decoder = ArrayDecoder()
    assert decoder.feed(b'[{"a": "]"}') == [b'{"a": "]"}']
    assert decoder.feed(b', {"b"') == []
    assert decoder.feed(b": 1}") == [b'{"b": 1}']
    assert not decoder.ended


def test_what_follows_the_end_is_not_looked_at() -> None:
    """Nothing behind the closing bracket counts."""
    decoder = ArrayDecoder()
    assert decoder.feed(b"[1] [2]") == [b"1"]
    assert decoder.feed(b"[3]") == []
    decoder.close()


@pytest.mark.parametrize("data", [b"{}", b"x[1]", b"[1}", b'"a"'])
def test_what_is_no_array_is_said_so(data: bytes) -> None:
    """Anything but an array is refused."""
    with pytest.raises(NotAnArray):
        ArrayDecoder().feed(data)


@pytest.mark.parametrize("data", [b"", b"[", b'[{"a": 1}', b"  "])
def test_an_array_that_is_cut_off_is_said_so(data: bytes) -> None:
    """The end of the bytes before the end of the array is an error."""
    decoder = ArrayDecoder()
    decoder.feed(data)
    with pytest.raises(NotAnArray):
        decoder.close()


@pytest.mark.parametrize("data", [b'["' + b"x" * 40, b'["' + b"x" * 40 + b'"]', b"[" + b"1" * 40 + b",2]"])
def test_an_element_has_a_limit(data: bytes) -> None:
    """One element longer than allowed, finished or not, is refused."""
    with pytest.raises(ElementTooLarge):
        ArrayDecoder(max_element=20).feed(data)


def test_many_small_elements_are_no_large_one() -> None:
    """The limit is for one element, not for a read."""
    assert len(ArrayDecoder(max_element=20).feed(b"[" + b'{"a":1},' * 100 + b"{}]")) == 101


@given(st.lists(st.binary(max_size=12), max_size=5))
def test_no_bytes_break_it(pieces: list[bytes]) -> None:
    """Rubbish is refused in its own words or taken; nothing else is raised."""
    decoder = ArrayDecoder(max_element=30)
    try:
        for piece in [b"[", *pieces]:
            decoder.feed(piece)
        decoder.close()
    except (NotAnArray, ElementTooLarge):
        pass
