"""Pages of models in the shapes that vendors have for them."""

import json
from typing import Any

import pytest

from llmproxy_asgi.errors import UpstreamProtocolError
from llmproxy_asgi.providers.listing import Page, read_page

BOTH = ["generateContent", "countTokens"]


@pytest.mark.parametrize(
    ("body", "page"),
    [
        ({"object": "list", "data": [{"id": "gpt-5", "object": "model"}, {"id": "o3"}]}, Page(("gpt-5", "o3"))),
        ({"data": [{"id": "a"}], "has_more": True, "last_id": "a"}, Page(("a",), "a")),
        ({"data": [{"id": "a"}], "has_more": False, "last_id": "a"}, Page(("a",))),
        ({"data": [], "has_more": False, "first_id": None, "last_id": None}, Page(())),
        (
            {"models": [{"name": "models/g", "supportedGenerationMethods": BOTH}], "nextPageToken": "t"},
            Page(("g",), "t"),
        ),
        ({"models": [{"name": "models/veo", "supportedGenerationMethods": ["predictLongRunning"]}]}, Page(())),
        ({"models": [{"name": "models/g"}], "nextPageToken": ""}, Page(("g",))),
        ([{"id": "meta/llama", "type": "chat"}], Page(("meta/llama",))),
        ({"data": ["plain", 3, None, {"id": 7}, {"id": ""}, {"id": "x" * 600}, {"id": "a\nb"}]}, Page(("plain",))),
    ],
    ids=["openai", "anthropic", "last of anthropic", "empty", "google", "no words", "last of google", "bare", "odd"],
)
def test_each_shape_is_read(body: Any, page: Page) -> None:
    """What is no model's name is left out."""
    assert read_page(json.dumps(body).encode()) == page


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"data": {}}', b"3", b"[" * 100_000])
def test_what_is_no_list_is_refused(body: bytes) -> None:
    """A firewall's page lists no models."""
    with pytest.raises(UpstreamProtocolError):
        read_page(body)
