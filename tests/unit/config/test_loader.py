"""Loading: layers in their order, the environment, and every finding at once with its place."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from llmproxy_asgi import Config, ConfigError
from llmproxy_asgi.config.document import format_path
from llmproxy_asgi.config.hints import RENAMED
from llmproxy_asgi.config.loader import load_config
from llmproxy_asgi.config.yaml import read_yaml
from llmproxy_asgi.providers.base import REGISTERED, ProviderConfig, provider
from llmproxy_asgi.providers.openai import OpenAI
from llmproxy_asgi.settings import Secret

CORPUS = Path(__file__).with_name("corpus")
KEYS = {"OPENAI_API_KEY": "sk-openai-0123456789", "CI_KEY": "llmp_ci-0123456789abcdef"}

GOOD = """\
# One of everything.
providers:
  openai:
    api_key: ${OPENAI_API_KEY}
    base_url: https://api.openai.com/v1
    models:
      - gpt-5
      - {name: fast, upstream: gpt-5-mini, enabled: true, max_output_tokens: 8000, capabilities: {tools: true}}
      - "o*"
    default_model: gpt-5
    priority: 10
    cooldown: 30s
    timeout: {connect: 5s, first_byte: 10m, idle: 5m, total: 1h}
    retry: {attempts: 2, backoff: 250ms}
    headers: {X-Team: search}
  claude:
    type: anthropic
    api_key: [sk-ant-one-0123456789, sk-ant-two-0123456789]
default_provider: openai
models:
  smart:
    targets: [claude/claude-opus-4-5, openai/gpt-5]
    strategy: failover
access:
  mode: keys
  keys:
    - {name: ci, key: "${CI_KEY}", models: [fast]}
endpoints: {ui: true}
limits: {body: 32MiB, json_depth: 64, event: 16MiB}
keepalive: 15s
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, so that findings name files as they were given."""
    monkeypatch.chdir(tmp_path)


def findings(
    text: str, *, environment: Mapping[str, str] | None = None, name: str = "llmproxy.yaml"
) -> tuple[str, ...]:
    """What is found in one file."""
    Path(name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_config(name, environment=environment or {})
    return refused.value.findings


def test_good_file() -> None:
    """A file with one of everything means what it says."""
    Path("llmproxy.yaml").write_text(GOOD, encoding="utf-8")
    config = load_config("llmproxy.yaml", environment=KEYS)
    openai, claude = config.providers["openai"], config.providers["claude"]
    assert openai.api_key == [Secret(KEYS["OPENAI_API_KEY"])]
    assert [entry.name for entry in openai.models or ()] == ["gpt-5", "fast", "o*"]
    assert (openai.timeout.total, openai.retry.backoff) == (3600.0, 0.25)
    assert (claude.type, len(claude.api_key or ())) == ("anthropic", 2)
    assert config.access.keys[0].key == Secret(KEYS["CI_KEY"])
    assert config.limits.body == 32 * 2**20


@pytest.mark.parametrize("case", sorted(path.stem for path in CORPUS.glob("*.yaml")))
def test_every_finding_of_a_bad_file(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is wrong with a file is found at once, in its order, each with line, path and plain words."""
    monkeypatch.chdir(CORPUS)
    with pytest.raises(ConfigError) as refused:
        load_config(f"{case}.yaml", environment={"OPENAI_API_KEY": "sk-openai-0123456789", "EMPTY": ""})
    assert list(refused.value.findings) == Path(f"{case}.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(("old", "new"), [pair for names in RENAMED.values() for pair in names.items()])
def test_an_old_name_is_an_error_that_names_the_new_one(old: str, new: str) -> None:
    """Each row of the table of renamed settings stands in `corpus/renamed.yaml`, and the new name is a field."""
    told = (CORPUS / "renamed.txt").read_text(encoding="utf-8")
    assert re.search(rf"[.: ]{old}: has a new name; write '{new}'$", told, re.MULTILINE)
    assert all(names[name] in block.model_fields for block, names in RENAMED.items() for name in names)


def test_old_names_from_elsewhere_are_refused_likewise() -> None:
    """An old name in the environment or in a dict is found with the place where it stands."""
    with pytest.raises(ConfigError) as refused:
        load_config({"state": "memory"}, environment={"LLMPROXY__DRAIN": "3"})
    assert set(refused.value.findings) == {
        "code: state: has a new name; write 'database'",
        "LLMPROXY__DRAIN: drain: has a new name; write 'drain_timeout'",
    }


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "a.json",
            '{"providers": {\n "openai": {\n  "timeuot": 1}}}',
            "a.json:3: providers.openai.timeuot: unknown key",
        ),
        ("a.json", '{"providers": \n no}', "a.json:2: has something here that is no JSON value"),
        ("a.toml", "[providers.openai]\ntimeuot = 1\n", "a.toml:2: providers.openai.timeuot: unknown key"),
        ("a.toml", "[providers.openai\n", "a.toml:1: is not valid TOML"),
        ("a.conf", "providers:\n  openai: {timeuot: 1}\n", "a.conf:2: providers.openai.timeuot: unknown key"),
    ],
)
def test_every_language(name: str, text: str, expected: str) -> None:
    """JSON and TOML are known by their names and have lines, too; anything else is YAML."""
    assert findings(text, name=name)[0].startswith(expected)


