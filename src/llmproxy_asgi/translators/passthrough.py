"""The passthrough codec: client and upstream share one protocol, so frames pass as their bytes.

Each read costs one search for the end of the last whole frame and a few for literals in its bytes. Frames are split
and inspected only from the first hit on: usage, a finish, an error, the end sign. A `Scan` holds what is specific to a
protocol; this module knows none.

It neither checks content nor repairs or re-encodes frames. It changes only the model's name, as bytes: the spelling
of the member (``"model": "x-2026-01-01"``) is learned from the first frame that has it. Within JSON strings
quotes are escaped, so text of a model cannot match that member.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache
from typing import ClassVar

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import GatewayError, UpstreamError, UpstreamFailed, UpstreamProtocolError
from llmproxy_asgi.translators.answer_bounds import event_check
from llmproxy_asgi.translators.base import ErrorT, StreamDecoder
from llmproxy_asgi.wire.sse import (
    DEFAULT_MAX_EVENT,
    EventTooLarge,
    Frame,
    FrameSplitter,
    decode,
    first_frame_end,
    frame_start,
)

_NOTHING = ir.Batch((), b"")
_FAILED = "The upstream's stream ended with an error."
_SHOWN = 400
# Comments, and two fields that tell a browser how to connect again: OpenAI's client breaks at an event without data.
_INNER_COMMENT = re.compile(rb"\n(?::|retry:|id:)").search
_COMMENT = re.compile(rb"(?<![^\r\n])(?::|retry:|id:)[^\r\n]*(?:\r\n|\r|\n)")
_COMMENT_STARTS = b":ri"
_BLANK = b"\n\n"
_LOOKS_FOR_MODEL = 16
"""Frames of a started stream that are searched for the model's name. Some servers send a few without it first, some
never send it."""
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Inspection(msgspec.Struct, frozen=True):
    """The meaning of a frame: its events, whether it is withheld from the client, and its replacement."""

    events: Sequence[ir.StreamEvent] = ()
    drop: bool = False
    instead: bytes | None = None


class Scan(ABC):
    """What a passthrough needs to know about one protocol; one instance per stream.

    `first` and `inspect` may raise an `UpstreamError` or a `msgspec.MsgspecError`: the stream then ends with
    `Failed`.
    """

    pattern: ClassVar[re.Pattern[bytes] | tuple[re.Pattern[bytes], ...]]
    """Matches (at least one of several) in every run of complete frames with usage, a finish, an error or the end sign.

    Must be linear. A needless match costs time, a missed one an event; members that are null in every frame should
    not match. A search
    for an expression that starts with a literal of some letters costs a third of a microsecond in a usual frame, an
    alternation at the start ten times that: so rather several expressions than one of several branches.
    """
    model_path: ClassVar[tuple[str, ...]] = ("model",)
    """The path to the model's name in the first frame that has it."""
    model_repeats: ClassVar[bool] = True
    """Whether later frames name the model again."""
    many: ClassVar[tuple[Sequence[str], ...]] = ()
    """The paths to entries of an event that may be very many: see `answer_bounds`."""
    watching: bool = False
    """Whether `inspect` is called with every further frame."""

    @abstractmethod
    def first(self, frame: Frame) -> Sequence[ir.StreamEvent]:
        """Read each frame until one gives events: `Started`, or `Failed`.

        `inspect` is called with the same frame afterwards, if the pattern matches.
        """

    @abstractmethod
    def inspect(self, frame: Frame) -> Inspection:
        """Inspect a frame that the pattern matches: `UsageReported`, `Finished`, `Failed`, `Ended`, or nothing.

        A frame that means `Failed` is never passed through. `Ended` counts only if `ended` agrees.
        """

    @abstractmethod
    def ended(self) -> bool:
        """Return whether the stream is complete, or would be if it stopped now, by the inspected frames."""

    def end_sign(self) -> bytes:
        """Return the bytes that close a complete stream without an end sign."""
        return b""

    def late_usage(self, last: bytes) -> Sequence[ir.StreamEvent]:
        """Return `UsageReported` where the stream is complete, no inspected frame had usage, and an earlier one has it.

        Args:
            last: The last frames passed on before the inspected ones.
        """
        return ()

    def stray_error(self, data: bytes) -> GatewayError | None:
        """Return the error in a frame's data, in any known shape; None where there is none.

        Called for frames that cannot be decoded, and for the last frame of an incomplete stream.
        """
        return None

    def close_error(self) -> GatewayError:
        """Return the error of a stream that stopped early."""
        return UpstreamProtocolError("The upstream's stream ended without its end sign.")

    def broke(self, error: ErrorT, last: bytes) -> ErrorT:
        """Return the error that ends a started stream, with what its event has to include about the stream.

        Args:
            error: The cause.
            last: The last frames passed on.
        """
        return error


