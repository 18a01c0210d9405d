"""Cases that are right requests under wrong heads: method, path, query, keys, types, lengths, our own headers.

Values hold whatever some server lets through, so that none of them may be trusted to have looked.
"""

import json
import random
from typing import NamedTuple
from urllib.parse import unquote

from fuzz import seeds
from fuzz.harness import KEY, PATHS, Answered, Asked, FuzzHarness
from fuzz.legal import Illegal, check_error, check_head, read
from fuzz.request_cases import RequestCase, judge
from fuzz.seeds import CHAT, GEMINI, MESSAGES, UPSTREAMS

_KEY = KEY.encode()
_METHODS = ("POST",) * 12 + ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "post", "X-Y", "")
_NAMES = (
    b"authorization", b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key", b"cookie", b"content-type",
    b"content-type", b"content-length", b"content-encoding", b"transfer-encoding", b"accept", b"accept-encoding",
    b"x-request-id", b"x-llmproxy-strict", b"x-llmproxy-explain", b"x-llmproxy-attempts", b"x-llmproxy-model",
    b"anthropic-version", b"anthropic-beta", b"openai-organization", b"x-goog-api-client", b"idempotency-key",
    b"host", b"origin", b"sec-fetch-site", b"x-forwarded-for", b"x-original-url", b"x-http-method-override",
    b"x-session-id", b"session_id", b"expect", b"connection", b"upgrade", b"range", b"if-none-match", b"traceparent",
)  # fmt: skip
_VALUES = (
    b"", b" ", b"Bearer", b"Bearer ", b"bearer " + _KEY, b"Bearer  " + _KEY, b"Bearer " + _KEY + b" ", b"Basic YTpi",
    b"Bearer " + _KEY[:-1], b"Bearer " + _KEY + b"x", _KEY, b"llmp_", b"Bearer llmp_\xff", b"Bearer " + b"a" * 9000,
    b"\xff\xfe", b"\xc3\xa9", b"a\tb", b"a\x00b", b"a\r\nx: y", b"a,b", b",", b"1", b"true", b"yes", b"0", b"-1",
    b"1e9",
    b"99999999999999999999", b"\xb2", b"\xd9\xa3", b"application/json", b"application/json; charset=utf-16",
    b"APPLICATION/JSON", b"application/json, text/html", b"application/vnd.a+json", b"text/plain",
    b"multipart/form-data; boundary=x", b"application/x-www-form-urlencoded", b"gzip", b"identity", b"br, gzip",
    b"same-origin", b"cross-site", b"null", b"https://evil.example", b"req_1", b"a" * 128, b"a" * 129, b"../x",
    b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", b"100-continue", b"close", b"chunked", b"' OR 1=1 --",
    b"${jndi:x}", b"%0d%0a", b"2023-06-01", b"x" * 70_000,
)  # fmt: skip
_TARGETS = (
    "/health", "/ready", "/metrics", "/ui/", "/v1/models", "/v1beta/models", "/v1/models/smart",
    "/v1/models/chat/gpt-4o",
    "/v1beta/models/smart", "/v1/responses/resp_1", "/v1/responses/resp_1/cancel", "/v1/responses/resp_1/input_items",
    "/v1/responses/", "/v1/messages/count_tokens", "/v1/responses/input_tokens", "/v1/models/", "/", "", "//", "*",
    "/v1beta/models/:generateContent", "/v1/models/a:b:generateContent", "/v1/chat/completions/",
    "/v1/responses/resp_1/input_items/x", "/accounts", "/admin", "/v1/responses/\udcff", "/v1/models/\0",
    "/v1/responses/a%2fb",
)  # fmt: skip
_PATH_MORSELS = ("/", "//", "/.", "/..", "%2e", "%2f", ";x", "?", "#", "\0", "é", "\u202e", ":", " ", "\\", "%", "%00")
_QUERIES = (
    b"key=" + _KEY, b"key=wrong", b"key=", b"key=a&key=b", b"alt=sse&key=" + _KEY, b"alt=json", b"alt=", b"alt=%ff",
    b"beta=true", b"after=x&limit=-1", b"limit=99999999999999999999&order=up", b"stream=true&starting_after=x",
    b"stream=true&starting_after=-9", b"include[]=a", b"&" * 100, b"alt=sse" + b"&a" * 100, b"%", b"\xff",
    b"a=" + b"b" * 9000,
    b"pageSize=0&pageToken=x", b"$alt=sse", b"alt=media",
)  # fmt: skip


