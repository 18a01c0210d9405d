"""The list of models that a principal may use, in the format of the client's protocol."""

from llmproxy_asgi.engine import Engine
from llmproxy_asgi.errors import NotFound
from llmproxy_asgi.http_connection import HTTPConnection
from llmproxy_asgi.translators.base import AnyInbound

_JSON = (b"content-type", b"application/json")


async def list_models(engine: Engine, connection: HTTPConnection, inbound: AnyInbound, *, key_in_query: bool) -> None:
    """Respond with every name that can be listed, including models of open-ended providers' upstreams."""
    grant = await engine.runtime.authenticator.authenticate(connection.scope, key_in_query=key_in_query)
    names = await engine.models(grant)
    await connection.answer(200, [_JSON], inbound.list_models(names))


async def show_model(
    engine: Engine, connection: HTTPConnection, inbound: AnyInbound, name: str, *, key_in_query: bool
) -> None:
    """Respond with one model, if this principal may use it and it is not known to be missing.

    Raises:
        ModelNotFound: There is no such model for this principal.
        NotFound: The path names no model.
    """
    grant = await engine.runtime.authenticator.authenticate(connection.scope, key_in_query=key_in_query)
    if not name:
        raise NotFound("The path does not exist.")
    await engine.find_model(name, grant)
    await connection.answer(200, [_JSON], inbound.show_model(name))
