"""The YAML reader: no surprises, nothing dangerous, every line known."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.config.document import MAX_VALUES, Unreadable
from llmproxy_asgi.config.yaml import MAX_ALIASES, read_yaml


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("true", True),
        ("FALSE", False),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("y", "y"),
        ("~", None),
        ("null", None),
        ("", None),
        ("8000", 8000),
        ("-1", -1),
        ("0", 0),
        ("0123", "0123"),
        ("0x1F", "0x1F"),
        ("0b1", "0b1"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("190:20:30", "190:20:30"),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("1.", 1.0),
        (".inf", ".inf"),
        ("2026-11-21", "2026-11-21"),
        ("2026-11-21T10:00:00Z", "2026-11-21T10:00:00Z"),
        ("=", "="),
        ("9" * 5000, "9" * 5000),
        ("'true'", "true"),
        ('"8000"', "8000"),
        ("gpt-5", "gpt-5"),
    ],
)
def test_scalar_means_what_people_mean(written: str, meant: object) -> None:
    """Only true and false are booleans; octal, sexagesimal and dates are text; quotes make text."""
    found = read_yaml(f"a: {written}\n").values["a"]
    assert found == meant
    assert type(found) is type(meant)


def test_keys_are_text_as_written() -> None:
    """A key is text, whatever it would mean as a value."""
    assert list(read_yaml("on: 1\n4.1: 1\ntrue: 1\n8000: 1\n2026-01-01: 1\n").values) == [
        "on", "4.1", "true", "8000", "2026-01-01",
    ]  # fmt: skip


def test_lines_are_remembered() -> None:
    """Each key and each list item knows its line, in block and in flow style."""
    lines = read_yaml("# a comment\na:\n  b: 1\n  c:\n    - x\n    - {d: 1,\n       e: 2}\n").lines
    assert lines == {
        ("a",): 2,
        ("a", "b"): 3,
        ("a", "c"): 4,
        ("a", "c", 0): 5,
        ("a", "c", 1): 6,
        ("a", "c", 1, "d"): 6,
        ("a", "c", 1, "e"): 7,
    }


def test_merge_keys_fill_in() -> None:
    """A mapping's own keys win over merged ones, the first merged mapping over the next, and each keeps its line."""
    document = read_yaml("x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz:\n  <<: [*x, *y]\n  a: 0\n")
    assert document.values["z"] == {"a": 0, "b": 1, "c": 2}
    assert [document.lines["z", key] for key in "abc"] == [5, 1, 2]


def test_alias_is_a_copy_in_its_place() -> None:
    """A value under an alias has a path and line of its own place's key."""
    document = read_yaml("a: &t {idle: 5s}\nb: *t\n")
    assert document.values == {"a": {"idle": "5s"}, "b": {"idle": "5s"}}
    assert document.lines["b",] == 2
    assert document.lines["b", "idle"] == 1


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "~", "--- {}\n"])
def test_empty_text_is_an_empty_mapping(text: str) -> None:
    """A document without a value holds nothing."""
    assert read_yaml(text).values == {}


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "repeats the key a, which is on line 1 already"),
        ("p:\n  a: 1\n  'a': 2\n", 3, "repeats the key a, which is on line 2 already"),
        ("a: {b: 1, b: 2}\n", 1, "repeats the key b, which is on line 1 already"),
        ("a: !!python/object:os.system x\n", 1, "has a tag"),
        ("a: !secret x\n", 1, "has a tag"),
        ("a: !!str 1\n", 1, "has a tag"),
        ("a: 1\nb: ! x\n", 2, "has a tag"),
        ("a: 1\n---\nb: 1\n", 2, "more than one document"),
        ("a: *sk-very-secret\n", 1, "anchor that is not there"),
        ("a: &x 1\nb: &x 2\n", 2, "same anchor"),
        ("a: &x {<<: *x}\n", 1, "deeper than 64"),
        ("a: &x [*x]\n", 1, "deeper than 64"),
        ("a: " + "[" * 100, 1, "deeper than 64"),
        ("a: " + "{b: " * 5000, 1, "deeper than 64"),
        ("[1]: a\n", 1, "a key that is not text"),
        ("~: a\n", 1, "a key that is empty"),
        ("a:\n  <<: 5\n", 2, "merge key"),
        ("a:\n  <<: {b: 1}\n  <<: {c: 1}\n", 3, "two merge keys"),
        ("- a\n", 1, "must hold keys and values"),
        ("just text\n", 1, "must hold keys and values"),
        ("a: 1\nb:\n\t- c\n", 3, "tab"),
        ("a: b: c\n", 1, "`:` where none can be"),
        ("a: 1\nb\nc: 2\n", 3, "without a `:`"),
        ("a: 'x\n", 2, "ends in the middle of a quoted text"),
        ("a: {b: 1\n", 2, "expected ',' or '}'"),
        ("a: @x\n", 1, "keeps for itself"),
        ("a: 1\nb: \x07\n", 2, "a character that YAML does not allow"),
        ('a: "\\ud800"\n', 1, "half a character"),
        ('"\\ud800": 1\n', 1, "half a character"),
    ],
)
def test_what_is_refused(text: str, line: int, problem: str) -> None:
    """Each mistake, and each thing that is dangerous or surprising, is refused with its line."""
    with pytest.raises(Unreadable) as refused:
        read_yaml(text)
    assert problem in refused.value.problem
    assert refused.value.line == line
    assert "secret" not in refused.value.problem


