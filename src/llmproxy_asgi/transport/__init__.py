"""The only outbound HTTP: connection pools, the connect clock, and every way a call can break, as our errors.

::

    Pool.open(method, address, headers, body) ──▶ Answer.status, .header(), .chunk() ... ──▶ Answer.aclose()
      │ one of
      ├── aiohttp.py     the fast way, where the extra `speed` is installed: aiohttp's connections and parser alone
      └── interface.py   the httpx programming interface: httpx2's own transport, or what the host program hands in

It follows no redirect, keeps no cookie, reads no environment variable and no netrc file, and retries nothing but a
kept-alive connection that turns out to be dead before a byte of the answer came. It reads no JSON and knows no protocol
above HTTP, and apart from the connect clock it has no timeouts: whoever reads an answer cancels the task that does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from llmproxy_asgi.transport.answer import CHUNK, Answer
from llmproxy_asgi.transport.channel import AnswerTimeout, Limits, RequestProgress
from llmproxy_asgi.transport.outgoing import Address, address
from llmproxy_asgi.transport.pool import Pool

if TYPE_CHECKING:
    import httpx  # noqa: TID251 - only to say in types what is accepted
    from httpx2 import AsyncBaseTransport as AsyncTransport
    from httpx2 import AsyncByteStream, AsyncClient
    from httpx2 import Request as HTTPRequest
    from httpx2 import Response as HTTPResponse

    from llmproxy_asgi.transport.adapter import AiohttpTransport

    HostTransport: TypeAlias = AsyncTransport | AsyncClient | httpx.AsyncBaseTransport | httpx.AsyncClient

__all__ = [
    "CHUNK",
    "Address",
    "AiohttpTransport",
    "Answer",
    "AnswerTimeout",
    "AsyncByteStream",
    "AsyncTransport",
    "HTTPRequest",
    "HTTPResponse",
    "HostTransport",
    "Limits",
    "Pool",
    "RequestProgress",
    "address",
]

# The names of the programming interface: who imports one of them here pays for importing httpx2, and nobody else.
_HOMES = {
    "AiohttpTransport": ("llmproxy_asgi.transport.adapter", "AiohttpTransport"),
    "AsyncByteStream": ("httpx2", "AsyncByteStream"),
    "AsyncTransport": ("httpx2", "AsyncBaseTransport"),
    "HTTPRequest": ("httpx2", "Request"),
    "HTTPResponse": ("httpx2", "Response"),
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(home[0]), home[1])
    globals()[name] = found
    return found