class PassthroughDecoder(StreamDecoder):
    """Passes one stream through.

    `Batch.raw` always ends at the end of a frame, and is empty until the stream has started. It holds the received
    bytes without comments, reconnection fields (`retry:`, `id:`), frames that the scan drops, the error frame (the
    client's encoder writes its `Failed`) and everything after the end; the model's name is replaced.

    Args:
        scan: The protocol's scan; made for this stream.
        client_model: The model's name as the client sent it, which replaces the upstream's.
        strip_comments: Remove such lines (comments are other gateways' keep-alives), except in streams that end their
            lines with CR alone.
        max_event: Maximum bytes of a frame.
    """

    __slots__ = (
        "_client_model",
        "_complete",
        "_finishing",
        "_held",
        "_last",
        "_literal",
        "_looks",
        "_max_event",
        "_over",
        "_plain",
        "_preceding",
        "_replacement",
        "_scan",
        "_search",
        "_splitter",
        "_started",
        "_strip_comments",
    )

    def __init__(
        self, scan: Scan, *, client_model: str, strip_comments: bool = True, max_event: int = DEFAULT_MAX_EVENT
    ) -> None:
        self._scan = scan
        self._client_model = client_model
        self._strip_comments = strip_comments
        self._splitter = FrameSplitter(max_event=max_event, is_crowded=event_check(*scan.many))
        self._complete = self._splitter.complete
        self._search = _any_of(scan.pattern)
        self._started = False
        self._over = False
        self._last = b""
        self._held = b""
        self._max_event = max_event
        self._looks = _LOOKS_FOR_MODEL
        self._finishing = False  # a candidate has finished: usage may stand in any frame that follows
        self._preceding = b""  # what was passed on before that
        self._plain = False  # started, and the model's name is dealt with: now only the pattern needs attention
        self._literal = b""  # empty: nothing to replace
        self._replacement = b""

    @override
    def feed(self, data: bytes) -> ir.Batch:
        if self._over:
            return _NOTHING
        try:
            whole = self._complete(data)
        except EventTooLarge as error:
            self._over = True
            return ir.Batch((ir.Failed(self.broke(UpstreamProtocolError(f"The upstream sent {error}."))),), b"")
        if not whole:
            return _NOTHING
        # Mostly a read is one frame of one line: its first line end is its last, and no comment can follow it.
        if self._strip_comments and (
            whole[0] in _COMMENT_STARTS or (whole.find(b"\n") < len(whole) - 2 and _INNER_COMMENT(whole) is not None)
        ):
            whole = _COMMENT.sub(b"", whole)
            if not whole.strip(b"\r\n"):
                return _NOTHING
        if self._plain and not self._search(whole):
            self._last = whole
            return ir.Batch((), whole.replace(self._literal, self._replacement) if self._literal else whole)
        return self._look(whole)

    @override
    def close(self) -> ir.Batch:
        if self._over:
            return _NOTHING
        tail = self._splitter.tail
        # A last frame without its blank line counts if it tells something: the end sign often comes so. Content in
        # such a frame may be cut anywhere, and nothing good can follow it.
        seen = self._look(tail + _BLANK) if self._search(tail) else _NOTHING
        if self._over:
            return seen
        if not seen.events:
            seen = _NOTHING  # not even a frame
        self._over = True
        if self._started and self._scan.ended():
            usage = self._scan.late_usage(self._preceding)
            return ir.Batch((*seen.events, *usage, ir.Ended()), (seen.raw or b"") + self._scan.end_sign())
        error = self._stray(tail or self._last)
        return ir.Batch((*seen.events, ir.Failed(self.broke(error or self._scan.close_error()))), seen.raw)

    @override
    def broke(self, error: ErrorT) -> ErrorT:
        return self._scan.broke(error, self._last) if self._started else error

    def _stray(self, before: bytes) -> GatewayError | None:
        """Return the error in the last of these frames, in any known shape."""
        last = decode(before.rstrip(b"\r\n") + _BLANK)
        return self._scan.stray_error(last[-1].data) if last else None

    def _look(self, whole: bytes) -> ir.Batch:
        """Inspect frames one by one: the first of a stream, then those from the first match on."""
        events: list[ir.StreamEvent] = []
        pieces: list[bytes] = []
        taken = 0
        while taken < len(whole) and not self._over:
            begin, end = taken, len(whole)
            if self._plain:
                begin = self._first_hit(whole, taken)
            else:
                end = first_frame_end(whole, taken)
            pieces.append(whole[taken:begin])
            self._take_frames(whole[begin:end], events, pieces)
            taken = end
        raw = b"".join(pieces)
        if not self._started:
            return self._before(raw, events)
        raw = self._renamed(self._held + raw)
        self._held = b""
        if self._over and raw.endswith(b"\r\n\r"):
            raw += b"\n"  # the second half of the last line end comes in a read that is not looked at any more
        self._last = raw or self._last
        if events and isinstance(last := events[-1], ir.Failed):
            events[-1] = ir.Failed(self.broke(last.error))
        return ir.Batch(events, raw)

    def _before(self, raw: bytes, events: list[ir.StreamEvent]) -> ir.Batch:
        """Hold frames until the first one with an event: until then the call may still fail over."""
        self._held += raw
        if not events and len(self._held) > self._max_event:
            events.append(ir.Failed(UpstreamProtocolError("The upstream's stream does not begin.")))
            self._over = True
        return ir.Batch(events, b"")

    def _first_hit(self, whole: bytes, start: int) -> int:
        """Return where the first matching frame at or after `start` begins; the end if none matches."""
        run = whole[start:] if start else whole
        hits = [hit.start() for pattern in _listed(self._scan.pattern) if (hit := pattern.search(run))]
        return start + frame_start(run, min(hits)) if hits else len(whole)

    def _take_frames(self, run: bytes, events: list[ir.StreamEvent], pieces: list[bytes]) -> None:
        """Add the events and the passed bytes of these frames."""
        taken = 0
        for frame in decode(run):
            begin = run.index(frame.raw, taken)
            end = begin + len(frame.raw)
            meaning = self._meaning(frame)
            if not self._finishing and meaning.events and self._started:
                self._look_for_finish(meaning.events, (self._last, *pieces, run[taken:begin]))
            ending = self._take(meaning.events, events)
            if (
                isinstance(ending, ir.Failed)
                and all(ending is not event for event in meaning.events)
                and (stray := self._stray(run[:begin] or b"".join(pieces) or self._last)) is not None
            ):
                ending = events[-1] = ir.Failed(stray)
            pieces.append(
                run[taken : begin if meaning.drop or isinstance(ending, ir.Failed) or meaning.instead else end]
            )
            if meaning.instead and not isinstance(ending, ir.Failed):
                pieces.append(meaning.instead)
            taken = end
            if ending is not None:
                self._over = True
                return
        pieces.append(run[taken:])
        self._plain = self._started and not (self._looks or self._finishing or self._scan.watching)

    def _look_for_finish(self, told: Sequence[ir.StreamEvent], before: Sequence[bytes]) -> None:
        """Inspect every frame from the finish on: they are few, and any of them may have usage."""
        if self._scan.ended() and any(type(event) is ir.Finished for event in told):
            self._finishing, self._preceding = True, b"".join(before)

    def _meaning(self, frame: Frame) -> Inspection:
        events: list[ir.StreamEvent] = []
        drop = False
        instead: bytes | None = None
        try:
            if not self._started:
                events.extend(self._scan.first(frame))
                self._started = any(isinstance(event, ir.Started) for event in events)
            if self._looks:
                self._look_for_model(frame)
            if self._finishing or self._scan.watching or self._search(frame.raw):
                inspection = self._scan.inspect(frame)
                events.extend(inspection.events)
                drop, instead = inspection.drop, inspection.instead
                if frame.event == "error" and not any(isinstance(event, ir.Failed) for event in events):
                    events.append(ir.Failed(UpstreamFailed(_FAILED, reason=f"error event: {_shown(frame.data)}")))
        except UpstreamError as error:
            events.append(ir.Failed(error))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            stray = self._scan.stray_error(frame.data)
            events.append(ir.Failed(stray or UpstreamProtocolError("The upstream sent an event that cannot be read.")))
        return Inspection(events, drop, instead)

    def _take(self, told: Sequence[ir.StreamEvent], events: list[ir.StreamEvent]) -> ir.Ended | ir.Failed | None:
        """Add a frame's events up to the stream's ending; return the ending if there is one."""
        for event in told:
            taken = event
            if not isinstance(event, ir.Failed):
                if not self._started:
                    taken = ir.Failed(
                        UpstreamProtocolError("The upstream's stream did not begin with its first event.")
                    )
                elif isinstance(event, ir.Ended) and not self._scan.ended():
                    taken = ir.Failed(self._scan.close_error())
            if isinstance(taken, ir.Ended):
                events.extend(self._scan.late_usage(self._preceding))
            events.append(taken)
            if isinstance(taken, ir.Ended | ir.Failed):
                return taken
        return None

    def _look_for_model(self, frame: Frame) -> None:
        """Learn the upstream's bytes of the model's name and their replacement."""
        self._looks -= self._started  # before that nothing was said that could name it
        value = _member(frame.data, self._scan.model_path)
        if not value.startswith(b'"') or value == b'""':
            return
        self._looks = 0
        if msgspec.json.decode(value) == self._client_model:
            return
        raw = frame.raw
        for key in _key(self._scan.model_path[-1]).finditer(raw):
            if raw.startswith(value, key.end()):
                self._literal = key[0] + value
                self._replacement = key[0] + msgspec.json.encode(self._client_model)
                return

    def _renamed(self, raw: bytes) -> bytes:
        if not self._literal:
            return raw
        renamed = raw.replace(self._literal, self._replacement)
        if not self._scan.model_repeats:
            self._literal = b""
        return renamed


def _shown(data: bytes) -> str:
    return data[:_SHOWN].decode("utf-8", "replace")


def _listed(pattern: re.Pattern[bytes] | tuple[re.Pattern[bytes], ...]) -> tuple[re.Pattern[bytes], ...]:
    return (pattern,) if isinstance(pattern, re.Pattern) else pattern


def _any_of(pattern: re.Pattern[bytes] | tuple[re.Pattern[bytes], ...]) -> Callable[[bytes], object]:
    if isinstance(pattern, re.Pattern):
        return pattern.search
    searches = tuple(one.search for one in pattern)

    def search(data: bytes) -> bool:
        for one in searches:  # noqa: SIM110 - `any` would make a generator for each read
            if one(data):
                return True
        return False

    return search


@cache
def _key(name: str) -> re.Pattern[bytes]:
    return re.compile(re.escape(msgspec.json.encode(name)) + rb"\s*:\s*")


def _member(data: bytes, path: Sequence[str]) -> bytes:
    """Return the JSON text of the member at this path; empty if there is none."""
    value = data
    for key in path:
        try:
            value = bytes(_MEMBERS.decode(value).get(key, b""))
        except (msgspec.MsgspecError, RecursionError):  # no JSON object; what that means is the scan's to say
            return b""
    return value