def test_aliases_are_few() -> None:
    """As many aliases as allowed are fine; one more is refused."""
    head = "a: &a 1\n"
    within = head + "".join(f"k{number}: *a\n" for number in range(MAX_ALIASES))
    assert len(read_yaml(within).values) == MAX_ALIASES + 1
    with pytest.raises(Unreadable, match="more than 50 aliases"):
        read_yaml(within + "one_more: *a\n")


@pytest.mark.parametrize("bomb", ["lists", "merges"])
def test_bombs_are_refused(bomb: str) -> None:
    """A short text that unfolds to very much is refused while it unfolds."""
    if bomb == "lists":
        text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 6)
        )
    else:
        text = "a0: &a0 {x: 1}\n" + "".join(
            f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 3)}]}}\n" for level in range(1, 17)
        )
    with pytest.raises(Unreadable, match="unfolds to more than"):
        read_yaml(text)


def test_very_many_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text with more values than any configuration has is refused while it is read."""
    monkeypatch.setattr("llmproxy_asgi.config.yaml.MAX_VALUES", 100)  # the real bound takes seconds to reach
    assert len(read_yaml("a: [" + "1," * 90 + "1]").lines) == 92
    with pytest.raises(Unreadable, match="holds more than 100 values"):
        read_yaml("a: [" + "1," * 200 + "1]")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdefg", min_size=1), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abcdefg", min_size=1), JSON, max_size=5))
def test_json_is_yaml(values: dict[str, object]) -> None:
    """A JSON text means the same when it is read as YAML."""
    assert read_yaml(json.dumps(values)).values == values


@given(st.text(st.sampled_from("ab:-[]{}&*!|>'\"#%@`,?~<.0 1\n\t\\$\ufeff\x00"), max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever a text holds, the reader gives a mapping or refuses; nothing else comes out."""
    try:
        document = read_yaml(text)
    except Unreadable:
        return
    assert isinstance(document.values, dict)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("{key: ${K}}", {"key": "${K}"}),
        ("{key: ${K}, models: [fast]}", {"key": "${K}", "models": ["fast"]}),
        ("[${A},${B_2}]", ["${A}", "${B_2}"]),
        ("{url: ${U:-https://host:8000/v1}}", {"url": "${U:-https://host:8000/v1}"}),
        ("{a: x-${A}-${B:-}}", {"a": "x-${A}-${B:-}"}),
        ("{a: '${A}', b: \"${A}\"}", {"a": "${A}", "b": "${A}"}),
        ("{a: $${A}}", {"a": "$${A}"}),
        ("{a: {b: ${A}}}  # ${C}", {"a": {"b": "${A}"}}),
        ("${A:-one, two {three}}", "${A:-one, two {three}}"),
        ("'\ue000 ${A} \ue001'", "\ue000 ${A} \ue001"),
    ],
)
def test_variables_are_text_in_every_style(written: str, meant: object) -> None:
    """`${NAME}` needs no quotes between brackets and braces, where YAML takes its own brace for a mapping."""
    assert read_yaml(f"x: {written}").values == {"x": meant}


def test_lines_stay_right_beside_variables() -> None:
    """Report a mistake behind a variable with its own line."""
    with pytest.raises(Unreadable) as refused:
        read_yaml("a: {b: ${A}}\nc: {d: ${B}, e: }}\n")
    assert refused.value.line == 2


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="needs libyaml")
@pytest.mark.parametrize("variable", ["1", "{a: ${NAME}}"])
def test_very_many_values_are_refused_before_python_reads_them(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """With the line; the braces of variables are no values."""

    def compose(_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("llmproxy_asgi.config.yaml._Loader.get_single_node", compose)
    nodes = 2 if variable == "1" else 4
    within = f"k: {variable}\n" * (2 * MAX_VALUES // nodes - 1)
    with pytest.raises(AssertionError):
        read_yaml(within)
    with pytest.raises(Unreadable, match=f"holds more than {MAX_VALUES} values") as caught:
        read_yaml(within + f"k: {variable}\n" * 2)
    assert caught.value.line == 2 * MAX_VALUES // nodes
