"""OpenAI's legacy Completions: a prompt in, its continuation out.

Served over any upstream that holds conversations, where a prompt becomes a user's message; several prompts are as many
calls. What only a model that continues text can do (token ids, `echo`, `suffix`, `best_of`, `logprobs`) is refused
there. An upstream that speaks this protocol gets a request as it came, and nobody else's: a conversation is no prompt.

Source: the types of the openai Python SDK 3.52.0 (read 2026-11-21).
"""

from llmproxy_asgi.translators.base import Translator
from llmproxy_asgi.translators.openai_completions.inbound import CompletionsInbound
from llmproxy_asgi.translators.openai_completions.outbound import CompletionsOutbound
from llmproxy_asgi.translators.openai_completions.request_decoder import PROTOCOL

TRANSLATOR = Translator(PROTOCOL, CompletionsInbound(), CompletionsOutbound())

__all__ = ["TRANSLATOR"]
