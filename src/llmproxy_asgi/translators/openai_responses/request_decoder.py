"""Decode a caller's request: the top level here, its input in `item_decoder`, its tools in `tool_decoder`.

The decoder is as strict as the vendor about types, required fields and values, and lenient about known deviations of
clients. Fields that only this protocol has are kept in `extras`, except defaults.
"""

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.openai.fields import string
from llmproxy_asgi.translators.openai_responses.item_decoder import decode_items
from llmproxy_asgi.translators.openai_responses.mappings import PROTOCOL
from llmproxy_asgi.translators.openai_responses.options import OPTIONS
from llmproxy_asgi.translators.openai_responses.tool_decoder import decode_tools, offered


def decode_request(inbound_request: InboundRequest) -> ir.Request:
    """Decode into the protocol-neutral request."""
    raw = inbound_request.raw
    instructions, given = string(raw, "instructions"), Node.of(raw, "input")
    leading = (ir.Message(role="system", parts=(ir.Text(text=instructions),)),) if instructions else ()
    return ir.Request(
        protocol=PROTOCOL,
        model=inbound_request.model,
        messages=leading + (decode_items(given) if given else ()),
        tools=offered(decode_tools(raw), given),
        stream=inbound_request.stream,
        **OPTIONS.decode(raw),
    )
