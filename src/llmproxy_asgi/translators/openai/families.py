"""The capabilities of OpenAI's models by family, from its SDK's lists of models, documentation and public reports.

Read 2026-11-21 (openai 3.52.0); not tested on the vendor's own endpoint. Patterns are matched in order against a name
without the prefix of a fine-tune or another vendor (`ft:gpt-4o:org`, `openai/o3`). A GPT model without a pattern counts
as the newest kind; other unknown models have all capabilities.
"""

from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal

import msgspec
from msgspec.structs import replace

from llmproxy_asgi.capabilities import Capabilities, Effort

_TO_HIGH: tuple[Effort, ...] = ("low", "medium", "high")
_TO_XHIGH: tuple[Effort, ...] = (*_TO_HIGH, "xhigh")
_FROM_NONE: tuple[Effort, ...] = ("none", *_TO_HIGH)
_FROM_NONE_TO_XHIGH: tuple[Effort, ...] = (*_FROM_NONE, "xhigh")

# The newest models accept sampling options only without reasoning.
_NEWEST = Capabilities(
    audio=False,
    sampling="unless_thinking",
    stops=False,
    efforts=(*_FROM_NONE_TO_XHIGH, "max"),
    max_output_tokens=128_000,
)
_FIVE_2 = replace(_NEWEST, efforts=_FROM_NONE_TO_XHIGH, cache_marks=False)
_FIVE_1 = replace(_FIVE_2, efforts=_FROM_NONE)
_FIVE = replace(_FIVE_2, sampling="default", efforts=("minimal", "low", "medium", "high"), thinking_off=False)
_PRO = replace(_FIVE, efforts=("medium", "high", "xhigh"))
_CODEX = replace(_FIVE, efforts=_TO_HIGH)
_CHATTING = replace(_FIVE, efforts=("medium",), max_output_tokens=16_384)
"""The `-chat-latest` model of a family, which selects its effort itself."""

_O_SERIES = replace(
    _FIVE, efforts=_TO_HIGH, verbosity=False, custom_tools=False, parallel_tools=False, max_output_tokens=100_000
)
_O_WITHOUT_EYES = replace(_O_SERIES, images=False, documents=False)
_O1_FIRST = replace(
    _O_WITHOUT_EYES, efforts=(), tools=False, structured_output=False, json_mode=False, max_output_tokens=32_768
)

# Those that do not think.
_FOUR_1 = Capabilities(
    audio=False, efforts=(), verbosity=False, custom_tools=False, cache_marks=False, max_output_tokens=32_768
)
_FOUR_O = replace(_FOUR_1, max_output_tokens=16_384)
_FOUR_O_FIRST = replace(_FOUR_O, structured_output=False, max_output_tokens=4_096)
_LISTENING = replace(_FOUR_O, audio=True, images=False, documents=False, structured_output=False, json_mode=False)
_SEARCHING = replace(_FOUR_O, sampling="none", tools=False, images=False, documents=False)
_TURBO = replace(_FOUR_O_FIRST, documents=False, strict_tools=False)
_BLIND = replace(_TURBO, images=False)
_FOUR = replace(_BLIND, json_mode=False, max_output_tokens=8_192)

OPENAI_FAMILIES: tuple[tuple[str, Capabilities], ...] = (
    ("gpt-5-chat*", replace(_FOUR_O, verbosity=True)),
    ("gpt-5.*-chat*", _CHATTING),
    ("gpt-5-pro*", replace(_FIVE, efforts=("high",), max_output_tokens=272_000)),
    ("gpt-5.*-pro*", _PRO),
    ("gpt-5-codex*", _CODEX),
    ("gpt-5.1-codex-max*", replace(_CODEX, efforts=_TO_XHIGH)),
    ("gpt-5.1-codex*", _CODEX),
    ("gpt-5.*-codex*", replace(_CODEX, efforts=_TO_XHIGH)),
    ("gpt-5.1*", _FIVE_1),
    ("gpt-5.[2-5]*", _FIVE_2),
    ("gpt-5.*", _NEWEST),
    ("gpt-5*", _FIVE),
    ("codex-mini*", replace(_CODEX, max_output_tokens=100_000)),
    ("o1-mini*", replace(_O1_FIRST, max_output_tokens=65_536)),
    ("o1-preview*", _O1_FIRST),
    ("o3-mini*", _O_WITHOUT_EYES),
    ("o[0-9]*", _O_SERIES),
    ("computer-use-preview*", replace(_FOUR_O, max_output_tokens=1_024)),
    ("gpt-audio*", _LISTENING),
    ("gpt-4o*-audio*", _LISTENING),
    ("gpt-4o*-search*", _SEARCHING),
    ("gpt-4.1*", _FOUR_1),
    ("gpt-4o-2024-05-13*", _FOUR_O_FIRST),
    ("gpt-4o*", _FOUR_O),
    ("chatgpt-4o*", replace(_FOUR_O, tools=False)),
    ("gpt-4.5*", _FOUR_O),
    ("gpt-4-turbo-preview*", _BLIND),
    ("gpt-4-0125-preview*", _BLIND),
    ("gpt-4-1106-preview*", _BLIND),
    ("gpt-4-turbo*", _TURBO),
    ("gpt-4-vision*", _TURBO),
    ("gpt-4*", _FOUR),
    ("gpt-3.5*", _BLIND),
    ("gpt-*", _NEWEST),
)
"""Patterns with their capabilities; the first match counts."""

Only = Literal["openai-chat", "openai-responses"]

_ONLY: tuple[tuple[str, Only], ...] = (
    ("gpt-audio*", "openai-chat"),
    ("gpt-4o*-audio*", "openai-chat"),
    ("gpt-4o*-search*", "openai-chat"),
    ("gpt-*-pro*", "openai-responses"),
    ("gpt-*-codex*", "openai-responses"),
    ("codex-mini*", "openai-responses"),
    ("o[0-9]-pro*", "openai-responses"),
    ("o[0-9]*-deep-research*", "openai-responses"),
    ("computer-use-preview*", "openai-responses"),
)
"""Models that only one of the two conversation protocols serves."""


class Known(msgspec.Struct, frozen=True):
    """The known properties of a model."""

    capabilities: Capabilities
    only: Only | None
    """The only conversation protocol that serves it; None for both."""


@lru_cache(maxsize=1024)
def known(model: str) -> Known:
    """Return the known properties of a model by its name."""
    name = model.lower().removeprefix("ft:").rpartition("/")[2]
    capabilities = next((found for pattern, found in OPENAI_FAMILIES if fnmatchcase(name, pattern)), Capabilities())
    return Known(capabilities, next((only for pattern, only in _ONLY if fnmatchcase(name, pattern)), None))
