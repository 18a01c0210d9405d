"""OpenAI's legacy Completions: a prompt in, its continuation out.

Served over any upstream with a conversation protocol, where a prompt becomes a user message; each prompt is a call of
its own. What only a text completion model supports (token ids, `echo`, `suffix`, `best_of`, `logprobs`) is refused
there. An upstream of this protocol gets only requests of this protocol, unchanged: a conversation is not a prompt.

Source: the types of the openai Python SDK 3.52.0 (read 2026-11-21).
"""

from llmproxy_asgi.translators.base import Translator
from llmproxy_asgi.translators.openai_completions.inbound import CompletionsInbound
from llmproxy_asgi.translators.openai_completions.options import PROTOCOL
from llmproxy_asgi.translators.openai_completions.outbound import CompletionsOutbound

TRANSLATOR = Translator(PROTOCOL, CompletionsInbound(), CompletionsOutbound())

__all__ = ["TRANSLATOR"]
