"""The paths of stored responses: retrieve, cancel, delete, and list input items; for their owner only.

For other principals a stored response is a 404, like one that does not exist.
"""

from collections.abc import Sequence
from typing import Literal
from urllib.parse import parse_qs

from llmproxy_asgi.engine import AdmittedRequest, Engine
from llmproxy_asgi.errors import BadRequest, GatewayError, MethodNotAllowed, NotFound
from llmproxy_asgi.http_connection import DisconnectWatch, HTTPConnection, KeepAlive
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.responses_api.background import Background, Reader
from llmproxy_asgi.responses_api.items import (
    encode_deleted,
    encode_error_event,
    encode_input_item,
    encode_page,
    encode_stored,
)
from llmproxy_asgi.responses_api.stateful import StatefulResponses
from llmproxy_asgi.responses_api.store import ResponseStore, StoredResponse, WireEvent
from llmproxy_asgi.stores.base import RecordStore
from llmproxy_asgi.translators.base import AnyInbound, InboundRequest
from llmproxy_asgi.translators.openai_responses.mappings import PROTOCOL, STATE
from llmproxy_asgi.translators.registry import translator
from llmproxy_asgi.wire import sse

_JSON = (b"content-type", b"application/json")
_MAX_ITEMS = 100
_DEFAULT_ITEMS = 20
_IN_PROGRESS = frozenset({"queued", "in_progress"})


