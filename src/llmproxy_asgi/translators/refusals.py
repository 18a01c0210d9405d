"""The refusals of what an upstream or its model cannot take: one wording for each kind, whatever the protocols.

Every message has the form `<what is wrong> (<field>): <what would be right>.` Encoders give the field its common name;
`in_callers_terms` puts the name of the caller's protocol in its place. A model is called what the caller called it.
"""

from collections.abc import Mapping

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import Unsupported

_MOST = 64
"""Characters shown of a text that a caller sent."""
_STATELESS = {
    "background": "wait for the response",
    "prompt": "send the messages of the prompt",
}
"""What to send instead of a field that refers to stored state; for every other one, the whole conversation."""


def refusal(problem: str, param: str, instead: str) -> Unsupported:
    """Return the refusal of a field: what is wrong with it, and what would be right."""
    return Unsupported(f"{problem} ({param}): {instead}.", param=param)


def in_callers_terms(error: Unsupported, spelling: Mapping[str, str]) -> Unsupported:
    """Name the field of a refusal as the caller's protocol does.

    Args:
        error: Made by an encoder, which knows fields by their common names.
        spelling: See `Inbound.spelling`.
    """
    common = error.param
    if common is not None and common in spelling:
        error.param = spelling[common]
        error.message = error.message.replace(f" ({common}): ", f" ({error.param}): ", 1)
        error.args = (error.message,)
    return error


# ── input ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def unsupported_input(model: str, kind: str) -> Unsupported:
    """Return the refusal of an image, audio, a document or video for a model that takes none."""
    return refusal(f"{_the(model)} does not support {kind} input", "messages", "leave it out")


def unsupported_format(model: str, kind: str, formats: str) -> Unsupported:
    """Return the refusal of input of a kind that the model takes, in a format that it does not take."""
    return refusal(f"{_the(model)} does not support {kind} input in this format", "messages", f"send {formats}")


def unsupported_url(model: str, kind: str) -> Unsupported:
    """Return the refusal of input of a kind that the model takes, by a URL that the upstream does not fetch."""
    return refusal(f"{_the(model)} does not support {kind} input by this URL", "messages", "send the data itself")


def unsupported_part(kind: str) -> Unsupported:
    """Return the refusal of a part that only another vendor can read, in a message whose every word counts."""
    return refusal(f"This upstream does not support parts of type {kind[:_MOST]!r}", "messages", "leave it out")


def undecodable_document() -> Unsupported:
    """Return the refusal of a text document whose base64 is broken."""
    return refusal("The base64 data of a document cannot be decoded", "messages", "send valid base64")


def prefill(model: str) -> Unsupported:
    """Return the refusal of a trailing assistant message, for a model that would not continue it."""
    return refusal(
        f"{_the(model)} does not continue a trailing assistant message", "messages", "end with a user message"
    )


def unanswered_calls() -> Unsupported:
    """Return the refusal of a conversation that ends with tool calls."""
    return refusal("The last message holds tool calls without results", "messages", "send the tool results")


def no_messages() -> Unsupported:
    """Return the refusal of a conversation with nothing to respond to."""
    return refusal("The conversation holds no message to respond to", "messages", "send a user message")


def token_ids(param: str) -> Unsupported:
    """Return the refusal of a prompt or an input of token ids, for an upstream with another tokenizer."""
    return refusal("This upstream does not support token ids as input", param, "send the text")


def empty_prompt(param: str) -> Unsupported:
    """Return the refusal of an empty prompt, for a model that takes conversations."""
    return refusal("This upstream does not support an empty prompt", param, "send a text")


def single_prompt() -> Unsupported:
    """Return the refusal of several prompts, for an upstream that takes one in a call."""
    return refusal("This upstream does not support several prompts in one call", "prompt", "send one")


def completions_only(param: str) -> Unsupported:
    """Return the refusal of a field of legacy completions, for an upstream that takes conversations."""
    return refusal(f"Only upstreams with legacy completions support {param!r}", param, "leave it out")


def compaction() -> Unsupported:
    """Return the refusal of a request to compact the conversation."""
    return refusal("This upstream does not support compaction", "messages", "leave out 'compaction_trigger'")


def compacted_elsewhere(kind: str) -> Unsupported:
    """Return the refusal of the state of a conversation that another vendor compacted."""
    return refusal(
        f"A part of type {kind[:_MOST]!r} can only be sent to the vendor that made it",
        "messages",
        "send the messages that were compacted",
    )


