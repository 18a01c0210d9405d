"""Capabilities of Gemini models by family, from Google's documentation and public reports as of autumn 2026.

Patterns are matched in order, so that names with vendors' prefixes and dates
(`models/gemini-2.5-flash-preview-09-2026`, `google/gemini-3-pro`) match their family too.
"""

from fnmatch import fnmatchcase
from functools import lru_cache

from msgspec.structs import replace

from llmproxy_asgi.capabilities import Capabilities

_DEFAULT = Capabilities(
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
_GEMINI_3 = replace(_DEFAULT, max_output_tokens=65_536)
_GEMINI_3_PRO = replace(_GEMINI_3, efforts=("low", "high"))
_GEMINI_3_0 = replace(_GEMINI_3, efforts=("minimal", "low", "medium", "high"))
# Up to 2.5, tools with `responseMimeType: application/json` are refused (Google's documentation of structured outputs,
# and its error `Function calling with a response mime type: 'application/json' is unsupported`); 3 supports both.
# Functions with Google's own tools are refused there too (`Tool use with function calling is unsupported`).
_GEMINI_2_5 = replace(
    _DEFAULT,
    format_with_tools=False,
    mixed_tools=False,
    thinking="budget",
    thinking_off=True,
    max_output_tokens=65_536,
    max_thinking_budget=24_576,
    tool_result_media=False,
)
_GEMINI_2_5_PRO = replace(_GEMINI_2_5, thinking_off=False, min_thinking_budget=128, max_thinking_budget=32_768)
_GEMINI_2_5_LITE = replace(_GEMINI_2_5, min_thinking_budget=512)
_BEFORE_2_5 = replace(_GEMINI_2_5, efforts=(), max_thinking_budget=None, max_output_tokens=8_192)
_IMAGES_2_5 = replace(_GEMINI_2_5, efforts=(), max_thinking_budget=None, tools=False, max_output_tokens=32_768)

GEMINI_FAMILIES: tuple[tuple[str, Capabilities], ...] = (
    ("*gemini-2.5-*image*", _IMAGES_2_5),
    ("*gemini-2.5-flash-lite*", _GEMINI_2_5_LITE),
    ("*gemini-2.5-pro*", _GEMINI_2_5_PRO),
    ("*gemini-2.5-*", _GEMINI_2_5),
    ("*gemini-2.0-*", _BEFORE_2_5),
    ("*gemini-1.*", _BEFORE_2_5),
    ("*gemini-3-pro*", _GEMINI_3_PRO),
    ("*gemini-3-*", _GEMINI_3_0),
    ("*gemini-3*", _GEMINI_3),
    ("*gemma*", replace(_BEFORE_2_5, system_midway=False)),
    ("*gemini-flash-lite-latest*", _GEMINI_3),
    ("*gemini*", _DEFAULT),
)
"""Pattern to capabilities; the first match is used."""


@lru_cache(maxsize=1024)
def capabilities_of(model: str) -> Capabilities:
    """Return a model's capabilities by its name; those of the latest Gemini for an unknown model."""
    name = model.lower()
    return next((found for pattern, found in GEMINI_FAMILIES if fnmatchcase(name, pattern)), _DEFAULT)
