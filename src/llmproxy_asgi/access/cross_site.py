"""Detect requests that an untrusted page may have made a browser send (CSRF).

A browser adds credentials automatically: cookies, Basic credentials, client certificates, Negotiate tickets and its own
address, which is all that an open gateway requires. So a request that changes something must not come from another
site, however its caller is identified. Only a key in a header proves that no foreign page caused it: no browser adds
one, and a page of another origin can't without permission (CORS).

The origin of a request is taken from the headers that pages can't set: `Sec-Fetch-Site`, `Origin`, `Referer` (Fetch
Metadata, W3C; Fetch, WHATWG; both read 2026-11). This module calls no host code and identifies no caller.
"""

from collections.abc import Collection, Iterable, Mapping
from urllib.parse import urlsplit

from llmproxy_asgi.access.keys import KEY_HEADERS, key_in_header
from llmproxy_asgi.errors import Forbidden

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing here."""

BROWSER_HEADERS = frozenset({b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest", b"origin", b"referer", b"cookie"})
"""Headers that a browser may have sent. Other clients send cookies as well; a content type costs them nothing."""
_RELEVANT_HEADERS = BROWSER_HEADERS | {b"host", b"content-type", b"content-length", b"transfer-encoding"}

_CROSS_SITE = (
    "The request was sent by a page of another site without a key (origin): call from a page of the same origin, "
    "list the page's origin under access.origins, or send a key in a header."
)
_NOT_JSON = (
    "The request was sent by a browser without a key and without a JSON content type (content-type): send it with "
    "content-type application/json, or send a key in a header."
)


def cross_site_refusal(
    method: str, headers: Iterable[tuple[bytes, bytes]], origins: Collection[str]
) -> Forbidden | None:
    """Return why a request may have been caused by a foreign page; None if it can't have been.

    Args:
        method: The request's method.
        headers: The ASGI scope's headers, names in lower case.
        origins: Origins whose pages may call, exactly as browsers write them.
    """
    if method in SAFE_METHODS:
        return None
    relevant: dict[bytes, str] = {}
    for name, value in headers:
        if name in _RELEVANT_HEADERS:
            relevant.setdefault(name, value.decode("latin-1"))
        elif name in KEY_HEADERS and key_in_header(name, value):
            return None
    if BROWSER_HEADERS.isdisjoint(relevant):
        return None
    if not _is_trusted(relevant, origins):
        return Forbidden(_CROSS_SITE, code="cross_origin")
    if (_has_body(relevant) or _is_silent_cookie(relevant)) and not _is_json(relevant):
        return Forbidden(_NOT_JSON, code="cross_origin")
    return None


def _is_trusted(headers: Mapping[bytes, str], origins: Collection[str]) -> bool:
    origin = headers.get(b"origin")
    if origin is not None and origin in origins:
        return True
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    if origin is not None:
        return _netloc(origin) == headers.get(b"host", "").lower() != ""
    referer = headers.get(b"referer")
    if referer is None:
        return True
    return _netloc(referer) == headers.get(b"host", "").lower() != "" or _origin_of(referer) in origins


def _is_silent_cookie(headers: Mapping[bytes, str]) -> bool:
    """Return whether an old browser may have sent a form; only a content type that forms can't have excludes it."""
    return b"cookie" in headers and headers.keys().isdisjoint({b"sec-fetch-site", b"origin", b"referer"})


def _netloc(url: str) -> str | None:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:  # not an address
        return None


def _origin_of(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def _has_body(headers: Mapping[bytes, str]) -> bool:
    return headers.get(b"content-length", "0") != "0" or b"transfer-encoding" in headers


def _is_json(headers: Mapping[bytes, str]) -> bool:
    media_type = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")
