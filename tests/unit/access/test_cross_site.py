"""What shows that no foreign page made a browser send a request, header by header."""

import pytest

from llmproxy_asgi.access.cross_site import cross_site_refusal

JSON = ("content-type", "application/json")
TEXT = ("content-type", "text/plain")
BODY = ("content-length", "5")
COOKIE = ("cookie", "session=abc")
HOST = ("host", "app.example")
OWN = ("origin", "https://app.example")
EVIL = ("origin", "https://evil.example")
LISTED = ("origin", "https://spa.example:8443")
SAME, SISTER, CROSS, NONE = (("sec-fetch-site", site) for site in ("same-origin", "same-site", "cross-site", "none"))
NODE = ("sec-fetch-mode", "cors")
"""What `fetch` of Node.js sends, and no other header of a browser's."""


def refused(*headers: tuple[str, str], method: str = "POST") -> bool:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return cross_site_refusal(method, raw, {"https://spa.example:8443"}) is not None


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([TEXT, BODY], id="no browser"),
        pytest.param([], id="nothing at all"),
        pytest.param([SAME, JSON, BODY], id="a page of this site"),
        pytest.param([SAME, EVIL, JSON, BODY], id="a page of this site, behind a proxy that renames the host"),
        pytest.param([SAME, ("content-type", "Application/JSON; charset=utf-8"), BODY], id="JSON in other letters"),
        pytest.param([SAME, ("content-type", "application/merge+json"), BODY], id="JSON of a kind"),
        pytest.param([SAME], id="no body"),
        pytest.param([SAME, ("content-length", "0")], id="an empty body"),
        pytest.param([OWN, HOST, JSON, BODY], id="a browser without Sec-Fetch-Site"),
        pytest.param([("referer", "https://app.example/page"), HOST, JSON, BODY], id="a referer alone"),
        pytest.param([("referer", "https://spa.example:8443/page"), HOST, JSON, BODY], id="a listed referer alone"),
        pytest.param([LISTED, CROSS, JSON, BODY], id="a listed origin"),
        pytest.param([LISTED, SISTER, JSON, BODY], id="a listed origin of the same site"),
        pytest.param([LISTED, HOST, JSON, BODY], id="a listed origin without Sec-Fetch-Site"),
        pytest.param([COOKIE, JSON, BODY], id="a cookie of something that is no browser"),
        pytest.param([NODE, JSON, BODY], id="Node.js"),
        pytest.param([NODE], id="Node.js without a body"),
    ],
)
def test_these_pass(headers: list[tuple[str, str]]) -> None:
    """They come from this site, from a listed origin, or from no browser."""
    assert not refused(*headers)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([CROSS, JSON, BODY], id="another site"),
        pytest.param([SISTER, JSON, BODY], id="a sister site"),
        pytest.param([NONE, JSON, BODY], id="no site header"),
        pytest.param([CROSS], id="another site without a body"),
        pytest.param([OWN, HOST, CROSS, JSON], id="another site with our origin"),
        pytest.param([EVIL, HOST, JSON, BODY], id="another origin"),
        pytest.param([("origin", "null"), HOST, JSON], id="a sandboxed page"),
        pytest.param([("origin", "null"), JSON], id="a sandboxed page, and no host"),
        pytest.param([("origin", "http://["), HOST, JSON], id="an origin that is none"),
        pytest.param([("origin", ""), HOST, JSON], id="an empty origin"),
        pytest.param([("referer", "https://evil.example/app.example"), HOST, JSON], id="another referer"),
        pytest.param([("referer", "http://["), HOST, JSON], id="a referer that is none"),
        pytest.param([SAME, TEXT, BODY], id="a form's content type"),
        pytest.param([SAME, BODY], id="no content type"),
        pytest.param([SAME, ("transfer-encoding", "chunked")], id="no content type, chunked"),
        pytest.param([LISTED, CROSS, TEXT, BODY], id="a listed origin's form"),
        pytest.param([OWN, HOST, TEXT, BODY], id="a form of this site"),
        pytest.param([NODE, TEXT, BODY], id="Node.js with a form's content type"),
        pytest.param([COOKIE, TEXT, BODY], id="a cookie with a form's content type"),
        pytest.param([COOKIE], id="a cookie alone, as an old browser's empty form"),
        pytest.param([CROSS, JSON, ("authorization", "Basic YTpi")], id="Basic is no key"),
        pytest.param([CROSS, JSON, ("authorization", "Bearer ")], id="an empty bearer is no key"),
        pytest.param([CROSS, JSON, ("x-api-key", " ")], id="a blank key is none"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH", "TRACE", "PROPFIND"])
def test_these_do_not(headers: list[tuple[str, str]], method: str) -> None:
    """A foreign page may have made a browser send them."""
    assert refused(*headers, method=method)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_what_changes_nothing_may_come_from_anywhere(method: str) -> None:
    """A page of another site cannot read the answer, and nothing happens."""
    assert not refused(CROSS, EVIL, COOKIE, method=method)
