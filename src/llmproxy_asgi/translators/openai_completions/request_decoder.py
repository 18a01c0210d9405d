"""A request for completions read as conversations: one of a single user message for each prompt.

No limit on the answer's length is made up where the caller names none. The vendor's own default, 16 tokens, is meant
for models that continue text at once; those that think first would have nothing left to say.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.fields import Node, missing
from llmproxy_asgi.translators.openai.options import boolean, integer, number, others, stops, string

PROTOCOL: Final = "openai-completions"

_MOST_CANDIDATES = 128
_KNOWN = frozenset(
    {
        "model",
        "prompt",
        "suffix",
        "max_tokens",
        "temperature",
        "top_p",
        "n",
        "stream",
        "stream_options",
        "logprobs",
        "echo",
        "stop",
        "presence_penalty",
        "frequency_penalty",
        "best_of",
        "logit_bias",
        "seed",
        "user",
    }
)

Raw = Mapping[str, msgspec.Raw]


def prompts_of(raw: Raw) -> list[Node]:
    """The prompts, each a text or a list of token ids; one at least.

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
    """A request for each prompt."""
    raw = inbound_request.raw
    unknown = others(raw, _KNOWN)
    texts = [_text(prompt) for prompt in prompts_of(raw)]
    candidates = integer(raw, "n", low=1, high=_MOST_CANDIDATES) or 1
    _refuse_what_only_completions_have(raw, candidates)
    shared = ir.Request(
        protocol=PROTOCOL,
        model=inbound_request.model,
        messages=(),
        sampling=_sampling(raw),
        max_output_tokens=_max_tokens(raw, inbound_request.model),
        stop=stops(raw),
        candidates=candidates,
        stream=inbound_request.stream,
        include_usage=inbound_request.include_usage,
        end_user=string(raw, "user"),
        extras={PROTOCOL: unknown} if unknown else ir.EMPTY,
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


def _sampling(raw: Raw) -> ir.Sampling:
    bias = Node.of(raw, "logit_bias")
    return ir.Sampling(
        temperature=number(raw, "temperature", 0, 2),
        top_p=number(raw, "top_p", 0, 1),
        seed=integer(raw, "seed"),
        frequency_penalty=number(raw, "frequency_penalty", -2, 2),
        presence_penalty=number(raw, "presence_penalty", -2, 2),
        logit_bias={key: node.number(-100, 100) for key, node in bias.items()} if bias else None,
    )


def _max_tokens(raw: Raw, model: str) -> int | None:
    tokens = integer(raw, "max_tokens", low=0)
    if tokens == 0:
        raise refusals.empty_response(model)
    return tokens
