"""Mutated documents: for every mutation of a valid configuration, each finding has a location and a clear text."""

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy_asgi import Config, ConfigError
from llmproxy_asgi.config.loader import load_config
from llmproxy_asgi.config.usable import unusable
from llmproxy_asgi.config.yaml import read_yaml

EXAMPLE = read_yaml((Path(__file__).parents[3] / "examples" / "llmproxy.yaml").read_text(encoding="utf-8")).values
ENVIRONMENT = {
    "OPENAI_API_KEY": "sk-one-0123456789",
    "ANTHROPIC_API_KEY": "sk-two-0123456789",
    "CI_KEY": "k" + "0a" * 10,
}
SECRETS = ("sk-ant-api03-SeCrEt_0123456789", "Zm9vYmFyYmF6MTIzNDU2Nzg5MA", *ENVIRONMENT.values())
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 1.5, 10**18, -(10**400), 10**5000, 1e308, float("nan"), float("inf"),
    "", " ", "x", "5s", "-5s", "1e999", "9" * 5000, "${NOT_SET}", "${", "${CI_KEY}", "$CI_KEY", "os.environ/CI_KEY",
    "openai", "openai-chat", "http://",
    "https://host/v1/messages", "http://[::1", "h\u00e9", "\U0001f511", "a\nb", "\x00",
    *SECRETS, [], {}, [[]], [{}], {"": ""}, {"type": "simulated"}, {SECRETS[0]: SECRETS[1]}, ["x"] * 3, {"name": 1},
]  # fmt: skip
PYTHON = re.compile(
    r"Traceback|NoneType|<class|object at 0x|[Ii]nput should|validation error|Exceeds the limit|isinstance"
    r"|(?:Key|Type|Value|Attribute|Overflow|Recursion)Error|\bint\b|\bstr\b|\bdict\b|\btuple\b|\bNone\b"
)


def steps(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of each value in a document, below the whole."""
    below: list[tuple[str | int, ...]] = [] if not path else [path]
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        below += steps(item, (*path, key))
    return below


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """The example, with a few of its values replaced, removed, put elsewhere, or joined by others."""
    document: dict[str, Any] = deepcopy(EXAMPLE)
    for _ in range(draw(st.integers(1, 4))):
        places = steps(document)
        if not places:
            break
        path = draw(st.sampled_from(places))
        holder: Any = document
        for step in path[:-1]:
            holder = holder[step]
        action = draw(st.sampled_from(["replace", "replace", "remove", "move", "add"]))
        odd = deepcopy(draw(st.sampled_from(ODD)))
        if action == "remove":
            del holder[path[-1]]
        elif action == "add" and isinstance(holder, dict):
            holder[draw(st.sampled_from([*SECRETS, "type", "models", "x", "", "a.b", "\n", "k" * 500]))] = odd
        elif action == "move":
            holder[path[-1]] = deepcopy(document.get(draw(st.sampled_from(sorted(document) or ["x"]))))
        else:
            holder[path[-1]] = odd
    return document


def judge(source: Any) -> None:
    """A configuration, or findings of one line each that name a place, hold no secret and none of Python's words."""
    try:
        made = load_config(source, environment=ENVIRONMENT)
    except ConfigError as refused:
        findings = list(refused.findings)
        assert findings
    else:
        assert isinstance(made, Config)
        findings = [f"code: {finding}" for finding in unusable(made)]
    for finding in findings:
        assert finding.isprintable(), finding
        assert re.match(r"(?:code|\S+\.(?:json|yaml|toml)(?::\d+)?): ", finding), finding
        assert len(finding) < 2000, finding
        assert not [secret for secret in SECRETS if secret in finding], finding
        assert not PYTHON.search(finding), finding


@settings(max_examples=150)
@given(documents())
def test_a_mutated_dict_is_a_configuration_or_findings(document: dict[str, Any]) -> None:
    """From code, where a value may be anything."""
    judge(document)


@pytest.mark.parametrize("ending", ["json", "yaml"])
@settings(max_examples=50)
@given(document=documents())
def test_a_mutated_file_is_a_configuration_or_findings(
    ending: str, document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """From a file, where numbers may have any number of digits; what is JSON is YAML, too."""
    path = tmp_path_factory.getbasetemp() / f"mutated.{ending}"
    path.write_text(_json(document), encoding="utf-8")
    judge(path)


def _json(value: object) -> str:
    """JSON, of whole numbers that Python does not write."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_json(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_json, value)) + "]"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**20:
        return "9" * 5000
    return json.dumps(value)
