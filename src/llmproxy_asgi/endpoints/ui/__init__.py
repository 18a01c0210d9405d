"""A small page to try models: static files under a strict content policy, without requests to other hosts.

The files beside this module are served unchanged. They contain no data: the page requests it from the same paths, with
the same credentials.
"""

from functools import cache
from importlib.resources import files

from llmproxy_asgi.engine import Engine
from llmproxy_asgi.errors import NotFound
from llmproxy_asgi.http_connection import HTTPConnection

PAGE = {
    "/ui/": ("index.html", b"text/html; charset=utf-8"),
    "/ui/page.js": ("page.js", b"text/javascript; charset=utf-8"),
    "/ui/page.css": ("page.css", b"text/css; charset=utf-8"),
}
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)


async def serve_page(engine: Engine, connection: HTTPConnection, path: str) -> None:
    """Respond with one of the page's files.

    Raises:
        NotFound: There is no such file.
        Unauthenticated: The request has no valid credential.
    """
    if engine.runtime.config.access.mode != "keys":
        # With keys only, a browser has no credential until the page asks for one; so the files are public.
        await engine.runtime.authenticator.authenticate(connection.scope)
    if path == "/ui":
        await connection.answer(307, [(b"location", b"ui/"), (b"content-type", b"text/plain")], b"")
        return
    found = PAGE.get(path)
    if found is None:
        raise NotFound("The path does not exist.")
    name, media_type = found
    await connection.answer(200, [(b"content-type", media_type), *_HEADERS], _read(name))


@cache
def _read(name: str) -> bytes:
    return files(__name__).joinpath(name).read_bytes()
