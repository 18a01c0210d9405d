"""Capabilities of Claude models by family, from Anthropic's documentation and public reports as of autumn 2026.

Patterns are matched in order against the name with dots replaced by dashes, so that names with vendors' prefixes,
regions, dates and other spellings (`anthropic.claude-opus-4-5-v1:0`, `claude-opus-4.5`) match their family too.
"""

from fnmatch import fnmatchcase
from functools import lru_cache

from msgspec.structs import replace

from llmproxy_asgi.capabilities import Capabilities

_LATEST = Capabilities(
    audio=False,
    custom_tools=False,
    json_mode=False,
    sampling="default",
    efforts=("low", "medium", "high", "xhigh", "max"),
    thinking="effort",
    thinking_off=False,
    forced_tool_choice=False,
    forced_tool_choice_with_thinking=False,
    prefill=False,
    developer_role=False,
)
_CLAUDE_5 = replace(_LATEST, thinking_off=True, forced_tool_choice=True)
# Reports differ on whether 4.7 and 4.8 accept `disabled`; they think only on request, so it is never sent.
_CLAUDE_4_8 = replace(_CLAUDE_5, thinking_off=False)
_CLAUDE_4_7 = replace(_CLAUDE_4_8, system_midway=False)
_CLAUDE_4_6 = replace(
    _CLAUDE_5, sampling="any", efforts=("low", "medium", "high", "max"), thinking="both", system_midway=False
)
_WITH_BUDGET = Capabilities(
    audio=False,
    custom_tools=False,
    json_mode=False,
    thinking="budget",
    forced_tool_choice_with_thinking=False,
    system_midway=False,
    developer_role=False,
    max_output_tokens=64_000,
)
_CLAUDE_4 = replace(_WITH_BUDGET, structured_output=False, strict_tools=False)
_WITHOUT_THINKING = replace(_CLAUDE_4, efforts=())

CLAUDE_FAMILIES: tuple[tuple[str, Capabilities], ...] = (
    ("*claude-opus-5-5*", _LATEST),
    ("*claude-fable-5-1*", _LATEST),
    ("*claude-3-7-*", _CLAUDE_4),
    ("*claude-3-5-*", replace(_WITHOUT_THINKING, max_output_tokens=8192)),
    ("*claude-3-*", replace(_WITHOUT_THINKING, max_output_tokens=4096)),
    ("*claude-opus-4-8*", _CLAUDE_4_8),
    ("*claude-*-4-8*", _CLAUDE_4_7),
    ("*claude-*-4-7*", _CLAUDE_4_7),
    ("*claude-*-4-6*", _CLAUDE_4_6),
    ("*claude-*-4-5*", _WITH_BUDGET),
    ("*claude-opus-4-1*", replace(_WITH_BUDGET, max_output_tokens=32_000)),
    ("*claude-opus-4*", replace(_CLAUDE_4, max_output_tokens=32_000)),
    ("*claude-*-4*", _CLAUDE_4),
    ("*claude-*-5*", _CLAUDE_5),
    ("*claude-fable*", _LATEST),
    ("*claude*", _CLAUDE_5),
)
"""Pattern to capabilities; the first match is used."""


@lru_cache(maxsize=1024)
def capabilities_of(model: str) -> Capabilities:
    """Return a model's capabilities by its name; the defaults for a model that is not Claude."""
    name = model.lower().replace(".", "-")
    return next((found for pattern, found in CLAUDE_FAMILIES if fnmatchcase(name, pattern)), Capabilities())