# ── output ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def unsupported_output(model: str, kind: str) -> Unsupported:
    """Return the refusal of a response as image or audio, of a model that responds in other kinds only."""
    return refusal(f"{_the(model)} does not support {kind[:_MOST]} output", "modalities", "ask for text")


def empty_response(model: str, param: str = "max_tokens") -> Unsupported:
    """Return the refusal of a limit of no tokens: a way to fill a cache, for the vendor that has it."""
    return refusal(f"{_the(model)} does not support a response without tokens", param, "send at least 1")


def single_candidate(model: str) -> Unsupported:
    """Return the refusal of more than one candidate, of an upstream that makes one."""
    return refusal(f"{_the(model)} does not support several candidates", "n", "send 1")


def response_schema(model: str, why: str) -> Unsupported:
    """Return the refusal of a schema of the response that the vendor's format cannot express."""
    return refusal(
        f"{_the(model)} does not support this schema of the response", "response_format", f"change it, because {why}"
    )


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def no_tools(model: str) -> Unsupported:
    """Return the refusal of tools, for a model that calls none."""
    return refusal(f"{_the(model)} does not support tools", "tools", "leave them out")


def mixed_tools(model: str) -> Unsupported:
    """Return the refusal of functions beside server tools, for a model that takes one of the two kinds."""
    return refusal(
        f"{_the(model)} does not support functions and server tools in one request", "tools", "send one of the two"
    )


def server_tool_unavailable(tool: ir.Tool) -> Unsupported:
    """Return the refusal of a server tool that this upstream does not have."""
    return refusal(f"This upstream does not have the server tool {native_name(tool)!r}", "tools", "leave it out")


def tool_schema(tool: ir.Tool, why: str) -> Unsupported:
    """Return the refusal of a tool's parameters that the vendor's format cannot express."""
    return refusal(f"This upstream does not support the schema of the tool {native_name(tool)!r}", "tools", why)


def image_results(model: str, tool: ir.Tool) -> Unsupported:
    """Return the refusal of a tool whose results are images, for a model that takes none."""
    return refusal(
        f"{_the(model)} does not support image input, and the tool {tool.name[:100]!r} returns images",
        "tools",
        "leave it out",
    )


def programmatic_tool(tool: ir.Tool) -> Unsupported:
    """Return the refusal of a tool that only code run by another vendor may call."""
    return refusal(
        f"This upstream does not support programmatic calls, and the tool {tool.name[:_MOST]!r} allows no others",
        "allowed_callers",
        "allow 'direct'",
    )


def undeclared_choice(name: str) -> Unsupported:
    """Return the refusal of a choice of a tool that the request does not declare."""
    return refusal(f"The tool {name[:_MOST]!r} is chosen but not declared", "tool_choice", "name one of the tools")


def not_allowed(what: str, path: str, setting: str) -> Unsupported:
    """Return the refusal of an option that costs extra, where the operator did not allow it."""
    return refusal(f"The {what} is not allowed at this upstream", path, f"the operator can allow it in {setting}")


# ── state that a vendor stores ───────────────────────────────────────────────────────────────────────────────────────


def no_stored_responses(param: str = "previous_response_id") -> Unsupported:
    """Return the refusal of a reference to state that the upstream would have to store between calls."""
    instead = _STATELESS.get(param, "send the whole conversation")
    return refusal("This upstream stores no responses between calls", param, instead)


def vendor_reference(path: str) -> Unsupported:
    """Return the refusal of a reference to an object at the upstream: any caller of the credential could use it."""
    return refusal("Objects stored at the upstream are not shared between callers", path, "send the content itself")


def foreign_reference(param: str = "messages") -> Unsupported:
    """Return the refusal of a reference to an object that another vendor stores."""
    return refusal("This upstream cannot read files or objects of another vendor", param, "send the content itself")


def native_name(tool: ir.Tool) -> str:
    """Return what the caller calls a server tool: its own name or kind, not the common one."""
    for native in tool.extras.values():
        if not isinstance(native, dict):
            continue
        named = native.get("name") or native.get("type") or (next(iter(native)) if len(native) == 1 else None)
        if isinstance(named, str):
            return named[:_MOST]
    return tool.name[:_MOST]


def _the(model: str) -> str:
    return f"Model {model[:_MOST]!r}" if model else "This model"
