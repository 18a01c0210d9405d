"""A request for completions read as conversations: one of a single user message for each prompt.

No limit on the answer's length is made up where the caller names none. The vendor's own default, 16 tokens, is meant
for models that continue text at once; those that think first would have nothing left to say.
"""

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.codec.options import Raw
from llmproxy_asgi.translators.fields import Node, missing
from llmproxy_asgi.translators.openai.fields import boolean, integer, string
from llmproxy_asgi.translators.openai_completions.options import OPTIONS, PROTOCOL


def prompts_of(raw: Raw) -> list[Node]:
    """Return the prompts, each a text or a list of token ids; at least one.

    Raises:
        BadRequest: There is none, or it is of no such type.
    """
    prompt = Node.of(raw, "prompt")
    if prompt is None:
        raise missing("prompt")
    if type(prompt.value) is str:
        return [prompt]
    if type(prompt.value) is not list:
        prompt.refuse("a string or an array")
    entries = prompt.array()
    if not entries:
        prompt.fail("must hold at least one prompt.", code="empty_array")
    if type(entries[0].value) is int:
        _check_tokens(prompt)
        return [prompt]
    for entry in entries:
        if type(entry.value) is list:
            _check_tokens(entry)
        else:
            entry.text()
    return entries


def decode_each(inbound_request: InboundRequest) -> tuple[ir.Request, ...]:
    """Return a request for each prompt."""
    raw = inbound_request.raw
    texts = [_text(prompt) for prompt in prompts_of(raw)]
    options = OPTIONS.decode(raw)
    _refuse_what_only_completions_have(raw, options.get("candidates", 1))
    if options.get("max_output_tokens") == 0:
        raise refusals.empty_response(inbound_request.model)
    shared = ir.Request(
        protocol=PROTOCOL,
        model=inbound_request.model,
        messages=(),
        stream=inbound_request.stream,
        include_usage=inbound_request.include_usage,
        **options,
    )
    turns = (ir.Message(role="user", parts=(ir.Text(text=text),)) for text in texts)
    return tuple(msgspec.structs.replace(shared, messages=(turn,)) for turn in turns)


def _check_tokens(node: Node) -> None:
    if not all(type(token) is int for token in node.value):
        node.refuse("a string or an array of token ids")


def _text(prompt: Node) -> str:
    if type(prompt.value) is list:
        raise refusals.token_ids("prompt")
    if not prompt.value:
        raise refusals.empty_prompt(prompt.path)
    return prompt.text()


def _refuse_what_only_completions_have(raw: Raw, candidates: int) -> None:
    best_of = integer(raw, "best_of", low=1)
    asked = {
        "echo": boolean(raw, "echo"),
        "suffix": string(raw, "suffix"),
        "best_of": best_of is not None and best_of > candidates,
        "logprobs": integer(raw, "logprobs", low=0) is not None,
    }
    for param, wanted in asked.items():
        if wanted:
            raise refusals.completions_only(param)
