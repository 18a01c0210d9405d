"""A body of one of OpenAI's two conversation protocols on the path of the other.

Agents such as Cursor's send Responses' `input` to Chat's path and read Chat's answers. Such a body is read in its own
protocol and written in the path's; from there on it is a request like any other.
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
    """Open a body that is written in another protocol than it is served in.

    Raises:
        BadRequest: It is wrong by the rules of the protocol that it is written in.
        Unsupported: It asks for what the protocol of its path cannot express.
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
