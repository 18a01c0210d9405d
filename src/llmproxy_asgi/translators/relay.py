"""The relay codec: where caller and upstream speak one protocol, frames pass as the bytes they came as.

Each read costs one search for the end of the last whole frame and one regular expression over its bytes. Only where
that expression hits are frames taken apart and looked at: usage, a finish, an error, the end sign. What a protocol
must tell is a `Scan`; this module knows none.

It does not check content, does not repair frames and does not re-encode them. The one thing that it changes is the
model's name, as bytes.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import msgspec
from typing_extensions import override

from llmproxy_asgi.conversation import Batch, StreamEvent
from llmproxy_asgi.errors import GatewayError, UpstreamProtocolError
from llmproxy_asgi.translators.base import StreamDecoder
from llmproxy_asgi.wire.sse import Frame


class Inspection(msgspec.Struct, frozen=True):
    """What a frame means: its events, and whether the caller shall not see it."""

    events: Sequence[StreamEvent] = ()
    drop: bool = False


class Scan(ABC):
    """What a relay must know of one protocol; one instance a stream.

    `first` and `inspect` may raise an `UpstreamError` or let a `msgspec.MsgspecError` fly: the stream then ends with
    `Failed`.
    """

    pattern: ClassVar[re.Pattern[bytes]]
    """Hits in every run of whole frames that holds usage, a finish, an error or the end sign. Linear; hitting too
    often costs time, too seldom costs truth. ``"usage": null`` and ``"finish_reason": null`` should not hit."""
    model_path: ClassVar[tuple[str, ...]] = ("model",)
    """The keys that lead to the model's name in the first frame that tells it."""
    model_repeats: ClassVar[bool] = True
    """Whether later frames name the model again."""

    @abstractmethod
    def first(self, frame: Frame) -> Sequence[StreamEvent]:
        """Called with each frame until it gives events: `Started`, or `Failed`.

        The same frame is given to `inspect` afterwards, if the pattern hits.
        """

    @abstractmethod
    def inspect(self, frame: Frame) -> Inspection:
        """What a frame in which the pattern hits means: `UsageReported`, `Finished`, `Failed`, `Ended`, or nothing."""

    @abstractmethod
    def ended(self) -> bool:
        """Whether the stream would be whole if it stopped now, by what `inspect` has seen."""

    def end_sign(self) -> bytes:
        """What is written at the close of a stream that is whole but left its end sign out."""
        return b""

    def close_error(self) -> GatewayError:
        """Why a stream that just stopped has failed."""
        return UpstreamProtocolError("The upstream's stream ended without its end sign.")


class Relay(StreamDecoder):
    """Relays one stream.

    Args:
        scan: The protocol's eyes; made for this stream.
        asked: The model's name as the caller said it, put in the place of the upstream's.
        strip_comments: Leave out comment lines (other gateways' keep-alives).
    """

    def __init__(self, scan: Scan, *, asked: str, strip_comments: bool = True) -> None:
        raise NotImplementedError

    @override
    def feed(self, data: bytes) -> Batch:
        raise NotImplementedError

    @override
    def close(self) -> Batch:
        raise NotImplementedError
