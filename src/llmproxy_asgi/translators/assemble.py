"""Streams and answers are one thing: events fold into a `Response`, a `Response` unfolds into legal events.

What no event carries is lost on the way through a stream: `Candidate.phase` and `Candidate.extras`.
"""

from collections.abc import Iterable, Iterator

from llmproxy_asgi.conversation import Response, StreamEvent


class Folder:
    """Folds a stream as it comes, in time linear in its size."""

    def feed(self, events: Iterable[StreamEvent]) -> None:
        """Take the next events."""
        raise NotImplementedError

    def result(self) -> Response:
        """The whole answer.

        Raises:
            GatewayError: The error of the stream's `Failed`.
            UpstreamProtocolError: The stream is not over, or breaks the grammar so that there is no answer.
        """
        raise NotImplementedError


def fold(events: Iterable[StreamEvent]) -> Response:
    """The answer that a whole stream told.

    Raises:
        GatewayError: The error of the stream's `Failed`.
        UpstreamProtocolError: The stream has no ending, or breaks the grammar so that there is no answer.
    """
    raise NotImplementedError


def unfold(response: Response) -> Iterator[StreamEvent]:
    """A legal stream that tells this answer; every `PartEnded` carries its part whole."""
    raise NotImplementedError