def test_files_that_cannot_be_read() -> None:
    """Report every file that cannot be read at once."""
    Path("big.yaml").write_bytes(b"#" * 2**22 + b"\n")
    Path("latin.yaml").write_bytes(b"a: 1\nb: caf\xe9\n")
    Path("folder").mkdir()
    with pytest.raises(ConfigError) as refused:
        load_config(["none.yaml", "folder", "big.yaml", "latin.yaml", "x\0y"], environment={})
    assert refused.value.findings == (
        "none.yaml: there is no such file",
        "folder: cannot be read: Is a directory",
        "big.yaml: is larger than 4 MiB",
        "latin.yaml:2: is not UTF-8",
        "a path with control characters: cannot be read: not a usable path",
    )


def test_a_file_over_four_mebibytes_is_refused_unread() -> None:
    """However big it is: its size is looked at, and none of it is read."""
    with open("huge.yaml", "wb") as file:  # noqa: PTH123  sparse: it takes no room
        file.truncate(2**40)
    with pytest.raises(ConfigError) as refused:
        load_config("huge.yaml", environment={})
    assert refused.value.findings == ("huge.yaml: is larger than 4 MiB",)


def test_source_that_is_none() -> None:
    """Refuse a source that is no configuration."""
    with pytest.raises(ConfigError, match="a configuration is a path, a dict or a Config, not int"):
        load_config(5, environment={})  # type: ignore[arg-type]


def test_byte_order_mark_is_no_mistake() -> None:
    """A file that begins with a byte order mark is read."""
    Path("a.yaml").write_bytes(b"\xef\xbb\xbfkeepalive: 5s\n")
    assert load_config("a.yaml", environment={}).keepalive == 5.0


# Layers


def test_later_file_wins() -> None:
    """Mappings merge, lists and values replace."""
    Path("a.yaml").write_text(
        "providers:\n  openai: {api_key: one, models: [a, b], priority: 1}\nkeepalive: 5s\n", encoding="utf-8"
    )
    Path("b.yaml").write_text(
        "providers:\n  openai: {models: [c]}\n  x: {type: openai, api_key: two}\n", encoding="utf-8"
    )
    config = load_config(["a.yaml", "b.yaml"], environment={})
    openai = config.providers["openai"]
    assert [entry.name for entry in openai.models or ()] == ["c"]
    assert (openai.api_key, openai.priority, config.keepalive) == ([Secret("one")], 1, 5.0)
    assert list(config.providers) == ["openai", "x"]


def test_layers_in_their_order() -> None:
    """Defaults, file, environment, code: the later one wins."""
    Path("a.yaml").write_text("keepalive: 5s\n", encoding="utf-8")
    variable = {"LLMPROXY__KEEPALIVE": "6s"}
    assert load_config({}, environment={}).keepalive == 15.0
    assert load_config("a.yaml", environment={}).keepalive == 5.0
    assert load_config("a.yaml", environment=variable).keepalive == 6.0
    assert load_config("a.yaml", environment=variable, overrides={"keepalive": "7s"}).keepalive == 7.0


