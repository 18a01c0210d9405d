"""The endpoint of a path, with every mount and every base URL that users type."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.endpoints.paths import base_url_hint, canonical_path, routed_path


@pytest.mark.parametrize(
    ("path", "root_path", "app_root_path"),
    [
        ("/v1/models", "", None),
        ("/llm/v1/models", "/llm", None),
        ("/llm/v1/models", "/llm/", None),
        ("/v1/models", "/llm", None),
        ("/api/llm/v1/models", "/api/llm", "/api"),
        ("/llm/v1/models", "/api/llm", "/api"),
        ("/api/llm/v1/models", "/api//llm", "/api/"),
        ("/llm/v1/models", "/api//llm", "/api/"),
        ("/outer/llm/v1/models", "/api/outer/llm", "/api"),
        ("/v1/models", "/api/llm", "/elsewhere"),
    ],
)
def test_a_path_is_found_below_any_mount(path: str, root_path: str, app_root_path: str | None) -> None:
    """Find it whether the server's path contains all of `root_path`, the mount only, or nothing of it."""
    scope = {"path": path, "root_path": root_path}
    if app_root_path is not None:
        scope["app_root_path"] = app_root_path
    assert routed_path(scope) == "/v1/models"


@pytest.mark.parametrize(
    ("path", "root_path"), [("/llmx/v1/models", "/llm"), ("/v1/llm/models", "/llm"), ("/apillm/v1/models", "/api/llm")]
)
def test_a_path_beside_the_mount_is_not_cut(path: str, root_path: str) -> None:
    """Cut a prefix at a slash only."""
    assert routed_path({"path": path, "root_path": root_path, "app_root_path": "/api"}) == path


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/completions", "/v1/completions"),
        ("/embeddings/", "/v1/embeddings"),
        ("/messages", "/v1/messages"),
        ("/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/responses", "/v1/responses"),
        ("/responses/resp_1/cancel", "/v1/responses/resp_1/cancel"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/v1/messages", "/v1/messages"),
        ("//v1//messages", "/v1/messages"),
        ("/v1/messages/", "/v1/messages"),
        ("/models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("/models/simulated/echo", "/v1/models/simulated/echo"),
        ("/v1/v1beta/models/echo:generateContent", "/v1beta/models/echo:generateContent"),
        ("/models/echo:generateContent", "/v1/models/echo:generateContent"),
        ("/v1beta/chat/completions", "/v1/chat/completions"),
        ("/health/", "/health"),
        ("//ready", "/ready"),
    ],
)
def test_a_path_that_identifies_one_endpoint_is_corrected(path: str, meant: str) -> None:
    """Correct a version too many or too few, doubled slashes and a trailing slash."""
    assert canonical_path(path) == meant


@pytest.mark.parametrize(
    "path",
    [
        "/", "", "/v1", "/v1/", "/v2/messages", "/V1/messages", "/v1/Messages", "/v1/../v1/messages", "/v1/./messages",
        "/v1//../messages", "/ui/", "/ui//x", "/v1/health", "/health/x", "/v1/message", "/openai/v1/models",
        "/v1;x/messages",
    ],
)  # fmt: skip
def test_other_paths_are_unchanged(path: str) -> None:
    """Do not guess at dot segments, other letter cases, other versions or unknown names."""
    assert canonical_path(path) == path


@given(st.lists(st.sampled_from(["v1", "v1beta", "chat", "completions", "models", "..", ".", "", "x:y", "health"])))
def test_a_canonical_path_is_final(parts: list[str]) -> None:
    """Canonicalizing twice changes nothing, and no dot segment is resolved."""
    path = "/" + "/".join(parts)
    meant = canonical_path(path)
    assert canonical_path(meant) == meant
    assert meant == path or not {".", ".."} & set(parts)


@pytest.mark.parametrize(
    ("protocol", "hint"),
    [
        ("openai-chat", "base_url=<this server>/llm/v1"),
        ("openai-responses", "base_url=<this server>/llm/v1"),
        ("anthropic-messages", "base_url=<this server>/llm"),
        ("gemini", "HttpOptions(base_url=<this server>/llm)"),
    ],
)
def test_the_hint_has_the_base_url_of_the_sdk(protocol: str, hint: str) -> None:
    """Include the mount, and no host name that a client sent."""
    assert base_url_hint(protocol, {"root_path": "/llm/", "headers": [(b"host", b"evil")]}).endswith(hint)
