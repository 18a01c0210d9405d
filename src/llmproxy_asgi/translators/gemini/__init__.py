"""Google's generateContent protocol, both halves."""

from llmproxy_asgi.translators.base import Translator
from llmproxy_asgi.translators.gemini.families import GEMINI_FAMILIES, capabilities_of
from llmproxy_asgi.translators.gemini.inbound import GeminiInbound
from llmproxy_asgi.translators.gemini.listing import encode_count
from llmproxy_asgi.translators.gemini.outbound import GeminiOutbound
from llmproxy_asgi.translators.gemini.schema import PROTOCOL

TRANSLATOR = Translator(protocol=PROTOCOL, inbound=GeminiInbound(), outbound=GeminiOutbound())

__all__ = ["GEMINI_FAMILIES", "TRANSLATOR", "capabilities_of", "encode_count"]