def test_each_finding_names_its_source() -> None:
    """A finding says which file, line, variable or whether code said it."""
    Path("a.yaml").write_text("providers:\n  openai:\n    api_key: x\n    priority: a\n", encoding="utf-8")
    Path("b.yaml").write_text("\nproviders:\n  openai:\n    retry: {attempts: b}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_config(
            ["a.yaml", "b.yaml"],
            environment={
                "LLMPROXY__PROVIDERS__OPENAI__TIMEOUT__IDLE": "c",
                "LLMPROXY__PROVIDERS__OPENAI__TIMEOUT__IDEL": "5",
            },
            overrides={"keepalive": "d"},
        )
    assert [line.partition(": providers.openai")[0] for line in refused.value.findings] == [
        "a.yaml:4",
        "b.yaml:4",
        "LLMPROXY__PROVIDERS__OPENAI__TIMEOUT__IDLE",
        "LLMPROXY__PROVIDERS__OPENAI__TIMEOUT__IDEL",
        "code: keepalive: a duration is like 250ms, 30s, 5m, 2h or 90d, or a number of seconds",
    ]


def test_what_a_later_layer_replaced_is_not_looked_at() -> None:
    """A mistake or missing variable in a value that a later layer replaces is none."""
    Path("a.yaml").write_text("providers:\n  openai: {api_key: '${NOT_SET}', priority: x}\n", encoding="utf-8")
    config = load_config(
        "a.yaml",
        environment={"LLMPROXY__PROVIDERS__OPENAI__API_KEY": "sk-1", "LLMPROXY__PROVIDERS__OPENAI__PRIORITY": "3"},
    )
    assert config.providers["openai"].priority == 3
    assert config.providers["openai"].api_key == [Secret("sk-1")]


@pytest.mark.parametrize("name", ["LLMPROXY__PROVIDERS__MY_OPENAI__API_KEY", "llmproxy__providers__my_openai__api_key"])
def test_environment_finds_existing_keys(name: str) -> None:
    """A variable finds a key whatever its case, and characters that no variable has are underscores in it."""
    config = load_config({"providers": {"My-OpenAI": {"type": "openai"}}}, environment={name: "sk-12345"})
    assert config.providers["My-OpenAI"].api_key == [Secret("sk-12345")]


def test_environment_makes_what_is_not_there() -> None:
    """Variables alone can make a whole configuration; their values are read as YAML scalars, keys as they are."""
    config = load_config(
        {},
        environment={
            "LLMPROXY__PROVIDERS__OPENAI__API_KEY": "1234567890",
            "LLMPROXY__PROVIDERS__OPENAI__ENABLED": "true",
            "LLMPROXY__PROVIDERS__OPENAI__PRIORITY": "5",
            "LLMPROXY__PROVIDERS__OPENAI__DEFAULT_MODEL": '"4.1"',
            "LLMPROXY__PROVIDERS__OPENAI__TIMEOUT__IDLE": "5s",
            "LLMPROXY_SERVE": "not ours",
        },
    )
    openai = config.providers["openai"]
    assert (openai.api_key, openai.priority) == ([Secret("1234567890")], 5)
    assert (openai.default_model, openai.timeout.idle) == ("4.1", 5.0)


def test_environment_reaches_into_lists() -> None:
    """A number in a variable's name is an item of a list that is there."""
    keys = [{"name": "a", "key": "sk-0123456789abcdef"}]
    config = load_config(
        {"access": {"keys": keys}}, environment={"LLMPROXY__ACCESS__KEYS__0__KEY": "sk-fedcba9876543210"}
    )
    assert config.access.keys[0].key == Secret("sk-fedcba9876543210")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("LLMPROXY__", "has an empty part in its name"),
        ("LLMPROXY__PROVIDERS____X", "has an empty part in its name"),
        ("LLMPROXY__ACCESS__KEYS__1__KEY", "names '1' in a list of 1, counted from 0"),
        ("LLMPROXY__ACCESS__KEYS__A", "names 'A' in a list of 1, counted from 0"),
        ("LLMPROXY__PROVIDERS__A_B__API_KEY", "may mean any of a-b, A_B"),
    ],
)
def test_environment_that_means_nothing(name: str, problem: str) -> None:
    """A variable that cannot be followed is an error that names it."""
    source = {
        "providers": {"a-b": {"type": "openai"}, "A_B": {"type": "openai"}},
        "access": {"keys": [{"name": "a", "key": "sk-0123456789abcdef"}]},
    }
    with pytest.raises(ConfigError) as refused:
        load_config(source, environment={name: "x"})
    assert refused.value.findings == (f"{name}: {problem}",)


