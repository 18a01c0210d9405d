"""What the executor returns: an upstream's response after the commit point, whatever attempts it consists of."""

from typing import Protocol

from llmproxy_asgi.conversation import Batch
from llmproxy_asgi.execution.admission_queue import Permit
from llmproxy_asgi.execution.attempt import AnyResponse
from llmproxy_asgi.providers.base import Credential
from llmproxy_asgi.providers.target import Route, Target
from llmproxy_asgi.translators.base import ErrorT, InboundRequest, UpstreamRequest


class OpenResponse(Protocol):
    """The open response of one call. The call reads it, and closes it in any case.

    Attributes:
        permit: What the call holds of its provider's limits; released by `close`.
    """

    permit: Permit

    @property
    def target(self) -> Target:
        """The target that responds."""

    @property
    def credential(self) -> Credential:
        """The credential of the request."""

    @property
    def route(self) -> Route:
        """The target with the protocol of this call."""

    @property
    def upstream_request(self) -> UpstreamRequest:
        """The request as it was sent, with its warnings."""

    @property
    def passthrough(self) -> InboundRequest | None:
        """The request whose bytes were passed through, so that the response's are, too; None: translation."""

    @property
    def whole(self) -> Batch | AnyResponse | None:
        """The response, if it is not streamed; a `Batch` if it is in the caller's own protocol already."""

    @property
    def heavy(self) -> bool:
        """Whether a whole response is encoded off the event loop."""

    async def next(self) -> Batch | None:
        """Return the next batch of a stream; None after the last. A failure is a batch that ends with `Failed`."""

    async def close(self) -> None:
        """Close the upstream; abort it if it is unfinished. May be called more than once."""

    def broke(self, error: ErrorT) -> ErrorT:
        """Return the error for a stream that was not interrupted by its upstream: see `StreamDecoder.broke`."""

    def adopt_current_task(self) -> None:
        """Let the running task read the response from now on."""
