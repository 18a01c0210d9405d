"""Tools that the vendor runs, and tiers: passed where the operator allows them, refused by name where not."""

from collections.abc import Iterator
from typing import Any

import pytest

from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES, PairHarness, ProtocolPair, Reply, pair_harness
from support.pairs.asks import QUESTION, chat_tool, messages_tool, responses_tool
from support.pairs.gemini_asks import declared, functions
from support.pairs.parameters import pairs

FINE = Reply(texts=("Fine.",))
ALLOWED = ["web_search", "mcp/https://mcp.example.com/*", "image_generation", "image_generation/gpt-image-1-mini"]
SAME = [pair for one in (CHAT, RESPONSES, MESSAGES, GEMINI) for pair in pairs(client=one, upstream=one)]
FUNCTION: dict[str, Any] = {
    CHAT: chat_tool(),
    RESPONSES: responses_tool(),
    MESSAGES: messages_tool(),
    GEMINI: functions(declared("get_weather", {"type": "object", "properties": {}}))[0],
}
MCP = {"type": "mcp", "server_label": "s"}
Rows = dict[str, list[tuple[dict[str, Any], str]]]
REFUSED: Rows = {
    CHAT: [
        ({"tools": [FUNCTION[CHAT], {"type": "code_interpreter"}]}, "tools[1]"),
        ({"plugins": [{"id": "file-parser"}]}, "plugins[0]"),
        ({"service_tier": "priority"}, "service_tier"),
    ],
    RESPONSES: [
        ({"tools": [{**MCP, "server_url": "https://evil.example/", "authorization": "t"}]}, "tools[0]"),
        ({"tools": [{**MCP, "connector_id": "connector_gmail", "authorization": "t"}]}, "tools[0]"),
        ({"tools": [FUNCTION[RESPONSES], {"type": "image_generation", "model": "gpt-image-9"}]}, "tools[1]"),
        ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, "tools[0]"),
        ({"tools": [{**FUNCTION[RESPONSES], "Type": "code_interpreter"}]}, "tools[0]"),
        ({"tools": [{"type": "namespace", "name": "n", "description": "d", "tools": [MCP]}]}, "tools[0].tools[0]"),
        ({"input": [{"type": "additional_tools", "tools": [MCP]}]}, "input[0].tools[0]"),
        (
            {"input": [{"role": "user", "content": "x"}, {"Type": "additional_tools", "tools": [MCP]}]},
            "input[1].tools[0]",
        ),
        ({"service_tier": "priority"}, "service_tier"),
    ],
    MESSAGES: [
        ({"mcp_servers": [{"type": "url", "url": "https://evil.example/", "name": "e"}]}, "mcp_servers[0]"),
        ({"tools": [FUNCTION[MESSAGES], {"type": "code_execution_20250825", "name": "code_execution"}]}, "tools[1]"),
        ({"container": {"skills": [{"type": "anthropic", "skill_id": "pdf"}]}}, "container.skills"),
        ({"speed": "fast"}, "speed"),
    ],
    GEMINI: [
        ({"tools": [FUNCTION[GEMINI], {"codeExecution": {}}]}, "tools[1].codeExecution"),
        ({"tools": [{"google_maps": {}}]}, "tools[0].google_maps"),
        (
            {"tools": [{"mcpServers": [{"name": "e", "streamableHttpTransport": {"url": "https://evil.example/"}}]}]},
            "tools[0].mcpServers",
        ),
        ({"serviceTier": "SERVICE_TIER_PRIORITY"}, "serviceTier"),
    ],
}
PASSED: dict[str, list[dict[str, Any]]] = {
    CHAT: [{"web_search_options": {}}, {"tools": [FUNCTION[CHAT]], "service_tier": "flex"}, {"service_tier": "auto"}],
    RESPONSES: [
        {"tools": [FUNCTION[RESPONSES], {"type": "web_search_preview_2025_03_11"}], "service_tier": "flex"},
        {"tools": [{**MCP, "server_url": "https://mcp.example.com/sse"}]},
        {"tools": [{"type": "image_generation", "model": "gpt-image-1-mini"}, {"type": "image_generation"}]},
        {"tools": [{"type": "local_shell"}, {"type": "apply_patch"}]},
    ],
    MESSAGES: [
        {"tools": [{"type": "web_search_20260318", "name": "web_search"}, {"type": "bash_20250124", "name": "bash"}]},
        {"mcp_servers": [{"type": "url", "url": "https://mcp.example.com/sse", "name": "e"}]},
        {"service_tier": "standard_only", "speed": "standard"},
    ],
    GEMINI: [{"tools": [{"googleSearch": {}}, {"google_search_retrieval": {}}]}, {"service_tier": "flex"}],
}