def test_environment_replaces_what_is_no_block() -> None:
    """A variable that leads through a single value puts a block in its place."""
    source = {"providers": {"openai": {"api_key": "x", "timeout": "5s"}}}
    config = load_config(source, environment={"LLMPROXY__PROVIDERS__OPENAI__TIMEOUT__IDLE": "6s"})
    assert config.providers["openai"].timeout.idle == 6.0


def test_own_provider_with_rules_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report mistakes in the fields of a third-party provider like those of built-in ones."""
    monkeypatch.setattr("llmproxy_asgi.providers.base.REGISTERED", registered := dict(REGISTERED))
    monkeypatch.setattr("llmproxy_asgi.providers.registry.REGISTERED", registered)

    class OwnConfig(ProviderConfig):
        step: int = Field(2, multiple_of=2)
        region: Literal["eu"] | int = "eu"

    provider("own", config=OwnConfig)(type("Own", (OpenAI,), {}))
    source = {"providers": {"own": {"api_key": "x", "step": 3, "regio": 1, "region": "us"}}}
    with pytest.raises(ConfigError) as refused:
        load_config(source, environment={})
    assert sorted(refused.value.findings) == [
        "code: providers.own.regio: unknown key; did you mean 'region'?",
        "code: providers.own.region: must be a whole number",
        "code: providers.own.region: must be eu",
        "code: providers.own.step: must be a multiple of 2",
    ]
    assert load_config({"providers": {"own": {"api_key": "x"}}}, environment={}).providers["own"].type == "own"


def test_not_even_a_dict() -> None:
    """Pydantic's own way in refuses what is no mapping, too."""
    with pytest.raises(ValidationError):
        Config.model_validate("providers")


def test_without_environment() -> None:
    """With environment=None nothing is looked up anywhere."""
    with pytest.raises(ConfigError, match="the environment variable PATH is not set"):
        load_config({"default_provider": "${PATH}"}, environment=None)


def test_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the process's environment, as it is when loading, unless another one is given."""
    monkeypatch.setenv("LLMPROXY__KEEPALIVE", "3s")
    assert load_config({}).keepalive == 3.0


def test_config_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Config alone stays itself; under overrides what was set in it, its secrets included, stays set."""
    monkeypatch.setenv("LLMPROXY__KEEPALIVE", "3s")
    made = Config.model_validate({"providers": {"openai": {"api_key": "sk-$${x"}}, "keepalive": 9})
    assert load_config(made) is made
    changed = load_config(made, environment={}, overrides={"providers": {"openai": {"priority": 4}}})
    openai = changed.providers["openai"]
    assert (openai.api_key, openai.priority, changed.keepalive) == ([Secret("sk-$${x")], 4, 9.0)


def test_sources_are_not_changed() -> None:
    """A dict that is loaded stays as it was, and later changes to it change nothing."""
    source = {"providers": {"openai": {"api_key": "${K}", "models": ["a"]}}}
    config = load_config(source, environment={"K": "sk-1"}, overrides={"providers": {"openai": {"priority": 1}}})
    assert source == {"providers": {"openai": {"api_key": "${K}", "models": ["a"]}}}
    source["providers"]["openai"]["models"] = []
    assert len(config.providers["openai"].models or ()) == 1


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({"providers": {1: {}}}, "code: has a key that is not text but int"),
        ({"a": {None: 1}}, "code: has a key that is not text but NoneType"),
        ({"access": {"keys": "x"}}, "code: access.keys: must be a list"),
    ],
)
def test_dict_that_is_wrong(source: dict[str, object], problem: str) -> None:
    """A finding in a dict says that code said it."""
    with pytest.raises(ConfigError) as refused:
        load_config(source, environment={})
    assert refused.value.findings == (problem,)


@pytest.mark.parametrize(
    "url",
    [
        "https://models.example:99999/v1",
        "https://models.example:port/v1",
        "https://models.example:0",
        "https://mo dels.example/v1",
        "https://models.example/v1\n",
        "https://@models.example/v1",
        "https://[::1/v1",
        "HTTP://models.example/v1",
    ],
)
def test_an_address_that_no_call_could_use_is_a_finding(url: str) -> None:
    """Report it when the configuration is read, not by the first call that fails."""
    with pytest.raises(ConfigError, match=r"providers\.p.*base_url|providers\.p\.base_url"):
        load_config({"providers": {"p": {"type": "openai-compatible", "base_url": url}}}, environment={})


@pytest.mark.parametrize(
    "words", [{"name": "a\tb"}, {"name": "  "}, {"tenant": "a\nb"}], ids=["tab", "blank", "tenant"]
)
def test_a_key_whose_principal_could_not_be_is_a_finding(words: dict[str, str]) -> None:
    """Report what the principal refuses, with its place."""
    entry = {"name": "ci", "key": KEYS["CI_KEY"], **words}
    with pytest.raises(ConfigError, match=rf"access\.keys\[0\]\.{next(iter(words))}: must be of printable"):
        load_config({"access": {"keys": [entry]}}, environment={})


def test_dict_that_holds_itself() -> None:
    """A dict that contains itself is refused."""
    endless: dict[str, object] = {}
    endless["a"] = endless
    with pytest.raises(ConfigError, match="nests deeper than 64"):
        load_config(endless, environment={})


# Interpolation


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("${A}", "value"),
        ("x-${A}-y-${A}", "x-value-y-value"),
        ("${A:-other}", "value"),
        ("${NONE:-other}", "other"),
        ("${NONE:-}", ""),
        ("${EMPTY:-other}", "other"),
        ("$${A}", "${A}"),
        ("$A ${A}", "$A value"),
        ("$", "$"),
        ("${TRICK}", "${A}"),
        ("${YAML}", "{a: [1"),
    ],
)
def test_interpolation(written: str, meant: str) -> None:
    """Variables are put in whole or within a text, once: what is put in is neither searched nor parsed again."""
    environment = {"A": "value", "EMPTY": "", "TRICK": "${A}", "YAML": "{a: [1"}
    config = load_config({"providers": {"openai": {"api_key": "x", "default_model": written}}}, environment=environment)
    assert config.providers["openai"].default_model == meant


def test_keys_are_not_interpolated() -> None:
    """`${NAME}` in a key is the key's own text."""
    config = load_config(
        {"models": {"${A}": {"targets": ["o/x"]}}, "providers": {"o": {"type": "openai", "api_key": "x"}}}
    )
    assert list(config.models) == ["${A}"]


