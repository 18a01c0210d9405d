"""Anthropic's Messages protocol, both halves."""

from llmproxy_asgi.translators.anthropic_messages.families import CLAUDE_FAMILIES, capabilities_of
from llmproxy_asgi.translators.anthropic_messages.inbound import MessagesInbound
from llmproxy_asgi.translators.anthropic_messages.outbound import MessagesOutbound
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.base import Translator

TRANSLATOR = Translator(protocol=PROTOCOL, inbound=MessagesInbound(), outbound=MessagesOutbound())

__all__ = ["CLAUDE_FAMILIES", "TRANSLATOR", "capabilities_of"]
