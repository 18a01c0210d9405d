"""What Gemini models take, by family: Google's documentation and public reports as of autumn 2026, as data.

Patterns are matched in their order, so that vendors' prefixes and dates (`models/gemini-2.5-flash-preview-09-2026`,
`google/gemini-3-pro`) find their family too.
"""

from fnmatch import fnmatchcase
from functools import lru_cache

from msgspec.structs import replace

from llmproxy_asgi.capabilities import Capabilities

_ANY = Capabilities(
    custom_tools=False,
    strict_tools=False,
    cache_marks=False,
    developer_role=False,
    system_midway=False,
    parallel_tools=True,
    efforts=("minimal", "low", "medium", "high", "xhigh"),
    thinking="effort",
    thinking_off=False,
)
_THREE = replace(_ANY, max_output_tokens=65_536)
_THREE_PRO = replace(_THREE, efforts=("low", "high"))
_THREE_FIRST = replace(_THREE, efforts=("minimal", "low", "medium", "high"))
# Up to 2.5 tools beside `responseMimeType: application/json` are refused (Google's documentation of structured outputs,
# and its words `Function calling with a response mime type: 'application/json' is unsupported`); from 3 on both go.
# Nor do functions go beside Google's own tools there (`Tool use with function calling is unsupported`).
_BUDGETS = replace(
    _ANY,
    format_with_tools=False,
    mixed_tools=False,
    thinking="budget",
    thinking_off=True,
    max_output_tokens=65_536,
    max_thinking_budget=24_576,
    tool_result_media=False,
)
_PRO = replace(_BUDGETS, thinking_off=False, min_thinking_budget=128, max_thinking_budget=32_768)
_LITE = replace(_BUDGETS, min_thinking_budget=512)
_BEFORE = replace(_BUDGETS, efforts=(), max_thinking_budget=None, max_output_tokens=8_192)
_PICTURES = replace(_BUDGETS, efforts=(), max_thinking_budget=None, tools=False, max_output_tokens=32_768)

GEMINI_FAMILIES: tuple[tuple[str, Capabilities], ...] = (
    ("*gemini-2.5-*image*", _PICTURES),
    ("*gemini-2.5-flash-lite*", _LITE),
    ("*gemini-2.5-pro*", _PRO),
    ("*gemini-2.5-*", _BUDGETS),
    ("*gemini-2.0-*", _BEFORE),
    ("*gemini-1.*", _BEFORE),
    ("*gemini-3-pro*", _THREE_PRO),
    ("*gemini-3-*", _THREE_FIRST),
    ("*gemini-3*", _THREE),
    ("*gemma*", replace(_BEFORE, system_midway=False)),
    ("*gemini-flash-lite-latest*", _THREE),
    ("*gemini*", _ANY),
)
"""Pattern to capabilities; the first match counts."""


@lru_cache(maxsize=1024)
def capabilities_of(model: str) -> Capabilities:
    """What a model takes by its name; one that is no Gemini is taken for a new one."""
    name = model.lower()
    return next((found for pattern, found in GEMINI_FAMILIES if fnmatchcase(name, pattern)), _ANY)