def test_environment_layer_is_not_interpolated() -> None:
    """A value that a variable sets is taken as it is."""
    variable = {"LLMPROXY__PROVIDERS__OPENAI__API_KEY": "sk-${A}"}
    config = load_config({"providers": {"openai": {}}}, environment=variable)
    assert config.providers["openai"].api_key == [Secret("sk-${A}")]


def test_api_key_env() -> None:
    """`api_key_env` names the variable that holds the key; a later layer's api_key replaces it, and the other way."""
    environment = {"MY_KEY": "sk-mine-${x}"}
    named = {"providers": {"openai": {"api_key_env": "MY_KEY"}}}
    given_key = {"providers": {"openai": {"api_key": "sk-given"}}}
    assert load_config(named, environment=environment).providers["openai"].api_key == [Secret("sk-mine-${x}")]
    assert load_config([named, given_key], environment={}).providers["openai"].api_key == [Secret("sk-given")]
    assert load_config([given_key, named], environment=environment).providers["openai"].api_key == [
        Secret("sk-mine-${x}")
    ]


def test_empty_blocks_are_left_out() -> None:
    """A block that is opened and left empty counts as left out; a provider's, as all defaults."""
    Path("a.yaml").write_text("providers:\n  simulated:\nmodels:\naccess:\nlimits:\n", encoding="utf-8")
    config = load_config("a.yaml", environment={})
    assert config.models == {}
    assert config.access.mode == "host"
    assert config.providers["simulated"].type == "simulated"


def test_empty_blocks_take_nothing_away_from_earlier_layers() -> None:
    """Ignore an empty block of a later layer; null resets a setting that may be null."""
    base = {
        "providers": {"simulated": {"health": {"interval": "5s"}, "priority": 3}},
        "access": {"mode": "keys"},
        "limits": {"body": 2048},
    }
    Path("a.yaml").write_text("providers: {simulated: }\naccess:\nlimits:\n", encoding="utf-8")
    config = load_config([base, "a.yaml"], environment={})
    simulated = config.providers["simulated"]
    assert (config.access.mode, config.limits.body, simulated.priority) == ("keys", 2048, 3)
    assert simulated.health is not None
    Path("a.yaml").write_text("providers: {simulated: {health: null}}\n", encoding="utf-8")
    assert load_config([base, "a.yaml"], environment={}).providers["simulated"].health is None


