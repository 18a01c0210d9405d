"""The documentation, the example and the starter file say what the configuration is."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmproxy_asgi import Config, ConfigError
from llmproxy_asgi.config.document import format_path
from llmproxy_asgi.config.findings import RESERVED
from llmproxy_asgi.config.json_schema import schema
from llmproxy_asgi.config.loader import load_config
from llmproxy_asgi.providers.registry import known_types
from llmproxy_asgi.settings import Secret

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "llmproxy.yaml"
STARTER = ROOT / "src" / "llmproxy_asgi" / "cli" / "starter.yaml"
KEYS = {
    "OPENAI_API_KEY": "sk-one-0123456789",
    "ANTHROPIC_API_KEY": "sk-two-0123456789",
    "CI_KEY": "sk-three-0123456789",
}


def fields() -> set[str]:
    """Every key that a configuration can have, wherever it stands."""
    made = schema()
    blocks: list[dict[str, Any]] = [made, *made["$defs"].values()]
    found = {name for block in blocks for name in block.get("properties", {})}
    assert {"providers", "api_key_env", "first_byte", "json_depth", "targets", "tenant", "delay"} <= found
    return found


@pytest.mark.parametrize("field", sorted(fields()))
def test_every_field_has_its_row(field: str) -> None:
    """Each field has a row in a table, with its type, its default and what it means."""
    rows = re.findall(rf"^\| `{field}` \|([^|]*)\|([^|]*)\|([^|]*)\|$", PAGE, re.MULTILINE)
    assert rows
    assert all(kind.strip() and meaning.strip() for kind, _, meaning in rows)


def test_no_row_without_a_field() -> None:
    """The tables of keys name no key that is not there."""
    rows = set(re.findall(r"^\| `([a-z_]+)` \|[^|]*\|[^|]*\|[^|]*\|$", PAGE, re.MULTILINE))
    assert rows - fields() == set()


def test_every_reserved_key_is_named() -> None:
    """What is refused for now is listed."""
    last = PAGE.partition("## Not yet")[2]
    for block, keys in RESERVED.items():
        whole = [format_path([*(step for step in block if step), key]) for key in keys]
        assert [name for name in whole if f"`{name}`" not in last and f"`{name.rpartition('.')[2]}`" not in last] == []


def test_every_type_is_named() -> None:
    """Name each built-in provider type in the row of `type`."""
    row = next(line for line in PAGE.splitlines() if line.startswith("| `type` |"))
    assert [name for name in known_types() if f"`{name}`" not in row] == []


def test_the_page_shows_a_configuration_that_loads() -> None:
    """The first example of the page is a configuration."""
    text = PAGE.partition("```yaml\n")[2].partition("```")[0]
    config = load_config(yaml.safe_load(text), environment=KEYS)
    assert tuple(entry.target for entry in config.models["smart"].targets) == ("claude/claude-opus-4-5", "openai/gpt-5")


def test_example_has_every_key() -> None:
    """The example holds every key at least once, loads, and says nothing but defaults where it claims so."""
    text = EXAMPLE.read_text(encoding="utf-8")
    assert [name for name in fields() if not re.search(rf"\b{name}:", text)] == []
    config = load_config(EXAMPLE, environment=KEYS)
    assert config.limits == Config().limits
    assert config.keepalive == Config().keepalive
    assert config.providers["openai"].timeout == config.providers["claude"].timeout
    assert config.providers["openai"].retry == config.providers["claude"].retry
    assert config.providers["openai"].cooldown == config.providers["claude"].cooldown


def test_starter_asks_for_two_keys_alone() -> None:
    """The starter file is usable as soon as the two upstreams' keys are set, and has a key of its own."""
    text = STARTER.read_text(encoding="utf-8")
    assert set(re.findall(r"^[^#\n]*\$\{(\w+)", text, re.MULTILINE)) == {"OPENAI_API_KEY", "ANTHROPIC_API_KEY"}
    with pytest.raises(ConfigError, match="placeholder"):
        load_config(STARTER, environment=KEYS)
    values = yaml.safe_load(text.replace("llmp_REPLACED_BY_INIT", "llmp_0123456789abcdef"))
    config = load_config(values, environment=KEYS)
    assert config.access.mode == "keys"
    assert config.access.keys[0].key == Secret("llmp_0123456789abcdef")


def test_what_the_starter_comments_out_is_right() -> None:
    """With its suggestions taken out of their comments, the starter file loads as well."""
    text = re.sub(r"^( *)# ( *(?:- |[a-z_]+:))", r"\1\2", STARTER.read_text(encoding="utf-8"), flags=re.MULTILINE)
    values = yaml.safe_load(text.replace("llmp_REPLACED_BY_INIT", "llmp_0123456789abcdef"))
    assert {"openai", "claude", "local", "pretend"} == set(values["providers"])
    assert set(values["models"]) == {"smart"}
    load_config(values, environment=KEYS)
