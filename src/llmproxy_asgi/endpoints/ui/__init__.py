"""A small page to try models: static files under a strict content policy, and nothing that asks another host.

The files beside this module are served as they are. They hold no data: what the page shows it asks for through the same
paths, as the same caller.
"""

from functools import cache
from importlib.resources import files

from llmproxy_asgi.endpoints.exchange import Exchange
from llmproxy_asgi.engine import Engine
from llmproxy_asgi.errors import NotFound

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


async def serve_page(engine: Engine, exchange: Exchange, path: str) -> None:
    """Answer with one of the page's files.

    Raises:
        NotFound: There is no such file.
        Unauthenticated: Nobody is known to be calling.
    """
    if engine.runtime.config.access.mode != "keys":
        # With keys alone a browser has nothing to show before the page is there to ask for one; the files are public.
        await engine.runtime.authenticator.authenticate(exchange.scope)
    if path == "/ui":
        await exchange.answer(307, [(b"location", b"ui/"), (b"content-type", b"text/plain")], b"")
        return
    found = PAGE.get(path)
    if found is None:
        raise NotFound("The path does not exist.")
    name, media_type = found
    await exchange.answer(200, [(b"content-type", media_type), *_HEADERS], _read(name))


@cache
def _read(name: str) -> bytes:
    return files(__name__).joinpath(name).read_bytes()