# Prefixes, secrets


def loaded(name: str, *, environment: Mapping[str, str]) -> Config | None:
    """A file's configuration; None if it is refused as it should be, with findings."""
    try:
        return load_config(name, environment=environment)
    except ConfigError as refused:
        if refused.findings:
            return None
        raise


def test_a_file_that_was_cut_is_never_a_surprise() -> None:
    """Every beginning of a good file is refused with findings or holds nothing that the whole does not hold."""
    Path("whole.yaml").write_text(GOOD, encoding="utf-8")
    whole = load_config("whole.yaml", environment=KEYS).model_dump()
    for length in range(0, len(GOOD), 3):
        Path("cut.yaml").write_text(GOOD[:length], encoding="utf-8")
        cut = loaded("cut.yaml", environment=KEYS)
        if cut is not None:
            assert set(cut.providers) <= set(whole["providers"])
            assert cut.access.mode in ("host", "keys")


@given(
    st.binary(max_size=60) | st.text(st.sampled_from("providers: {}[]-\n${A}'\"&*!|>#"), max_size=60).map(str.encode)
)
def test_no_file_raises_anything_else(content: bytes) -> None:
    """Whatever bytes a file holds, loading it gives a Config or a ConfigError."""
    for name in ("any.yaml", "any.json", "any.toml"):
        Path(name).write_bytes(content)
        loaded(name, environment={})


def paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, dict):
        return [path, *(below for key, item in value.items() for below in paths(item, (*path, key)))]
    if isinstance(value, list):
        return [path, *(below for index, item in enumerate(value) for below in paths(item, (*path, index)))]
    return [path]


def changed(value: object, path: tuple[str | int, ...], other: object) -> object:
    if not path:
        return other
    if isinstance(value, dict):
        return {key: changed(item, path[1:], other) if key == path[0] else item for key, item in value.items()}
    assert isinstance(value, list)
    return [changed(item, path[1:], other) if index == path[0] else item for index, item in enumerate(value)]


ODD_VALUES = [
    None, True, 0, -1, 1.5, 10**30, float("nan"), float("inf"),
    "", "x", "${A}", "5s", "a/b", "\n", "é", b"x", Secret("sk-1"),
    [], ["x"], [None], [{"name": "x"}], (1,), {1}, object(),
    {}, {"x": 1}, {"x": {}}, {"type": "openai"}, {"name": None},
]  # fmt: skip
WHOLE = read_yaml(GOOD).values


@pytest.mark.parametrize("path", paths(WHOLE)[1:], ids=format_path)
def test_no_value_raises_anything_else(path: tuple[str | int, ...]) -> None:
    """Whatever stands in the place of a value, loading it gives a Config, or findings of one line each."""
    for odd in ODD_VALUES:
        values = changed(WHOLE, path, odd)
        assert isinstance(values, dict)
        try:
            load_config(values, environment={**KEYS, "A": "a text"})
        except ConfigError as refused:
            lines = refused.findings
        else:
            continue
        assert lines
        assert all(line.startswith("code: ") and line.isprintable() for line in lines)


SECRETS = {
    "file": "sk-file-5b2c8a11",
    "interpolated": "sk-env-77aa90b3",
    "named": "sk-named-0c44de5f",
    "layer": "sk-layer-e81f22aa",
    "machine": "llmp_machine-93bc7d",
    "misplaced": "sk-misplaced-4d20c1",
}


def with_secrets(**more: object) -> Config:
    return load_config(
        {
            "providers": {
                "a": {"type": "openai", "api_key": [SECRETS["file"], "${K}"]},
                "b": {"type": "anthropic", "api_key_env": "N"},
                "c": {"type": "openai"},
            },
            "access": {"keys": [{"name": "ci", "key": SECRETS["machine"]}]},
            **more,
        },
        environment={
            "K": SECRETS["interpolated"], "N": SECRETS["named"], "LLMPROXY__PROVIDERS__C__API_KEY": SECRETS["layer"],
        },
    )  # fmt: skip


@pytest.mark.parametrize("show", [repr, str, Config.model_dump_json, Config.model_dump, "{!r:s}".format])
def test_secrets_are_not_shown(show: object) -> None:
    """No way to print a configuration prints a key."""
    assert callable(show)
    shown = str(show(with_secrets()))
    assert "***" in shown
    assert [name for name, secret in SECRETS.items() if secret in shown] == []


