"""The base of both codec halves of every embedding protocol: embeddings are never streamed."""

from collections.abc import Iterable
from typing import Any, ClassVar, NoReturn

import msgspec
from typing_extensions import override

from llmproxy_asgi.errors import InternalError, UpstreamProtocolError
from llmproxy_asgi.translators.base import (
    Family,
    Inbound,
    InboundRequest,
    Outbound,
    StreamDecoder,
    StreamEncoder,
    Upstream,
    UpstreamRequest,
)
from llmproxy_asgi.translators.embeddings.records import EmbeddingRequest, Embeddings

MOST_INPUTS = 2_048
"""Inputs of one request that are always accepted: as many as OpenAI accepts."""
MOST_TOKENS_AT_ONCE = 350_000
"""JSON values of one request that are always accepted: OpenAI accepts 300,000 token ids."""

_MOST_BYTES = 4 * 2**20
"""Maximum bytes of one vector in an answer."""


class EmbeddingInbound(Inbound[EmbeddingRequest, Embeddings]):
    """The half that serves clients. Its `InboundRequest.stream` is always false."""

    keepalive: ClassVar[bytes] = b""

    @override
    def encoder(self, inbound_request: InboundRequest) -> StreamEncoder:
        _never()


class EmbeddingOutbound(Outbound[EmbeddingRequest, Embeddings]):
    """The half that calls upstreams."""

    family: ClassVar[Family] = "embedding"
    stream_beginnings: ClassVar[tuple[bytes, ...]] = ()

    @override
    def decoder(self, upstream_request: UpstreamRequest, upstream: Upstream) -> StreamDecoder:
        _never()

    @override
    def passthrough_stream(self, inbound_request: InboundRequest, upstream: Upstream) -> StreamDecoder:
        _never()


def check_count(vectors: int, asked: int) -> None:
    """Require one vector for each input.

    Raises:
        UpstreamProtocolError: There are more or fewer.
    """
    if vectors != asked:
        raise UpstreamProtocolError(f"The upstream gave {vectors} embeddings for {asked} inputs.")


def check_sizes(vectors: Iterable[msgspec.Raw]) -> None:
    """Refuse a vector that would take long to decode or to pass on; the largest models' have some 100 KiB.

    Raises:
        UpstreamProtocolError: One is too large.
    """
    if any(len(memoryview(vector)) > _MOST_BYTES for vector in vectors):
        raise UpstreamProtocolError(f"The upstream sent an embedding of more than {_MOST_BYTES // 2**20} MiB.")


def readable(decoder: "msgspec.json.Decoder[Any]", body: bytes | msgspec.Raw) -> Any:
    """Decode an upstream's answer, or one of its vectors.

    Raises:
        UpstreamProtocolError: It is not of the shape that the decoder reads.
    """
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise UpstreamProtocolError("The upstream's answer cannot be read.") from None


def _never() -> NoReturn:
    raise InternalError("Embeddings are not streamed.")
