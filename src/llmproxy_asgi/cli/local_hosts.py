"""Accept requests for this machine's own names only, so that web pages cannot use an open gateway by DNS rebinding.

A page can point its host name at 127.0.0.1 after it was loaded, and then counts as same-origin. The browser still
sends that name in `Host`, so the request is refused here.
"""

import re

from starlette.types import ASGIApp, Receive, Scope, Send

_LOCAL = re.compile(rb"(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
_BODY = b'{"error":{"message":"Without access control only localhost is served (host): call it at localhost."}}'


class LocalHosts:
    """Middleware that refuses requests whose `Host` is not `localhost` or a loopback address.

    Args:
        app: Serves all other requests.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the connection on, or refuse it."""
        if scope["type"] == "lifespan" or _is_local(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": _BODY})
        else:
            await send({"type": "websocket.close", "code": 1008})


def _is_local(scope: Scope) -> bool:
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    return len(hosts) == 1 and _LOCAL.fullmatch(hosts[0]) is not None