@pytest.mark.parametrize(
    "misplaced",
    [
        {"default_provider": "${K}"},
        {"models": {"m": {"targets": ["${K}", f"{SECRETS['file']}/x"]}}},
        {"models": {"m": {"targets": ["a/b"], "strategy": "${K}"}}},
        {"keepalive": "${K}"},
        {"default_provider": "sk-misplaced-4d20c1"},
        {"limits": {"body": "${K}", "json_depth": "${K}"}},
        {"access": {"mode": "${K}", "keys": [{"name": "ci", "key": SECRETS["machine"], "models": "${N}"}]}},
        {"providers": {"x": {"type": "${K}"}, "y": {"type": "openai", "api_key": SECRETS["file"], "protocol": "${K}"}}},
        {
            "providers": {
                "x": {"type": "openai", "base_url": "http://${K}@[", "headers": {"X-A": f"{SECRETS['file']}\n"}}
            }
        },
    ],
)
def test_findings_hold_no_secret(misplaced: dict[str, object]) -> None:
    """A key in the wrong place is an error that does not repeat it."""
    with pytest.raises(ConfigError) as refused:
        with_secrets(**misplaced)
    assert [name for name, secret in SECRETS.items() if secret in str(refused.value)] == []


def test_yaml_mistakes_quote_no_value() -> None:
    """A file that is not YAML because of a key is refused without showing the key."""
    for text in (
        "api_key: *{}\n",
        "api_key: !{}\n",
        "api_key: '{}\n",
        "a: b: {}\n",
        "{}\nb: 1\n",
        "a: [{}\n",
        "- {}: x: y\n",
    ):
        shown = " ".join(findings(text.format("sk-file-5b2c8a11")))
        assert "5b2c8a11" not in shown


def test_findings_are_lines() -> None:
    """No finding holds a line break, whatever a key is made of."""
    shown = findings('"a\\nb": 1\nproviders: {"c\\nd": {type: openai, "e\\u001b[31m": 1}}\n')
    assert len(shown) >= 2
    assert all(line.isprintable() for line in shown)


def test_path_like_source(tmp_path: Path) -> None:
    """A path object is as good as its text."""
    (tmp_path / "a.yaml").write_text("keepalive: 5s\n", encoding="utf-8")
    assert load_config(tmp_path / "a.yaml", environment={}).keepalive == 5.0
    assert load_config(os.fspath(tmp_path / "a.yaml"), environment={}).keepalive == 5.0


@pytest.mark.parametrize(
    "origin",
    ["https://app.example.com", "http://localhost:5173", "http://127.0.0.1:3000", "http://[::1]:3000",
     "tauri://localhost", "https://xn--bcher-kva.example"],
)  # fmt: skip
def test_an_origin_is_taken_as_a_browser_sends_it(origin: str) -> None:
    """Scheme, host and a port that is not the scheme's own."""
    assert load_config({"access": {"origins": [origin]}}).access.origins == (origin,)


@pytest.mark.parametrize(
    "origin",
    ["*", "null", "", "app.example.com", "https://", "https://*.example.com", "https://app.example.com/",
     "https://app.example.com/page", "https://App.example.com", "https://app.example.com:443", "http://a.example:80",
     "https://user@app.example.com", "https://app.example.com:0", "https://app.example.com:70000", "https://b\u00fccher.example",
     " https://app.example.com", "https://app.example.com?x", "//app.example.com"],
)  # fmt: skip
def test_what_no_browser_sends_as_an_origin_is_a_finding(origin: str) -> None:
    """An entry that could never match, or would match too much, is an error with its place."""
    with pytest.raises(ConfigError) as caught:
        load_config({"access": {"origins": ["https://app.example.com", origin]}})
    assert "access.origins[1]" in str(caught.value)


def test_an_administrator_that_is_no_key_is_a_finding() -> None:
    """`key:NAME` names a key of the table."""
    keys = [{"name": "ci", "key": "llmp_abcdefghijklmnop", "tenant": "acme"}]
    assert load_config({"access": {"keys": keys, "admins": ["key:acme/ci"]}})
    with pytest.raises(ConfigError, match=r"no key 'ci' under access\.keys without a tenant"):
        load_config({"access": {"keys": keys, "admins": ["key:ci"]}})
