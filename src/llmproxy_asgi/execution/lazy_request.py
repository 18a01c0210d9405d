"""A client's request that is decoded at most once, and only where its bytes cannot be passed through."""

from collections.abc import Sequence
from typing import TypeAlias

from typing_extensions import override

from llmproxy_asgi.conversation import Request
from llmproxy_asgi.translators.base import AnyInbound, InboundRequest, Upstream
from llmproxy_asgi.translators.embeddings.records import EmbeddingRequest

AnyRequest: TypeAlias = Request | EmbeddingRequest


class LazyRequest:
    """A request as received, decoded when it is first needed.

    Args:
        inbound: The codec of the client's protocol.
        inbound_request: The request.

    Attributes:
        is_batch: Whether it has several prompts; then upstreams of other protocols need one request for each.
    """

    __slots__ = ("_decoded", "_inbound", "_inbound_request", "is_batch")

    restores_reasoning = False
    """Whether `for_upstream` restores reasoning that the client lost."""

    def __init__(self, inbound: AnyInbound, inbound_request: InboundRequest) -> None:
        self._inbound = inbound
        self._inbound_request = inbound_request
        self._decoded: AnyRequest | None = None
        self.is_batch = inbound_request.is_batch

    def decode(self) -> AnyRequest:
        """Return the decoded request.

        Raises:
            BadRequest: The request is invalid, or it is a batch that has no decoded form.
        """
        if self._decoded is None:
            self._decoded = self._inbound.decode(self._inbound_request)
        return self._decoded

    def decode_each(self) -> Sequence[Request]:
        """Return one decoded request for each prompt of a batch.

        Raises:
            BadRequest: The request is invalid.
        """
        return self._inbound.decode_each(self._inbound_request)

    def for_upstream(self, _upstream: Upstream) -> AnyRequest:
        """Return the decoded request as this upstream needs it.

        Raises:
            BadRequest: The request is invalid.
        """
        return self.decode()

    def replaced_by(self, inbound_request: InboundRequest) -> "LazyRequest":
        """Return another received request of the same protocol in its lazy form."""
        return LazyRequest(self._inbound, inbound_request)


class DecodedRequest(LazyRequest):
    """A request that is decoded already, or was made in Python.

    Args:
        request: The request.
    """

    __slots__ = ()

    def __init__(self, request: AnyRequest) -> None:
        self._decoded: AnyRequest = request
        self.is_batch = False

    @override
    def decode(self) -> AnyRequest:
        return self._decoded
