"""What an upstream's error quotes of what it was sent, and of the operator's account, reaches no caller and no log."""

import asyncio
import itertools
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from llmproxy_asgi import LLMProxy
from llmproxy_asgi.testing import (
    Gate,
    Hold,
    Received,
    Scenario,
    ThreadedUpstream,
    Upstream,
    json_answer,
    raw_answer,
    sse_answer,
)
from llmproxy_asgi.testing.scenario import Step

pytestmark = pytest.mark.fault(56)

CHAT, RESPONSES, MESSAGES, GEMINI = "openai-chat", "openai-responses", "anthropic-messages", "gemini"
PROTOCOLS = (CHAT, RESPONSES, MESSAGES, GEMINI)
PAIRS = [pytest.param(client, upstream, id=f"{client}-{upstream}") for client in PROTOCOLS for upstream in PROTOCOLS]

KEYS = {
    CHAT: ["sk-proj-canarykey0001abcdefgh", "plainkeycanary0002", "k3ycanary0003"],
    RESPONSES: ["sk-proj-canarykey0004abcdefgh", "plainkeycanary0005"],
    MESSAGES: ["sk-ant-api03-canarykey0006abcdefgh", "plainkeycanary0007"],
    GEMINI: ["AIzaSyCanarykey0008abcdefghijklmno", "plainkeycanary0009"],
}
HEADERS = {
    "X-Team-Token": "tk42",
    "X-Route": "internal-route-canary0011",
    "X-Gateway-Authorization": "Basic canary0012==",
}
LOOKALIKES = [
    "sk-canary0013***yz", "sk-svcacct-canary0014abcd", "sk-can...0015", "xa***ey0016", "AIzaSyCanary0017abcdefghijkl",
    "ya29.canary0018abcdef", "GOCSPX-canary0019abcdef", "xai-canary0020abcdef", "gsk_canary0021abcdef",
    "hf_canary0022abcd", "r8_canary0023abcdef", "pplx-canary0024abcdef", "nvapi-canary0025abcdef",
    "csk-canary0026abcdef", "llmp_canary0027abc", "ghp_canary0028abcdef", "github_pat_canary0029abc",
    "glpat-canary0030abcdef", "xoxb-canary0031-abcdef", "sess-canary0032abc", "AKIACANARY0033ABCDEF",
    "ASIACANARY0034ABCDEF", "eyJjYW5hcnkwMDM1.eyJjYW5hcnkwMDM2.canary0036sig", "org-canary0037ABCDEF",
    "user-canary0038ABCDEFGH", "proj_canary0039ABCDEF", "****canary0040", "canary0041••••••wxyz",
    "wrkspc_canary0042abc",
    "apikey_canary0043abc", "fw_canary0044abcdef", "tgp_v1_canary0045abc", "acct_canary0046abcdef",
    "pk-lf-canary0047abc",
]  # fmt: skip
IN_CONTEXT = {
    "Bearer canary0048abc": "canary0048abc",
    "authorization: Basic Y2FuYXJ5MDA0OQ==": "Y2FuYXJ5MDA0OQ==",
    "https://api.example.com/v1?key=canary0050": "canary0050",
    "https://api.example.com/v1?x=1&api_key=canary0051&y=2": "canary0051",
    "API key provided: canary0052": "canary0052",
    "api_key=canary0053": "canary0053",
    '"access_token": "canary0054"': "canary0054",
    "client_secret: canary0055": "canary0055",
    "key ending in 'c0056'": "c0056",
    "organization 0f0f0f0f-0057-4a4a-8b8b-0123456789ab": "0f0f0f0f-0057-4a4a-8b8b-0123456789ab",
    "account 005812345678": "005812345678",
    "project number: 0059123456": "0059123456",
    "projects/canary-0060/locations/us": "canary-0060",
    "arn:aws:iam::006112345678:role/canary0061": "canary0061",
    "http://user:canary0062@proxy.example.com": "canary0062",
}
OPS = "the-key-of-an-administrator-0123"
IN_USE = [301, 308, *range(400, 432, 3), 401, 404, 408, 413, 422, 429, 451, 499, 500, 502, 503, 504, 511, 529, 599]
CANARIES = [*itertools.chain(*KEYS.values()), *HEADERS.values(), *LOOKALIKES, *IN_CONTEXT.values()]
SHAPED = [*LOOKALIKES, *IN_CONTEXT]
"""How those canaries stand in a text that are known by their shape."""


def sent(protocol: str) -> list[str]:
    """The canaries that an attempt sends to an upstream of this protocol."""
    return [*KEYS[protocol], *HEADERS.values()]


