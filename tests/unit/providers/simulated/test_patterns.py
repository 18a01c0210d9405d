"""Texts made for regular expressions fit them, as Python's own engine judges it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.providers.simulated.patterns import MAX_LENGTH, text_for


@pytest.mark.parametrize(
    "pattern",
    [
        r"",
        r"abc",
        r"^[A-Z]{3}-\d{4}$",
        r"^\+?[1-9]\d{1,14}$",
        r"[^abc]",
        r"[^a-z\s]",
        r"[]x]",
        r"[a-]",
        r"[\w.-]+@[\w-]+\.[a-z]{2,}",
        r"(red|green|blue){2}",
        r"(?:a|b)c?d*e+",
        r"(?P<year>\d{4})-(?P<month>\d{2})",
        r"\D\W\S\s\w\d",
        r"a{0}b{2,}c{1,3}",
        r"x{2,3}?y+?",
        r"\x41\u0042",
        r"a\.b\[c\]\\",
        r"(?:(?:a|b)|c)+",
        r"\bword\b",
        r"a{b}",
        r"[^\x00-\x1f]+",
    ],
)
def test_a_text_fits_its_pattern(pattern: str) -> None:
    """The text that is made matches as a whole."""
    made = text_for(pattern)
    assert made is not None
    assert re.fullmatch(pattern, made)


@pytest.mark.parametrize("pattern", ["^[a-z]+$", r"\d{2,}", ".*", "x*y"])
def test_a_text_can_be_made_longer(pattern: str) -> None:
    """An open repetition goes on until the text is long enough."""
    made = text_for(pattern, minimum=20)
    assert made is not None
    assert len(made) >= 20
    assert re.fullmatch(pattern, made)


@pytest.mark.parametrize(
    "pattern",
    [
        *("(", ")", "[a", "*", r"(a)\1", "(?i)a", "a{99999}", "((a{999}){999}){9}", "\\"),
        *(r"[^\s\S\t]", r"\ud800", r"[\ud800-\udfff]", pytest.param("a?" * 1_000_000, id="long")),
    ],
)
def test_what_is_beyond_gives_nothing(pattern: str) -> None:
    """An expression that cannot be read, is or would be too long, or that no text fits gives none."""
    assert text_for(pattern) is None


@given(st.text(alphabet="ab01[](){}|?*+.^$\\-,dws", max_size=30), st.integers(0, 50))
def test_any_text_is_survived(pattern: str, minimum: int) -> None:
    """Whatever stands there, the answer is a text of bounded size or none."""
    made = text_for(pattern, minimum=minimum)
    assert made is None or len(made) <= MAX_LENGTH + minimum
