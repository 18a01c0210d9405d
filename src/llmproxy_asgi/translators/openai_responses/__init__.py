"""OpenAI Responses, and what compatible servers make of it."""

from llmproxy_asgi.translators.base import Translator
from llmproxy_asgi.translators.openai_responses.inbound import ResponsesInbound
from llmproxy_asgi.translators.openai_responses.outbound import ResponsesOutbound
from llmproxy_asgi.translators.openai_responses.words import PROTOCOL

TRANSLATOR = Translator(PROTOCOL, ResponsesInbound(), ResponsesOutbound())

__all__ = ["TRANSLATOR"]
