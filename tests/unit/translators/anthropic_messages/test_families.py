"""Capabilities of Claude's families."""

from fnmatch import fnmatchcase

import pytest

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.translators.anthropic_messages import CLAUDE_FAMILIES, capabilities_of


@pytest.mark.parametrize(
    ("model", "thinking", "off", "forced", "sampling", "prefill", "midway"),
    [
        ("claude-3-5-haiku-20241022", "budget", True, True, "any", True, False),
        ("claude-3-7-sonnet-latest", "budget", True, True, "any", True, False),
        ("claude-sonnet-4-20250514", "budget", True, True, "any", True, False),
        ("eu.anthropic.claude-opus-4-5-20251101-v1:0", "budget", True, True, "any", True, False),
        ("anthropic/claude-opus-4.6", "both", True, True, "any", False, False),
        ("claude-opus-4-7", "effort", False, True, "default", False, False),
        ("claude-opus-4-8", "effort", False, True, "default", False, True),
        ("claude-sonnet-5", "effort", True, True, "default", False, True),
        ("claude-opus-5-20260801", "effort", True, True, "default", False, True),
        ("claude-opus-5-5", "effort", False, False, "default", False, True),
        ("claude-fable-5.1", "effort", False, False, "default", False, True),
        ("claude-tomorrow-9", "effort", True, True, "default", False, True),
    ],
)
def test_each_family_has_its_row(
    model: str, thinking: str, sampling: str, *, off: bool, forced: bool, prefill: bool, midway: bool
) -> None:
    """Match a name's family with any vendor prefix, region or date."""
    found = capabilities_of(model)
    assert (found.thinking, found.thinking_off, found.sampling) == (thinking, off, sampling)
    assert (found.forced_tool_choice, found.prefill, found.system_midway) == (forced, prefill, midway)
    assert [found.custom_tools, found.json_mode, found.audio] == [False] * 3


def test_models_that_do_not_think_have_no_efforts() -> None:
    """Give models without thinking no efforts."""
    assert capabilities_of("claude-3-opus-20240229").efforts == ()
    assert capabilities_of("claude-3-7-sonnet-20250219").efforts != ()


def test_other_models_have_the_defaults() -> None:
    """Give models other than Claude the default capabilities."""
    assert capabilities_of("deepseek-chat") == Capabilities()


def test_every_row_can_be_reached() -> None:
    """Let no pattern hide a later one."""
    reached = {
        next(pattern for pattern, _ in CLAUDE_FAMILIES if _matches(pattern, _example(wanted)))
        for wanted, _ in CLAUDE_FAMILIES
    }
    assert reached == {pattern for pattern, _ in CLAUDE_FAMILIES}


def _example(pattern: str) -> str:
    return pattern.replace("claude-*", "claude-x").replace("*", "")


def _matches(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern)
