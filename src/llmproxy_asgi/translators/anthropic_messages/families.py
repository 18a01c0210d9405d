"""What Claude models take, by family: Anthropic's documentation and public reports as of autumn 2026, as data.

Patterns are matched in their order against a name in which dots are dashes, so that vendors' prefixes, regions, dates
and other spellings (`anthropic.claude-opus-4-5-v1:0`, `claude-opus-4.5`) find their family too.
"""

from fnmatch import fnmatchcase
from functools import lru_cache

from msgspec.structs import replace

from llmproxy_asgi.capabilities import Capabilities

_NEWEST = Capabilities(
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
_FIVE = replace(_NEWEST, thinking_off=True, forced_tool_choice=True)
# Reports differ on whether 4.7 and 4.8 take `disabled`; they do not think unless asked, so it is never sent.
_FOUR_8 = replace(_FIVE, thinking_off=False)
_FOUR_7 = replace(_FOUR_8, system_midway=False)
_FOUR_6 = replace(_FIVE, sampling="any", efforts=("low", "medium", "high", "max"), thinking="both", system_midway=False)
_BUDGETS = Capabilities(
    audio=False,
    custom_tools=False,
    json_mode=False,
    thinking="budget",
    forced_tool_choice_with_thinking=False,
    system_midway=False,
    developer_role=False,
    max_output_tokens=64_000,
)
_FOUR = replace(_BUDGETS, structured_output=False, strict_tools=False)
_WITHOUT_THINKING = replace(_FOUR, efforts=())

CLAUDE_FAMILIES: tuple[tuple[str, Capabilities], ...] = (
    ("*claude-opus-5-5*", _NEWEST),
    ("*claude-fable-5-1*", _NEWEST),
    ("*claude-3-7-*", _FOUR),
    ("*claude-3-5-*", replace(_WITHOUT_THINKING, max_output_tokens=8192)),
    ("*claude-3-*", replace(_WITHOUT_THINKING, max_output_tokens=4096)),
    ("*claude-opus-4-8*", _FOUR_8),
    ("*claude-*-4-8*", _FOUR_7),
    ("*claude-*-4-7*", _FOUR_7),
    ("*claude-*-4-6*", _FOUR_6),
    ("*claude-*-4-5*", _BUDGETS),
    ("*claude-opus-4-1*", replace(_BUDGETS, max_output_tokens=32_000)),
    ("*claude-opus-4*", replace(_FOUR, max_output_tokens=32_000)),
    ("*claude-*-4*", _FOUR),
    ("*claude-*-5*", _FIVE),
    ("*claude-fable*", _NEWEST),
    ("*claude*", _FIVE),
)
"""Pattern to capabilities; the first match counts."""


@lru_cache(maxsize=1024)
def capabilities_of(model: str) -> Capabilities:
    """What a model takes by its name; of one that is no Claude nothing is known."""
    name = model.lower().replace(".", "-")
    return next((found for pattern, found in CLAUDE_FAMILIES if fnmatchcase(name, pattern)), Capabilities())