class StoredResponses:
    """All paths below `/v1/responses/`, and the start of background responses.

    Args:
        engine: Creates calls.

    Attributes:
        stateful: Creates turns on stored responses.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.stateful = StatefulResponses(engine)
        self._background = Background(engine, self.stateful)

    async def aclose(self) -> None:
        """End all background responses."""
        await self._background.aclose()

    async def forget(self, owner: Owner, records: Sequence[RecordStore]) -> tuple[int, int]:
        """Cancel the background responses of an owner, and delete all stored ones.

        Args:
            owner: The owner.
            records: All stores that may have responses.

        Returns:
            How many background responses were in progress, and how many responses were stored.
        """
        background = await self._background.forget(owner)
        return background, sum([await ResponseStore(each).forget(owner) for each in records])

    async def begin(
        self,
        connection: HTTPConnection,
        inbound: AnyInbound,
        inbound_request: InboundRequest,
        admitted: AdmittedRequest,
        *,
        strict: bool,
    ) -> None:
        """Start a background response; a client that requested a stream is its first reader."""
        run = await self._background.begin(
            inbound_request,
            inbound,
            admitted.grant,
            reservation=admitted.reservation,
            headers=connection.headers,
            strict=strict,
            request_id=connection.request_id,
        )
        if run.task is not None:
            release_body = admitted.detach_body()
            run.task.add_done_callback(lambda _: release_body())
        if inbound_request.stream:
            await self._stream(connection, run.read())
        else:
            await connection.answer(200, [_JSON], _encode(run.turn.record, with_state=False))

    async def serve(self, connection: HTTPConnection, path: str) -> None:
        """Serve one request.

        Args:
            connection: The request.
            path: The path after `/v1/responses/`.

        Raises:
            GatewayError: The request is refused.
        """
        response_id, _, rest = path.partition("/")
        method = connection.scope["method"]
        if not response_id or rest not in _METHODS:
            raise NotFound("The path does not exist.")
        if method not in _METHODS[rest]:
            allowed = _METHODS[rest]
            raise MethodNotAllowed(f"This path takes {' or '.join(allowed)}.", allow=", ".join(allowed))
        grant = await self._engine.runtime.authenticator.authenticate(connection.scope)
        owner = grant.owner
        if rest == "input_items":
            await self._items(connection, owner, response_id)
        elif rest == "cancel":
            await self._cancel(connection, owner, response_id)
        elif method == "DELETE":
            await self._delete(connection, owner, response_id)
        else:
            await self._get(connection, owner, response_id)

    # ── paths ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _get(self, connection: HTTPConnection, owner: Owner, response_id: str) -> None:
        query = _Query(connection)
        record = await self._find(owner, response_id)
        if not query.boolean("stream"):
            with_state = record.shows_state or STATE in query.values("include")
            await connection.answer(200, [_JSON], _encode(record, with_state=with_state))
            return
        after = query.number("starting_after", low=0)
        after = -1 if after is None else after
        run = self._background.find(owner, response_id)
        reader = (
            run.read(after=after) if run is not None else await self._stored_events(owner, response_id, after=after)
        )
        async with DisconnectWatch(connection):
            await self._stream(connection, reader)

    async def _stored_events(self, owner: Owner, response_id: str, *, after: int) -> "_StoredReader":
        events = await self.stateful.responses.events(owner, response_id, after=after)
        if events is None:
            raise BadRequest(
                "stream: the events of this response are not kept; those of background responses are, if they are not "
                "too many.",
                param="stream",
            )
        return _StoredReader(events)

    async def _delete(self, connection: HTTPConnection, owner: Owner, response_id: str) -> None:
        await self._background.cancel(owner, response_id)
        if not await self.stateful.responses.delete(owner, response_id):
            raise _not_found(response_id)
        await connection.answer(200, [_JSON], encode_deleted(response_id))

    async def _cancel(self, connection: HTTPConnection, owner: Owner, response_id: str) -> None:
        record = await self._find(owner, response_id)
        if not record.background:
            raise BadRequest(
                "Only background responses can be cancelled (background): wait for the response.",
                param="background",
            )
        if record.status in _IN_PROGRESS and await self._background.cancel(owner, response_id):
            record = await self._find(owner, response_id)
        await connection.answer(200, [_JSON], _encode(record, with_state=record.shows_state))

    async def _items(self, connection: HTTPConnection, owner: Owner, response_id: str) -> None:
        query = _Query(connection)
        limit = query.number("limit", low=1, high=_MAX_ITEMS) or _DEFAULT_ITEMS
        order: Literal["asc", "desc"] = "asc" if query.word("order", ("asc", "desc")) == "asc" else "desc"
        after = query.text("after")
        page = await self.stateful.responses.input_items(owner, response_id, after=after, limit=limit, order=order)
        if page is None:
            raise _not_found(response_id)
        with_state = STATE in query.values("include")
        items = [encode_input_item(each.id, each.item, with_state=with_state) for each in page.items]
        first, last = (page.items[0].id, page.items[-1].id) if page.items else (None, None)
        body = encode_page(items, first=first, last=last, has_more=page.has_more)
        await connection.answer(200, [_JSON], body)

    async def _find(self, owner: Owner, response_id: str) -> StoredResponse:
        record = await self.stateful.responses.find(owner, response_id)
        if record is None:
            raise _not_found(response_id)
        return record

    async def _stream(self, connection: HTTPConnection, reader: "Reader | _StoredReader") -> None:
        """Send events to one reader until the last one."""
        config, inbound = self._engine.runtime.config, translator(PROTOCOL).inbound
        keepalive = KeepAlive(
            connection, inbound.keepalive, every=config.keepalive, media_type=InboundRequest.media_type
        )
        try:
            await connection.begin_stream((), media_type=InboundRequest.media_type)
            try:
                while (events := await reader.next()) is not None:
                    await keepalive.write(b"".join(sse.encode(bytes(each.data), event=each.name) for each in events))
            except GatewayError as error:  # the reader is too slow; the response itself continues
                await keepalive.write(encode_error_event(error))
            await keepalive.end()
        finally:
            keepalive.cancel()


class _StoredReader:
    """A reader of stored events."""

    def __init__(self, events: Sequence[WireEvent]) -> None:
        self._events = events

    async def next(self) -> Sequence[WireEvent] | None:
        events, self._events = self._events, ()
        return events or None


_METHODS = {"": ("GET", "DELETE"), "cancel": ("POST",), "input_items": ("GET",)}
"""Paths after the id, and their methods."""


class _Query:
    """The query string."""

    def __init__(self, connection: HTTPConnection) -> None:
        query: bytes = connection.scope.get("query_string", b"")
        try:
            self._values = parse_qs(query.decode("latin-1"), max_num_fields=64)
        except ValueError:
            raise BadRequest("The query has too many parameters: send at most 64.") from None

    def text(self, name: str) -> str | None:
        return self._values.get(name, [None])[-1]

    def values(self, name: str) -> list[str]:
        """Return a list, as `name=a&name=b`, `name[]=a` or `name=a,b`."""
        found = [*self._values.get(name, ()), *self._values.get(f"{name}[]", ())]
        return [word for each in found for word in each.split(",")]

    def boolean(self, name: str) -> bool:
        return self.word(name, ("true", "false", "1", "0")) in {"true", "1"}

    def word(self, name: str, options: tuple[str, ...]) -> str | None:
        value = self.text(name)
        if value is not None and value not in options:
            raise BadRequest(f"{name}: must be one of {', '.join(options)}.", param=name, code="invalid_value")
        return value

    def number(self, name: str, *, low: int, high: int | None = None) -> int | None:
        value = self.text(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit() and len(value) <= 18 and low <= int(value)) or (
            high is not None and int(value) > high
        ):
            bound = f"from {low} to {high}" if high is not None else f"of at least {low}"
            raise BadRequest(f"{name}: must be a whole number {bound}.", param=name, code="invalid_value")
        return int(value)


def _encode(record: StoredResponse, *, with_state: bool) -> bytes:
    output = [each.item for each in record.output or ()]
    return encode_stored(record.response, output, with_state=with_state)


def _not_found(response_id: str) -> NotFound:
    return NotFound(f"Response with id {response_id[:100]!r} not found.", code="response_not_found")
