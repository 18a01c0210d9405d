"""Capabilities of Gemini models by name."""

import pytest

from llmproxy_asgi.translators.gemini import capabilities_of


@pytest.mark.parametrize(
    ("name", "thinking", "off", "least", "most"),
    [
        ("gemini-2.5-pro", "budget", False, 128, 32_768),
        ("models/gemini-2.5-flash-preview-09-2026", "budget", True, None, 24_576),
        ("google/Gemini-2.5-Flash-Lite", "budget", True, 512, 24_576),
        ("gemini-3-pro-preview", "effort", False, None, None),
        ("gemini-3.5-flash", "effort", False, None, None),
        ("something-new", "effort", False, None, None),
    ],
)
def test_families(name: str, thinking: str, off: bool, least: int | None, most: int | None) -> None:
    """Give 2.5 a budget within its own limits, 3 and later a level; treat unknown models as new."""
    found = capabilities_of(name)
    assert (found.thinking, found.thinking_off) == (thinking, off)
    assert (found.min_thinking_budget, found.max_thinking_budget) == (least, most)


def test_older_models_do_not_think() -> None:
    """Send 2.0, 1.5 and the image models of 2.5 no thinking options, and no media in results."""
    for name in ("gemini-2.0-flash", "gemini-1.5-pro", "gemini-2.5-flash-image"):
        assert capabilities_of(name).efforts == ()
    assert capabilities_of("gemini-3-pro").tool_result_media
    assert not capabilities_of("gemini-2.5-pro").tool_result_media
    assert capabilities_of("gemini-3-pro").efforts == ("low", "high")
