"""Configurations that are legal and would serve nothing: `check_config` finds them, with place and remedy."""

from pathlib import Path

import pytest

from llmproxy_asgi import ConfigError
from llmproxy_asgi.config.loader import check_config, load_config

OPENAI = "providers:\n  openai: {api_key: sk-0123456789abcdefghij}\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def found(text: str) -> tuple[str, ...]:
    """What is found in one file; `load_config` takes the same file, unless it is wrong in itself."""
    path = Path("a.yaml")
    path.write_text(text, encoding="utf-8")
    try:
        check_config([path], environment={})
    except ConfigError as error:
        return error.findings
    return ()


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("", "a.yaml: is empty: `llmproxy init` writes a file to start from"),
        ("# all of it is a comment\n", "a.yaml: is empty: `llmproxy init` writes a file to start from"),
        ("access: {mode: open}\n", "a.yaml: holds no providers, so nothing would be served: add one"),
        ("providers:\naccess: {mode: open}\n", "a.yaml: holds no providers, so nothing would be served: add one"),
        (
            "providers:\n  openai: {enabled: false}\n",
            "a.yaml:1: providers: are all disabled, so nothing would be served",
        ),
        (
            "providers:\n  simulated:\n    models: []\n",
            "a.yaml:3: providers.simulated.models: holds no enabled model",
        ),
        (
            "providers:\n  simulated:\n    models: [{name: echo, enabled: false}]\n",
            "a.yaml:3: providers.simulated.models: holds no enabled model",
        ),
        (
            "providers:\n  openai:\n    api_key: your-key-here\n",
            "a.yaml:3: providers.openai.api_key: is a placeholder: write the key itself, or ${NAME}",
        ),
        (
            "providers:\n  openai:\n    api_key:\n      - sk-0123456789abcdefghij\n      - <the second key>\n",
            "a.yaml:5: providers.openai.api_key[1]: is a placeholder",
        ),
        (
            "providers:\n  openai: {api_key: sk-ant-0123456789}\n",
            "a.yaml:2: providers.openai.api_key: begins like a key for type 'anthropic', and this provider's type is",
        ),
        (
            "providers:\n  a: {type: gemini, api_key: sk-proj-0123456789}\n",
            "a.yaml:2: providers.a.api_key: begins like a key for type 'openai'",
        ),
        (
            OPENAI.replace("}", ", base_url: https://platform.openai.com}"),
            "a.yaml:2: providers.openai.base_url: is the address of a website (platform.openai.com)",
        ),
        (
            "providers:\n  v: {type: openai-compatible, base_url: https://your-server.example.com/v1}\n",
            "a.yaml:2: providers.v.base_url: is a placeholder: write your server's address",
        ),
        (
            OPENAI + "access:\n  mode: keys\n",
            "a.yaml:3: access: mode is keys and there are no keys, so every call would be refused",
        ),
        (
            OPENAI + "  claude: {type: anthropic, enabled: false}\nmodels:\n  smart: {targets: [claude/x]}\n",
            "a.yaml:5: models.smart.targets: name only disabled providers",
        ),
        (
            OPENAI + "  claude: {type: anthropic, enabled: false}\ndefault_provider: claude\n",
            "a.yaml:4: default_provider: names 'claude', which is disabled",
        ),
        (
            (
                "providers:\n  simulated: {models: [echo, story]}\n"
                "access:\n  keys: [{name: ci, key: abcdefgh12345678, models: [storry]}]\n"
            ),
            "a.yaml:4: access.keys[0].models[0]: no provider lists a model 'storry'; did you mean 'story'?",
        ),
    ],
)
def test_what_can_serve_nothing_is_a_finding(text: str, finding: str) -> None:
    """Each is one finding with its place and what to write, and no more; loading alone takes it."""
    assert [line[: len(finding)] for line in found(text)] == [finding]
    load_config("a.yaml", environment={})


@pytest.mark.parametrize(
    "text",
    [
        OPENAI,
        "providers: {simulated: }\naccess: {mode: open}\n",
        "providers:\n  v: {type: openai-compatible, base_url: 'http://127.0.0.1:8000/v1', api_key: EMPTY}\n",
        "providers:\n  v: {type: openai, base_url: 'http://localhost:8000', api_key: changeme}\n",
        "providers:\n  v: {type: openai-compatible, base_url: 'https://x.services.net/models', api_key: k}\n",
        OPENAI + "  claude: {type: anthropic, enabled: false}\nmodels:\n  a: {targets: [claude/x, openai/y]}\n",
        OPENAI + "access:\n  keys: [{name: ci, key: abcdefgh12345678, models: [whatever]}]\n",
        (
            "providers:\n  simulated: {models: [echo]}\n"
            "access:\n  keys: [{name: ci, key: abcdefgh12345678, models: [echo, 'st*', simulated/json]}]\n"
        ),
        "providers:\n  openai: {api_key: sk-0123456789abcdefghij, models: [], default_model: x, bypass_model: true}\n",
    ],
)
def test_what_serves_is_none(text: str) -> None:
    """A local server takes any word for a key, open providers serve unlisted names, one of two targets is enough."""
    assert found(text) == ()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://host/v1/chat/completions", "ends in the path of an endpoint"),
        ("https://host/api/chat/completions/", "ends in the path of an endpoint"),
        ("https://host/v1/messages", "ends in the path of an endpoint"),
        ("https://host/v1/responses", "ends in the path of an endpoint"),
        ("https://host/v1beta/models", "ends in the path of an endpoint"),
        ("https://host/v1beta/models/gemini-pro:generateContent", "ends in the path of an endpoint"),
        ("https://host/v1/v1", "ends in /v1 twice: write it once"),
        ("https://host/x/v1beta/v1beta/", "ends in /v1beta twice: write it once"),
        ("host/v1", "must be an http:// or https:// address"),
    ],
)
def test_an_address_of_an_endpoint_is_refused(url: str, problem: str) -> None:
    """A `base_url` is where the vendor's SDK begins, not where one of its calls ends."""
    with pytest.raises(ConfigError) as refused:
        load_config({"providers": {"a": {"type": "openai-compatible", "base_url": url}}}, environment=None)
    (finding,) = refused.value.findings
    assert finding.startswith(f"code: providers.a.base_url: {problem}")


@pytest.mark.parametrize(
    "path", ["", "/", "/v1", "/v1/", "/v2/v1", "/models", "/openai/v1", "/api/v1", "/messages", "/chat"]
)
def test_an_address_before_an_endpoint_is_not(path: str) -> None:
    """Servers live under all sorts of paths."""
    load_config(
        {"providers": {"a": {"type": "openai-compatible", "base_url": f"https://host{path}"}}}, environment=None
    )


def test_the_file_of_several_that_wins_is_named() -> None:
    """Of layers that come to nothing together, the last one is where a provider can be added."""
    Path("a.yaml").write_text("access: {mode: open}\n", encoding="utf-8")
    Path("b.yaml").write_text("keepalive: 5s\n", encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        check_config([Path("a.yaml"), Path("b.yaml")], environment={})
    assert refused.value.findings[0].startswith("b.yaml: holds no providers")
