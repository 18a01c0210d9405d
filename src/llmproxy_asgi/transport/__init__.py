"""All outbound HTTP: connection pools, the connect timeout, and the failures of connections as the gateway's errors.

::

    Pool.open(method, address, headers, body) ──▶ UpstreamResponse.status, .header(), .chunk() ... ──▶ .aclose()
      │ one of
      ├── aiohttp_channel.py   aiohttp's connections and parser, if the extra `speed` is installed
      └── httpx_channel.py     the httpx API: httpx2's own transport, or the host's client or transport

It follows no redirect, stores no cookie, and reads no environment variable and no netrc file. It retries only if a
kept-alive connection turns out to be closed before a byte of the response arrived. It decodes no JSON and knows no
protocol above HTTP. The connect timeout is its only timeout: code that reads a response cancels its own task.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from llmproxy_asgi.transport.channel import Limits, RequestProgress, ResponseTimeout
from llmproxy_asgi.transport.pool import Pool
from llmproxy_asgi.transport.request_head import Address, address
from llmproxy_asgi.transport.response import CHUNK, UpstreamResponse

if TYPE_CHECKING:
    import httpx  # noqa: TID251 - only to say in types what is accepted
    from httpx2 import AsyncBaseTransport as AsyncTransport
    from httpx2 import AsyncByteStream, AsyncClient
    from httpx2 import Request as HTTPRequest
    from httpx2 import Response as HTTPResponse

    from llmproxy_asgi.transport.httpx_adapter import AiohttpTransport

    HostTransport: TypeAlias = AsyncTransport | AsyncClient | httpx.AsyncBaseTransport | httpx.AsyncClient

__all__ = [
    "CHUNK",
    "Address",
    "AiohttpTransport",
    "AsyncByteStream",
    "AsyncTransport",
    "HTTPRequest",
    "HTTPResponse",
    "HostTransport",
    "Limits",
    "Pool",
    "RequestProgress",
    "ResponseTimeout",
    "UpstreamResponse",
    "address",
]

# Names that import httpx2, so they are imported when they are first used.
_HOMES = {
    "AiohttpTransport": ("llmproxy_asgi.transport.httpx_adapter", "AiohttpTransport"),
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
