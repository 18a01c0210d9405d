"""OpenAI Chat Completions and compatible servers."""

from llmproxy_asgi.translators.base import Translator
from llmproxy_asgi.translators.openai_chat.inbound import ChatInbound
from llmproxy_asgi.translators.openai_chat.mappings import PROTOCOL
from llmproxy_asgi.translators.openai_chat.outbound import ChatOutbound

TRANSLATOR = Translator(PROTOCOL, ChatInbound(), ChatOutbound())

__all__ = ["TRANSLATOR"]
