"""Addresses and header lines: nothing gets out of its place."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.errors import MisuseError
from llmproxy_asgi.transport.request_head import HeaderLines, address, complete_headers, encode_headers, encode_method


@pytest.mark.parametrize(
    "text",
    ["", "upstream", "/v1", "ftp://upstream/", "http://", "https:///v1", "http://user@upstream/", "http://u:p@upstream/",
     "https://upstream/#there", "http://upstream:port/", "http://up\nstream/", "http://[::1/", "http://upstream:99999/",
     "http://up..stream/", f"http://{'u' * 64}.example/"],
)  # fmt: skip
def test_addresses_that_are_refused(text: str) -> None:
    """An address is absolute, http or https, and carries neither credentials nor a fragment; the message is silent."""
    with pytest.raises(MisuseError) as refused:
        address(text)
    assert "upstream/" not in refused.value.message


@pytest.mark.parametrize("text", ["http://upstream", "https://upstream:8443/v1/a%2Fb?x=1", "http://[::1]:80/"])
def test_addresses_that_are_read(text: str) -> None:
    """What is a URL is read once and kept whole."""
    assert address(text).raw_path == address(str(address(text))).raw_path


def test_lines_as_they_go_out() -> None:
    """Headers keep their order and spelling."""
    assert encode_headers([(b"X-One", b"1"), (b"x-two", b"a\tb"), (b"e", b"")]) == b"X-One: 1\r\nx-two: a\tb\r\ne: \r\n"


LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [^\x00-\x08\x0a-\x1f\x7f]*")


@given(st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=8)), max_size=4))
def test_whatever_is_given_stays_in_its_line(headers: list[tuple[bytes, bytes]]) -> None:
    """Any names and values give exactly one clean line each, or are refused together."""
    fine = all(LINE.fullmatch(b"%b: %b" % header) and b":" not in header[0] for header in headers)
    if fine:
        assert encode_headers(headers).split(b"\r\n") == [*(b"%b: %b" % header for header in headers), b""]
    else:
        with pytest.raises(MisuseError):
            encode_headers(headers)


def test_two_lines_in_one_value() -> None:
    """A value that is a well-formed second header is refused all the same."""
    with pytest.raises(MisuseError):
        encode_headers([(b"x", b"1\r\nauthorization: mine")])


ONE = ((b"authorization", b"Bearer one"), (b"x-a", b"1"))
TWO = ((b"authorization", b"Bearer two"),)
OWN = ((b"Host", b"other"), (b"x-a", b"1"))


def test_kept_lines_are_those_of_the_same_headers_alone() -> None:
    """Whatever was sent before, a request has its own headers, its own length, and nothing of another's."""
    lines = HeaderLines(b"upstream")
    for headers, body in [(ONE, b"{}"), (ONE, b"[1]"), (TWO, b"{}"), (OWN, b"{}"), (ONE, b"{}"), ((), b"{}")]:
        written = lines.write(headers, "POST", body)
        expected = encode_headers(complete_headers(headers, b"upstream", "POST", body))
        assert written.endswith(b"\r\n\r\n")
        assert sorted(written.split(b"\r\n")) == sorted([*expected.split(b"\r\n"), b""])
    assert b"content-length" not in lines.write(ONE, "GET", b"")


def test_headers_changed_in_place_are_not_taken_for_those_kept() -> None:
    """A list that its owner changes between two requests is read anew, and refused where it must be."""
    lines = HeaderLines(b"upstream")
    headers = [(b"x-a", b"1")]
    lines.write(headers, "POST", b"{}")
    headers[0] = (b"x-a", b"2")
    assert b"x-a: 2\r\n" in lines.write(headers, "POST", b"{}")
    headers.append((b"x", b"1\r\ny: 2"))
    with pytest.raises(MisuseError):
        lines.write(headers, "POST", b"{}")


def test_host_and_coding_may_be_given() -> None:
    """Our host and coding are defaults."""
    given_headers = [(b"Host", b"other"), (b"Accept-Encoding", b"gzip")]
    assert complete_headers(given_headers, b"upstream", "GET", b"") == given_headers


def test_an_empty_post_says_so() -> None:
    """A POST always tells its length, a GET only if there is one."""
    assert (b"content-length", b"0") in complete_headers([], b"upstream", "POST", b"")
    assert (b"content-length", b"2") in complete_headers([], b"upstream", "GET", b"{}")


@pytest.mark.parametrize("method", ["get", "CONNECT", "TRACE", "POST ", "", "X\r\n"])
def test_methods_that_are_refused(method: str) -> None:
    """Only the usual methods are sent, in capitals."""
    with pytest.raises(MisuseError):
        encode_method(method)
