"""The JSON and TOML readers: the values are the standard library's, the lines are right."""

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.config.document import Unreadable
from llmproxy_asgi.config.json_text import read_json
from llmproxy_asgi.config.toml_text import read_toml

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(TEXT, VALUES, max_size=5), st.sampled_from([None, 2, "\t"]))
def test_json_means_what_the_standard_library_says(values: dict[str, object], indent: int | str | None) -> None:
    """Any JSON object is read as `json` reads it, however it is laid out."""
    text = json.dumps(values, indent=indent)
    assert read_json(text).values == json.loads(text)


@given(st.text(st.sampled_from('ab:,[]{}"\\0123.-e \n\ttruefalsn'), max_size=40))
def test_any_text_is_json_or_refused(text: str) -> None:
    """The reader agrees with `json` on what is a JSON object, and refuses all else in its own way."""
    try:
        document = read_json(text)
    except Unreadable:
        return
    assert document.values == json.loads(text)


def test_json_lines() -> None:
    """Each key and list item of a JSON text knows its line."""
    document = read_json('{\n "a": {\n  "b": [1,\n   {"c": null}]\n }\n}\n')
    assert document.lines == {
        ("a",): 2,
        ("a", "b"): 3,
        ("a", "b", 0): 3,
        ("a", "b", 1): 4,
        ("a", "b", 1, "c"): 4,
    }


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("", 1, "must be an object"),
        ("[]", 1, "must be an object"),
        ('{"a": 1,\n "a": 2}', 2, "repeats the key a, which is on line 1 already"),
        ('{"a": 1,\n}', 2, "a key in double quotes"),
        ('{"a" 1}', 1, "`:` after the key"),
        ('{"a": 1\n "b": 2}', 2, "`,` or `}`"),
        ('{"a": [1\n 2]}', 2, "`,` or `]`"),
        ('{"a": yes}', 1, "no JSON value"),
        ('{"a": 01}', 1, "no JSON value"),
        ('{"a":', 1, "ends too early"),
        ('{"a": "x', 1, "not closed"),
        ('{"a": "\\ud800"}', 1, "half a character"),
        ("{}\n{}", 2, "after the end of the object"),
        ('{"a": ' + "[" * 100_000, 1, "deeper than 64"),
        ('{"a": [' + "1," * 100_001 + "1]}", 1, "more than 100000 values"),
        ("# a comment\n{}", 1, "must be an object"),
    ],
)
def test_json_that_is_refused(text: str, line: int, problem: str) -> None:
    """What is not one JSON object of reasonable size is refused with its line."""
    with pytest.raises(Unreadable) as refused:
        read_json(text)
    assert problem in refused.value.problem
    assert refused.value.line == line


TOML = """\
default_provider = "openai"

[providers.openai]
api_key = "x" # a comment with = in it
models = [
  "gpt-5",
]
timeout.idle = "5s"

[access]
mode = "keys"
[[access.keys]]
name = "a"
[[access.keys]]
name = "b"
note = '''
name = "not this one"
'''

["models"."my model"]
targets = []
since = 2026-11-21
"""


def test_toml_lines() -> None:
    """Tables, arrays of tables, dotted and quoted keys know their lines; text over several lines holds no keys."""
    document = read_toml(TOML)
    expected = tomllib.loads(TOML)
    expected["models"]["my model"]["since"] = "2026-11-21"
    assert document.values == expected
    lines = document.lines
    assert lines["default_provider",] == 1
    assert lines["providers", "openai"] == 3
    assert lines["providers", "openai", "api_key"] == 4
    assert lines["providers", "openai", "timeout", "idle"] == 8
    assert lines["access", "keys", 0, "name"] == 13
    assert lines["access", "keys", 1] == 14
    assert lines["access", "keys", 1, "name"] == 15
    assert lines["models", "my model"] == 20


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a = 1\na = 2", 2, "Cannot overwrite a value"),
        ("a = \n", 1, "Invalid value"),
        ("a = 'x", 1, "is not valid TOML"),
        ("[b]\nx = 1\na = " + "9" * 5000, 3, "holds a whole number of more than 64 bits"),
        ("[b]\nx = 1\na = [1, 9223372036854775808]", 3, "holds a whole number of more than 64 bits"),
        ("[b]\nx = 1\na = 0x" + "f" * 9000, 3, "holds a whole number of more than 64 bits"),
        ("a = " + "[" * 100 + "]" * 100, None, "deeper than 64"),
        ("a = " + "[" * 100_000, None, "deeper than 64"),
    ],
)
def test_toml_that_is_refused(text: str, line: int | None, problem: str) -> None:
    """What is not TOML is refused with its line, and deep nesting without one."""
    with pytest.raises(Unreadable) as refused:
        read_toml(text)
    assert problem in refused.value.problem
    assert refused.value.line == line
