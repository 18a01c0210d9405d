"""The list of models that this caller may use, in the shape of the caller's own vendor."""

from llmproxy_asgi.endpoints.exchange import Exchange
from llmproxy_asgi.engine import Engine
from llmproxy_asgi.errors import NotFound
from llmproxy_asgi.translators.base import AnyInbound

_JSON = (b"content-type", b"application/json")


async def list_models(engine: Engine, exchange: Exchange, inbound: AnyInbound, *, key_in_query: bool) -> None:
    """Answer with every name that can be listed, and with what open-ended providers' upstreams serve."""
    grant = await engine.runtime.authenticator.authenticate(exchange.scope, key_in_query=key_in_query)
    names = await engine.models(grant)
    await exchange.answer(200, [_JSON], inbound.list_models(names))


async def show_model(engine: Engine, exchange: Exchange, inbound: AnyInbound, name: str, *, key_in_query: bool) -> None:
    """Answer with one model, if this caller may use it and, as far as is known, there is one.

    Raises:
        ModelNotFound: There is none for this caller.
        NotFound: The path names none.
    """
    grant = await engine.runtime.authenticator.authenticate(exchange.scope, key_in_query=key_in_query)
    if not name:
        raise NotFound("The path does not exist.")
    await engine.find_model(name, grant)
    await exchange.answer(200, [_JSON], inbound.show_model(name))
