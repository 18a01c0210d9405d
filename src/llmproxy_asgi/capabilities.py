"""What a model supports, as data.

The catalog fills one `Capabilities` per target (built-in knowledge, then the configuration's overrides) and the
outbound translators obey it. Nothing here is code that decides; unknown models are taken to be able to do everything.
"""

from typing import Literal

import msgspec

ANY = "*"
"""The pattern that matches everything."""

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORTS: tuple[Effort, ...] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""All reasoning efforts, from least to most."""

Sampling = Literal["any", "unless_thinking", "default", "none"]
ThinkingControl = Literal["effort", "budget", "both"]


class Capabilities(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one model at one upstream takes. Every field may be overridden in the configuration."""

    tools: bool = True
    parallel_tools: bool = True
    tool_result_media: bool = True
    """Whether a tool's result may hold images and other media, where the protocol has a place for them."""
    images: bool = True
    documents: bool = True
    audio: bool = True
    structured_output: bool = True
    """Whether the upstream itself supports JSON schemas for its answers."""
    json_mode: bool = True
    format_with_tools: bool = True
    """Whether the upstream itself supports answers in JSON while tools are offered."""
    custom_tools: bool = True
    """Free-text tools (OpenAI's `custom`)."""
    max_output_tokens: int | None = None
    """The model's maximum; None: unknown."""
    default_max_output_tokens: int | None = None
    """Sent where the protocol demands a number and the caller gave none; None: the protocol's own default."""
    sampling: Sampling = "any"
    """Whether temperature, top_p, top_k, penalties and log probabilities are taken: any value, any where the request
    asks for no thinking (effort `none`), default values only (so: left out), or not at all. Only OpenAI's models refuse
    more than the first three."""
    stops: bool = True
    """Whether stop sequences are taken, where the protocol has a field for them."""
    verbosity: bool = True
    """Whether the answer's verbosity can be set, where the protocol has a field for it."""
    efforts: tuple[Effort, ...] = EFFORTS
    """The efforts that the model accepts, from least to most; empty: no effort control."""
    thinking: ThinkingControl = "effort"
    """How thinking is requested where the protocol supports both."""
    thinking_off: bool = True
    """Whether thinking can be switched off."""
    max_thinking_budget: int | None = None
    min_thinking_budget: int | None = None
    """The minimum of thinking tokens while thinking is on; None: no minimum."""
    mixed_tools: bool = True
    """Whether functions and tools that the upstream runs may be offered together."""
    allowed_tools: bool = True
    """Whether a choice among some of the tools is supported, where the protocol has a field for it."""
    forced_tool_choice: bool = True
    forced_tool_choice_with_thinking: bool = True
    prefill: bool = True
    """Whether a trailing assistant message is continued."""
    system_midway: bool = True
    """Whether a system message may follow other messages."""
    several_system: bool = True
    """Whether several system messages may begin the conversation, and one may be its only message."""
    text_parts: bool = True
    """Whether text may be sent as parts (Chat); if not, text without media beside it is sent as one string."""
    developer_role: bool = True
    """Whether `developer` is understood beside `system` (OpenAI's own models)."""
    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    stream_usage: bool = True
    """Whether `stream_options: {include_usage: true}` is understood."""
    cache_marks: bool = True
    strict_tools: bool = True
    """Whether `strict` is understood on tools."""
    reasoning_content: bool = False
    """Whether readable reasoning may be sent back as `reasoning_content`."""
    needs_reasoning_content: bool = False
    """Whether a model's turn with tool calls is refused without its `reasoning_content`."""
    stored: bool = False
    """Whether the vendor may store answers, and requests may refer to stored answers and files: only where one
    principal owns the credential, or its operator allows all who share it to read each other's
    data."""

    server_tools: tuple[str, ...] = (ANY,)
    """The hosted tools that requests may use, as patterns: `web_search`, `mcp/https://mcp.example.com/*`."""
    service_tiers: tuple[str, ...] = (ANY,)
    """The service tiers that requests may use beside the standard one."""


DEFAULT = Capabilities()