def ask(client: str, upstream: str, *, stream: bool = False) -> tuple[str, dict[str, Any]]:
    """The path and body of a small request."""
    said = [{"role": "user", "content": "hi"}]
    model = f"{upstream}/{'gemini-3.5-flash' if upstream == GEMINI else 'm-1'}"
    if client == GEMINI:
        method = "streamGenerateContent" if stream else "generateContent"
        return f"/v1beta/models/{model}:{method}", {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    if client == RESPONSES:
        return "/v1/responses", {"model": model, "input": said, "stream": stream}
    if client == MESSAGES:
        return "/v1/messages", {"model": model, "messages": said, "stream": stream, "max_tokens": 64}
    return "/v1/chat/completions", {"model": model, "messages": said, "stream": stream}


async def call(app: LLMProxy, path: str, body: dict[str, Any], *, gate: Gate | None = None) -> tuple[int, str]:
    """The status, and everything else that a caller reads, as one text; the gate opens when an answer begins."""
    got: list[Any] = []
    done = asyncio.Event()
    messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await done.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        got.append(message)
        if gate is not None:
            gate.set()
        if message["type"] == "http.response.body" and not message.get("more_body"):
            done.set()

    query = b"alt=sse" if "streamGenerate" in path else b""
    headers = [
        (b"host", b"x"),
        (b"content-type", b"application/json"),
        (b"x-llmproxy-explain", b"1"),
        (b"x-api-key", OPS.encode()),
    ]
    await app(
        {
            "type": "http", "http_version": "1.1", "method": "POST", "path": path, "raw_path": path.encode(),
            "root_path": "", "scheme": "http", "query_string": query, "headers": headers, "client": ("127.0.0.1", 1),
            "server": ("x", 80),
        },
        receive,
        send,
    )  # fmt: skip
    sent = b"".join(message.get("body", b"") for message in got)
    told = b"\n".join(b": ".join(pair) for pair in got[0]["headers"])
    return got[0]["status"], (told + b"\n\n" + sent).decode()


@pytest.fixture(scope="module")
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread() as made:
        yield made


def gateway(upstream: ThreadedUpstream, **more: Any) -> LLMProxy:
    """One provider for each protocol, whose failures make nothing rest."""
    types = {CHAT: "openai-compatible", RESPONSES: "openai", MESSAGES: "anthropic", GEMINI: "gemini"}
    providers = {
        name: {
            "type": kind,
            "base_url": upstream.base_url + ("/v1" if name in {CHAT, RESPONSES} else ""),
            "api_key": KEYS[name],
            "headers": HEADERS,
            "retry": {"attempts": 1},
            "cooldown": 0,
            **({"protocol": name} if name == RESPONSES else {}),
            **more,
        }
        for name, kind in types.items()
    }
    access = {"mode": "keys", "keys": [{"name": "ops", "key": OPS}], "admins": ["key:ops"]}
    return LLMProxy({"providers": providers, "access": access, "endpoints": {"explain": True}})


def full_of(text: str, status: int, below: str = "") -> dict[str, Any]:
    """An error object that says it in every field that some vendor has, and in some that none has.

    Args:
        text: What it says.
        status: Of the answer.
        below: What stands only below its words: what is quoted in them makes it an error about the credential.
    """
    nested = f"{text} {below}"
    return {
        "message": f"Refused: {text}",
        "type": "invalid_request_error",
        "code": status,
        "status": f"INVALID {text}"[:200],
        "param": f"messages {text}"[:200],
        "details": [
            {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "X", "metadata": {"consumer": nested}}
        ],
        "metadata": {"raw": nested, nested[:100]: text, "nested": [[[{"deep": nested}]]]},
        "innererror": {"code": below},
    }


def bodies(text: str, status: int, below: str = "") -> dict[str, tuple[str, bytes]]:
    """An error in every shape, by a name: its media type and its bytes."""
    error = full_of(text, status, below)
    shapes: dict[str, Any] = {
        "openai": {"error": error},
        "anthropic": {"type": "error", "error": {**error, "type": "invalid_request_error"}, "request_id": text[:90]},
        "list": [{"error": error}],
        "string": {"error": f"Refused: {text}", "code": text[:120]},
        "detail": {"detail": f"Refused: {text}"},
        "details": {"detail": [{"loc": ["body", text[:100]], "msg": text, "type": "value_error"}]},
        "errors": {"errors": [{"message": text}]},
        "bare": {"message": text, "object": "error", "code": 400},
        "code": {"error": {"message": "m", "code": text[:120], "type": text[:120]}},
    }
    written = {name: ("application/json", json.dumps(shape).encode()) for name, shape in shapes.items()}
    page = f"<html><head><title>{text}</title></head><body>{text}</body></html>".encode()
    return {
        **written,
        "html": ("text/html", page),
        "plain": ("text/plain", text.encode()),
        "empty": ("text/plain", b""),
    }


def answer_with(status: int, media_type: str, body: bytes) -> Scenario:
    """An answer whose headers say it all, too."""
    told = "; ".join([*itertools.chain(*KEYS.values()), *HEADERS.values(), *SHAPED]).encode("ascii", "ignore")
    head = [
        b"HTTP/1.1 %d Nope" % status,
        b"content-type: " + media_type.encode(),
        b"content-length: %d" % len(body),
        b"www-authenticate: Bearer error=" + told,
        b"openai-organization: org-canary0037ABCDEF",
        b"x-request-id: " + LOOKALIKES[1].encode(),
        b"request-id: " + LOOKALIKES[1].encode(),
        b"location: https://u:canary0062@x.example.com/" + LOOKALIKES[4].encode() + b"?key=canary0050",
    ]
    return raw_answer(b"\r\n".join(head) + b"\r\n\r\n" + body)


def check(told: str) -> None:
    """No canary is in any output."""
    seen = [canary for canary in CANARIES if canary in told or json.dumps(canary)[1:-1] in told]
    assert not seen, f"{seen} in {told[:3000]}"


def check_logs(caplog: pytest.LogCaptureFixture) -> None:
    """Nor in what is logged, fields included."""
    for record in caplog.records:
        check(record.getMessage() + repr(record.__dict__))
    caplog.clear()


@pytest.mark.anyio
@pytest.mark.parametrize(("client", "protocol"), PAIRS)
async def test_no_status_brings_a_secret_to_a_caller(
    upstream: ThreadedUpstream, caplog: pytest.LogCaptureFixture, client: str, protocol: str
) -> None:
    """Whatever the status from 300 to 599: no canary in the answer, its headers, its explanation or a log record."""
    app = gateway(upstream)
    text, below = " ".join(SHAPED), " ".join(sent(protocol))
    # Which class of statuses it belongs to decides; so where the same code reads them, a pair takes those in use.
    tried = [*range(300, 304), *range(305, 309), *range(400, 600)] if client == protocol else IN_USE
    statuses = iter(tried)

    def refuse(_: Received) -> Scenario:
        status = next(statuses)
        return answer_with(status, *bodies(text, status, below)["anthropic" if protocol == MESSAGES else "openai"])

    upstream.default = refuse
    with caplog.at_level(logging.DEBUG, logger="llmproxy_asgi"):
        async with app.gateway:
            for status in tried:
                answered, told = await call(app, *ask(client, protocol, stream=bool(status % 2)))
                assert answered >= 400
                check(told)
    check_logs(caplog)


@pytest.mark.anyio
@pytest.mark.parametrize(("client", "protocol"), PAIRS)
async def test_no_shape_of_an_error_brings_a_secret_to_a_caller(
    upstream: ThreadedUpstream, caplog: pytest.LogCaptureFixture, client: str, protocol: str
) -> None:
    """However an error is written, each canary alone in it: none reaches a caller or a log."""
    app = gateway(upstream)
    with caplog.at_level(logging.DEBUG, logger="llmproxy_asgi"):
        async with app.gateway:
            for status, shape in itertools.product((400, 401, 403, 404, 422, 429, 500, 503), bodies("", 400)):
                everything = [*sent(protocol), *SHAPED]
                quoted = everything[(status + len(shape)) % 9 :: 9]
                upstream.default = answer_with(status, *bodies(", ".join(quoted), status)[shape])
                _, told = await call(app, *ask(client, protocol))
                check(told)
    check_logs(caplog)


def begun(protocol: str) -> list[bytes]:
    """The first frames of a stream."""
    if protocol == CHAT:
        delta = {"index": 0, "delta": {"role": "assistant", "content": "half"}, "finish_reason": None}
        return [
            event(None, {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [delta]})
        ]
    if protocol == MESSAGES:
        message: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [],
                   "stop_reason": None, "usage": {"input_tokens": 1, "output_tokens": 1}}  # fmt: skip
        start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "half"}}
        return [
            event("message_start", {"type": "message_start", "message": message}),
            event("content_block_start", start),
        ]
    if protocol == GEMINI:
        part = {"content": {"role": "model", "parts": [{"text": "half"}]}, "index": 0}
        return [event(None, {"candidates": [part], "modelVersion": "m", "responseId": "r"})]
    answer = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "in_progress",
        "model": "m",
        "output": [],
    }
    return [event("response.created", {"type": "response.created", "sequence_number": 0, "response": answer})]


