"""A file with mistakes by the thousand: the work for each is bounded, and so is what is written of them."""

import difflib
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from llmproxy_asgi import ConfigError
from llmproxy_asgi.config import document, findings
from llmproxy_asgi.config.document import MAX_HINTS, Unreadable, hint
from llmproxy_asgi.config.findings import MAX_EXPLAINED
from llmproxy_asgi.config.layers import Layers, Location
from llmproxy_asgi.config.loader import MAX_FINDINGS, check_config, load_config
from llmproxy_asgi.config.toml_text import read_toml
from llmproxy_asgi.providers import registry

MANY = 5000


class Counted:
    """Stands in for a function and counts its calls."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self._real = real
        self.calls = 0

    def __call__(self, *args: Any, **named: Any) -> Any:
        self.calls += 1
        return self._real(*args, **named)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted = Counted(difflib.get_close_matches)
    monkeypatch.setattr(difflib, "get_close_matches", counted)
    return counted


UNKNOWN_KEYS = {f"k{number}": 1 for number in range(MANY)}
TARGETS = {f"m{number}": {"targets": [f"opemai{number}/x"]} for number in range(MANY)}
UNKNOWN_TYPES = {f"p{number}": {"type": f"opemai{number}"} for number in range(MANY)}
KEYS = [{"name": f"n{number}", "key": f"llmp_0123456789ab{number}", "models": ["ecco"]} for number in range(MANY)]


@pytest.mark.parametrize(
    "values",
    [
        UNKNOWN_KEYS,
        {"providers": {"openai": UNKNOWN_KEYS}},
        {"providers": {"simulated": {}}, "models": TARGETS},
        {"providers": UNKNOWN_TYPES},
        {"providers": {"openai": {"api_key": "k", "models": [{"name": "m", "capabilities": UNKNOWN_KEYS}]}}},
    ],
    ids=["keys", "keys of a provider", "targets", "types", "capabilities"],
)
def test_few_guesses_are_made_and_few_findings_are_written(
    values: dict[str, Any], compared: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first mistakes are explained, the rest counted."""
    read = Counted(entry_points)
    monkeypatch.setattr(registry, "entry_points", read)
    looked_into = Counted(findings._unknown_key)
    monkeypatch.setattr(findings, "_unknown_key", looked_into)
    with pytest.raises(ConfigError) as caught:
        load_config(values, environment=None)
    assert compared.calls <= MAX_HINTS
    assert looked_into.calls <= MAX_EXPLAINED
    assert read.calls <= 1
    *told, rest = caught.value.findings
    assert len(told) == MAX_FINDINGS
    assert rest == f"and {MANY - MAX_FINDINGS} more"


def test_what_a_check_finds_is_bounded_too(tmp_path: Path, compared: Counted) -> None:
    """What is legal and can serve nothing is looked for with the same number of guesses."""
    file = tmp_path / "llmproxy.yaml"
    file.write_text(
        "providers: {simulated: {models: [echo]}}\naccess:\n  keys:\n"
        + "".join(f"  - {{name: {each['name']}, key: {each['key']}, models: [ecco]}}\n" for each in KEYS[:300]),
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match=r"did you mean 'echo'(?s:.*)and 200 more"):
        check_config([file], environment={})
    assert 0 < compared.calls <= MAX_HINTS


def test_guesses_are_made_again_for_the_next_configuration(compared: Counted) -> None:
    """The bound is that of one configuration."""
    for _ in range(2):
        with pytest.raises(ConfigError):
            load_config(UNKNOWN_KEYS, environment=None)
        with pytest.raises(ConfigError, match="did you mean 'providers'"):
            load_config({"provders": {}}, environment=None)
    assert compared.calls == 2 * (MAX_HINTS + 1)


def test_no_guess_is_made_about_a_text_that_is_no_name(compared: Counted) -> None:
    """A key of megabytes is compared with nothing."""
    assert hint("x" * 1000, ["y" * 1000]) == ""
    assert compared.calls == 0


class Locations(dict[Any, Any]):
    """Counts how often all places are walked through."""

    walks = 0

    @override
    def __iter__(self) -> Iterator[Any]:
        self.walks += 1
        return super().__iter__()


def test_a_later_layer_looks_at_no_places_but_those_that_it_replaces() -> None:
    """Two large files over each other cost as much as the two of them."""
    layers = Layers(locations=Locations())
    for rank in range(2):
        values = {f"k{number}": {"a": [rank, {"b": rank}]} if number else rank for number in range(10)}
        layers.merge({**values, "k1": [[rank]]}, {}, Location(f"file{rank}", rank=rank))
    assert isinstance(layers.locations, Locations)
    assert layers.locations.walks == 0
    assert layers.location(("k1", 0, 0)) == Location("file1", rank=1)
    layers.merge({"k1": 1, "k2": [1]}, {}, Location("file2", rank=2))
    assert {path for path in layers.locations if path[:1] in (("k1",), ("k2",))} == {("k1",), ("k2",), ("k2", 0)}


def test_toml_is_bounded_as_the_other_languages_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values in tables and lists count like any other."""
    monkeypatch.setattr("llmproxy_asgi.config.toml_text.MAX_VALUES", 100)
    with pytest.raises(Unreadable, match="more than 100 values"):
        read_toml("a = 1\n[t]\nb = [" + "1," * 99 + "]\n")
    assert document.MAX_VALUES >= 100_000