@pytest.fixture(scope="module")
def limited_harness() -> Iterator[PairHarness]:
    with pair_harness(server_tools=ALLOWED, service_tiers=["flex"]) as made:
        yield made


@pytest.fixture
def limited(limited_harness: PairHarness) -> Iterator[PairHarness]:
    limited_harness.reset()
    yield limited_harness
    limited_harness.reset()


def body(harness: PairHarness, pair: ProtocolPair, more: dict[str, Any]) -> dict[str, Any]:
    named = {} if pair.client == GEMINI else {"model": harness.model(pair), "stream": pair.stream}
    limit = {"max_tokens": 100} if pair.client == MESSAGES else {}
    return {**QUESTION[pair.client], **named, **limit, **more}


def anything(harness: PairHarness, pair: ProtocolPair) -> None:
    """Answer whatever is asked: what is passed on is the caller's own."""
    harness.upstream.default = FINE.scenario(pair.upstream, stream=pair.stream)


@pytest.mark.fidelity(107)
@pytest.mark.parametrize("pair", SAME)
def test_what_the_operator_has_not_allowed_is_refused_by_name(limited: PairHarness, pair: ProtocolPair) -> None:
    """Tools, connectors, servers and models of a caller's choice, and tiers: a 400 that says where, nothing sent."""
    anything(limited, pair)
    for more, path in REFUSED[pair.client]:
        answer = limited.post(pair, body(limited, pair, more))
        assert answer.status_code == 400, (more, answer.text)
        assert path in answer.text
        assert "not allowed at this upstream" in answer.text
        assert "authorization" not in answer.text
    assert limited.upstream.requests == []


@pytest.mark.fidelity(107)
@pytest.mark.parametrize("pair", SAME)
def test_what_the_operator_has_allowed_passes(limited: PairHarness, pair: ProtocolPair) -> None:
    """Functions and what the caller runs always do; the rest as the patterns say, in every version's name."""
    anything(limited, pair)
    for more in PASSED[pair.client]:
        answer = limited.post(pair, body(limited, pair, more))
        assert answer.status_code == 200, (more, answer.text)


@pytest.mark.fidelity(107)
@pytest.mark.parametrize("pair", SAME)
def test_an_operators_key_allows_all_by_default(harness: PairHarness, pair: ProtocolPair) -> None:
    """Without the setting every tool and tier passes, as before."""
    anything(harness, pair)
    for more, _ in REFUSED[pair.client]:
        answer = harness.post(pair, body(harness, pair, more))
        assert answer.status_code == 200, (more, answer.text)


@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=GEMINI))
def test_what_is_translated_is_held_to_the_same(pair: ProtocolPair) -> None:
    """The rule is the upstream's, whatever its caller speaks."""
    with pair_harness(server_tools=[], service_tiers=[]) as closed:
        anything(closed, pair)
        search = {"tools": [{"type": "web_search_20260318", "name": "web_search"}]}
        answer = closed.post(pair, body(closed, pair, search))
        assert answer.status_code == 400
        assert "'web_search' is not allowed" in answer.text
        assert closed.post(pair, body(closed, pair, {"tools": [FUNCTION[MESSAGES]]})).status_code == 200
