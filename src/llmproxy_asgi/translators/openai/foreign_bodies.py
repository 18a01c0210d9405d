"""Accept a body of Chat Completions on the path of Responses, and the reverse.

Agents such as Cursor's send a Responses `input` to the path of Chat and read Chat responses. The body is decoded in its
own protocol and encoded in the path's, and then served like any other request.
"""

from collections.abc import Mapping

import msgspec

from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Headers, InboundRequest, Upstream
from llmproxy_asgi.translators.openai.mappings import NATIVE_ISSUER
from llmproxy_asgi.translators.registry import translator
from llmproxy_asgi.wire.json_body import Bounds


def reopen(
    body: bytes, *, written_in: str, served_in: str, headers: Headers, path: Mapping[str, str], bounds: Bounds
) -> InboundRequest:
    """Open a body in another protocol than its path's.

    Raises:
        BadRequest: The body is invalid in its own protocol.
        Unsupported: The path's protocol cannot express an option of it.
    """
    source, target = translator(written_in), translator(served_in)
    request = source.inbound.decode(source.inbound.open(body, headers=headers, bounds=bounds))
    nowhere = Upstream(
        provider="", model=request.model, client_model=request.model, issuer=NATIVE_ISSUER, any_names=True
    )
    upstream_request = target.outbound.encode(request, nowhere)
    if upstream_request.stop:
        raise refusals.refusal(
            "Stop sequences are not supported in a Chat body on the path of Responses", "stop", "leave them out"
        )
    inbound_request = target.inbound.open(upstream_request.body, headers=headers, path=path, bounds=bounds)
    return msgspec.structs.replace(inbound_request, warnings=upstream_request.warnings)