class HeaderCase(NamedTuple):
    """A request, and the protocol of its path, if it has one still."""

    protocol: str
    asked: Asked

    def show(self) -> str:
        """The input, for debugging."""
        return self.asked.show()


def header_case(protocol: str, rng: random.Random) -> HeaderCase:
    """One case, all of it from `rng`."""
    tree = dict(rng.choice(seeds.requests(protocol)).tree)
    path, query = PATHS.get(protocol, "/v1beta/models/chat/harness-1:streamGenerateContent"), b""
    if protocol != GEMINI:
        tree["model"] = "old/m" if protocol not in UPSTREAMS else "smart"
    if rng.random() < 0.35:
        path = rng.choice(_TARGETS) if rng.random() < 0.5 else path
        if rng.random() < 0.7:
            at = rng.randrange(len(path) + 1)
            path = path[:at] + rng.choice(_PATH_MORSELS) + path[at + rng.choice((0, 0, 1)) :]
        if rng.random() < 0.2:
            path = unquote(path)
    if rng.random() < 0.4 or protocol == GEMINI:
        query = rng.choice(_QUERIES)
    body = json.dumps(tree).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if rng.random() < 0.75:
        headers.insert(0, (b"authorization", b"Bearer " + _KEY))
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        entry = (rng.choice(_NAMES), _value(rng))
        if rng.random() < 0.5:
            headers = [each for each in headers if each[0] != entry[0]]
        headers.append(entry)
    return HeaderCase(
        protocol, Asked(method=rng.choice(_METHODS), path=path, query=query, headers=headers, pieces=[body])
    )


def _value(rng: random.Random) -> bytes:
    value = rng.choice(_VALUES)
    if rng.random() < 0.2 and value:
        at = rng.randrange(len(value))
        value = value[:at] + bytes([rng.randrange(256)]) + value[at + 1 :]
    return value


async def play_header(case: HeaderCase, harness: FuzzHarness, rng: random.Random) -> None:
    """Play it, and judge what comes.

    Raises:
        Illegal: That breaks a promise.
    """
    harness.upstream.rng = rng
    answered = await harness.call(case.asked)
    if answered is None:
        raise Illegal("no answer at all")
    head = case.asked.method == "HEAD"
    check_head(answered.status, answered.headers, answered.body, head=head)
    if head:
        if answered.body:
            raise Illegal("an answer to HEAD has a body")
        return
    shape = _called(case.asked)
    if answered.status != 200:
        _any_error(answered, shape)
    elif shape is not None and case.asked.method == "POST":
        array = shape == GEMINI and answered.body.startswith(b"[")
        judge(RequestCase(shape, case.asked, _method(case.asked.path), array), answered)
    elif answered.headers.get(b"content-type") == b"application/json":
        read(answered.body)


def _called(asked: Asked) -> str | None:
    """The protocol of a path that reaches a model."""
    for protocol, path in PATHS.items():
        if asked.path == path:
            return protocol
    if asked.path == "/v1/messages/count_tokens":
        return MESSAGES
    ends = (":generateContent", ":streamGenerateContent", ":countTokens")
    return GEMINI if asked.path.startswith(("/v1/models/", "/v1beta/models/")) and asked.path.endswith(ends) else None


def _method(path: str) -> str:
    return "count" if path.endswith(("count_tokens", ":countTokens")) else ""


def _any_error(answered: Answered, shape: str | None) -> None:
    """The error of the path's protocol; of a path that is none's, any protocol's."""
    if shape is not None:
        check_error(shape, answered.status, answered.body)
        return
    wrong: list[Illegal] = []
    for protocol in (CHAT, MESSAGES, GEMINI):
        try:
            check_error(protocol, answered.status, answered.body)
        except Illegal as error:
            wrong.append(error)
        else:
            return
    raise wrong[0]