def event(name: str | None, data: Any) -> bytes:
    """One frame."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def failures(protocol: str, text: str) -> list[bytes]:
    """Every way in which a stream of this protocol tells that it failed."""
    error = full_of(text, 400, " ".join(sent(protocol)))
    common = [event("error", {"error": error}), event(None, {"error": error}), event("error", text)]
    if protocol == RESPONSES:
        answer = {"id": "resp_1", "object": "response", "created_at": 1, "status": "failed", "model": "m", "output": [],
                  "error": {"code": "invalid_prompt", "message": text}, "metadata": {"x": text}}  # fmt: skip
        flat = {"type": "error", "code": text[:90], "message": text, "param": text[:90], "sequence_number": 1}
        failed = {"type": "response.failed", "sequence_number": 2, "response": answer}
        unnamed = {key: value for key, value in flat.items() if key != "type"}
        return [*common, event("response.failed", failed), event("error", flat), event("error", unnamed)]
    if protocol == MESSAGES:
        return [*common, event("error", {"type": "error", "error": {**error, "type": "invalid_request_error"}})]
    return common


@pytest.mark.anyio
@pytest.mark.parametrize("after", [False, True], ids=["first", "later"])
@pytest.mark.parametrize(("client", "protocol"), PAIRS)
async def test_no_event_of_a_stream_brings_a_secret_to_a_caller(
    upstream: ThreadedUpstream, caplog: pytest.LogCaptureFixture, client: str, protocol: str, after: bool
) -> None:
    """An error event at the start of a stream or in its middle, passed on or translated, holds no canary."""
    app = gateway(upstream)
    with caplog.at_level(logging.DEBUG, logger="llmproxy_asgi"):
        async with app.gateway:
            for failed in [*failures(protocol, " ".join(SHAPED)), *failures(protocol, " ".join(sent(protocol)))]:
                gate = Gate()
                frames: list[bytes | Step] = [*begun(protocol), Hold(gate)] if after else []
                upstream.default = sse_answer([*frames, failed])
                status, told = await call(app, *ask(client, protocol, stream=True), gate=gate)
                assert (status == 200) is after
                check(told)
    check_logs(caplog)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": f"{CHAT}/e", "input": "hi"}),
        ("/v1/embeddings", {"model": f"{GEMINI}/gemini-embedding-001", "input": "hi"}),
        ("/v1beta/models/gemini/gemini-embedding-001:batchEmbedContents",
         {"requests": [{"model": "models/gemini-embedding-001", "content": {"parts": [{"text": "hi"}]}}]}),
        ("/v1/completions", {"model": f"{CHAT}/m", "prompt": "hi"}),
        ("/v1/completions", {"model": f"{CHAT}/m", "prompt": ["hi", "ho"]}),
        ("/v1/messages/count_tokens", {"model": f"{MESSAGES}/m", "messages": [{"role": "user", "content": "hi"}]}),
        ("/v1beta/models/gemini/gemini-3.5-flash:countTokens", {"contents": [{"parts": [{"text": "hi"}]}]}),
        ("/v1/responses/input_tokens", {"model": f"{RESPONSES}/m", "input": "hi"}),
    ],
)  # fmt: skip
async def test_no_other_path_brings_a_secret_to_a_caller(
    upstream: ThreadedUpstream, caplog: pytest.LogCaptureFixture, path: str, body: dict[str, Any]
) -> None:
    """Embeddings, completions and counts of tokens keep secrets as calls do."""
    app = gateway(upstream)
    name = body.get("model", GEMINI).partition("/")[0]
    below = " ".join(sent(name))
    with caplog.at_level(logging.DEBUG, logger="llmproxy_asgi"):
        async with app.gateway:
            for status, shape in itertools.product((400, 401, 403, 418, 422, 429, 500, 503), bodies("", 400)):
                upstream.default = answer_with(status, *bodies(" ".join(SHAPED), status, below)[shape])
                answered, told = await call(app, path, body)
                assert answered >= 400
                check(told)
            upstream.default = json_answer(200, {"error": full_of(" ".join(SHAPED), 400, below), "status": "failed"})
            answered, told = await call(app, path, body)
            assert answered >= 400
            check(told)
    check_logs(caplog)


@pytest.mark.anyio
async def test_what_callers_need_is_kept(upstream: ThreadedUpstream) -> None:
    """A refusal still says which field is wrong and why; only the secret in it is masked."""
    upstream.default = json_answer(
        400,
        {"error": {"message": "Unsupported value: 'temperature' of sk-canary0013***yz must be at most 2.",
                   "type": "invalid_request_error", "param": "temperature", "code": "unsupported_value"}},
    )  # fmt: skip
    app = gateway(upstream)
    async with app.gateway:
        status, told = await call(app, *ask(CHAT, CHAT))
    assert status == 400
    error = json.loads(told.partition("\n\n")[2])["error"]
    assert error["message"] == "Unsupported value: 'temperature' of *** must be at most 2."
    assert (error["param"], error["code"]) == ("temperature", "unsupported_value")


def test_there_are_sixty_canaries() -> None:
    """The suite plants at least sixty different ones."""
    assert len(set(CANARIES)) >= 60
