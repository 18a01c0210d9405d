"""Diagnosis: whether a call could succeed for a provider and credential, without using tokens; else what to change.

It sends two requests. The list of models shows whether the credential is refused, where a credential is required. Then
an empty request is sent to the path of calls: an upstream that refuses it with its protocol's own error has that path,
and has accepted the credential; it computes nothing. The list alone proves little: many servers return it without a
credential, and it shows nothing about the path of calls.
"""

import time

import msgspec

from llmproxy_asgi.clock import SYSTEM
from llmproxy_asgi.errors import (
    GatewayError,
    SocketsExhausted,
    UpstreamAuthFailed,
    UpstreamError,
    UpstreamNotConnected,
    UpstreamOverloaded,
    UpstreamQuotaExceeded,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamTLSError,
)
from llmproxy_asgi.execution.health import MAX_CHECK
from llmproxy_asgi.execution.reasons import describe_response, redact_error
from llmproxy_asgi.providers.base import Credential, HeaderList, Provider
from llmproxy_asgi.providers.target import Route, Target
from llmproxy_asgi.translators.base import AnyOutbound, UpstreamRequest
from llmproxy_asgi.transport import Address, Pool, ResponseTimeout

_EMPTY = b"{}"
_LARGEST = 64 * 1024
_NOT_THERE = frozenset({404, 405, 410, 415})
_UNPROCESSABLE = frozenset({400, 422})
_ANY_MODEL = {"gemini": "gemini-2.5-flash", "gemini-embeddings": "gemini-embedding-001"}
"""The model in the path, if the configuration names none."""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """The result for one provider and credential.

    Args:
        ok: Whether a call could succeed.
        state: In a few words; `ok` if so.
        reason: The upstream's response, in one line without secrets.
        advice: What to change.
        seconds: The duration.
    """

    ok: bool
    state: str
    reason: str = ""
    advice: str = ""
    seconds: float = 0.0


class _ProbeResponse(msgspec.Struct, frozen=True):
    status: int
    body: bytes
    reason: str
    error: UpstreamError | None


async def diagnose(pool: Pool, provider: Provider, credential: Credential) -> Diagnosis:
    """Diagnose a provider with one of its credentials now, without recording the result.

    Args:
        pool: The provider's connections.
        provider: The provider.
        credential: What authenticates the requests.
    """
    since = time.monotonic()
    try:
        found = await _diagnosis(pool, provider, credential)
    except UpstreamError as error:
        seen = redact_error(error, provider.mask(credential), sent=_EMPTY, model="")
        found = _unreached(seen, provider)
    except TimeoutError:
        found = Diagnosis(ok=False, state="does not answer in time", reason=_no_response(provider), advice=_SLOW)
    return msgspec.structs.replace(found, seconds=time.monotonic() - since)


async def _diagnosis(pool: Pool, provider: Provider, credential: Credential) -> Diagnosis:
    listing = provider.health_request()
    if listing is None:
        return Diagnosis(ok=True, state="ok", reason="answers within the process")
    model = _model_of(provider)
    protocol = provider.protocols_of(model)[0]
    model = model or _ANY_MODEL.get(protocol, "")
    target = Target(provider, model)
    route = target.route(protocol)
    headers = provider.headers(protocol, credential)
    listed = await _ask(
        pool, provider, "GET", listing.address, headers=(*headers, *listing.headers), outbound=route.outbound
    )
    if listed.status in (401, 403):
        return _refused_key(_masked(listed, provider, credential))
    response = _masked(
        await _ask(pool, provider, "POST", route.address, headers=headers, outbound=route.outbound),
        provider,
        credential,
    )
    if response.error is None:
        return _judge_success(response, route, provider)
    return _judge_error(response, response.error, provider, route.address, listed=listed.status)


async def _ask(
    pool: Pool, provider: Provider, method: str, url: Address, *, headers: HeaderList, outbound: AnyOutbound
) -> _ProbeResponse:
    timeout = provider.config.timeout
    body = _EMPTY if method == "POST" else b""
    async with ResponseTimeout(timeout.connect, min(timeout.first_byte, MAX_CHECK)) as progress:
        headers = (*headers, *_protocol_headers(outbound))
        answer = await pool.open(method, url, headers, body, connect=timeout.connect, progress=progress)
        try:
            pieces: list[bytes] = []
            while sum(map(len, pieces)) < _LARGEST and (data := await answer.chunk()):
                pieces.append(data)
        finally:
            await answer.aclose()
    content = b"".join(pieces)
    error = outbound.decode_error(answer.status, answer.headers, content) if answer.status >= 300 else None
    return _ProbeResponse(answer.status, content, describe_response(answer, url, content), error)


def _protocol_headers(outbound: AnyOutbound) -> HeaderList:
    return ((b"anthropic-version", b"2023-06-01"),) if outbound.protocol == "anthropic-messages" else ()


def _masked(answer: _ProbeResponse, provider: Provider, credential: Credential) -> _ProbeResponse:
    """Return the response without secrets, and with an error that also recognizes a refused credential by its text."""
    mask = provider.mask(credential)
    reason, error = mask.text(answer.reason), answer.error
    if error is not None:
        error.reason = answer.reason
        seen: GatewayError = redact_error(error, mask, sent=_EMPTY, model="")
        assert isinstance(seen, UpstreamError), "errors of upstreams stay such"
        error, reason = seen, seen.reason
    return _ProbeResponse(answer.status, answer.body, reason, error)


def _judge_success(answer: _ProbeResponse, route: Route, provider: Provider) -> Diagnosis:
    """Judge a success for an empty request: the upstream accepts one, or a page is served for every path."""
    try:
        upstream_request = UpstreamRequest(body=_EMPTY, stream=False)
        route.outbound.decode(answer.body, upstream_request, route.upstream, received_at=SYSTEM.now())
    except UpstreamError:
        return Diagnosis(ok=False, state="does not use its protocol", reason=answer.reason, advice=_base_url(provider))
    return Diagnosis(ok=True, state="ok")


def _judge_error(
    answer: _ProbeResponse, error: UpstreamError, provider: Provider, url: Address, *, listed: int
) -> Diagnosis:
    status, reason = answer.status, answer.reason
    if isinstance(error, UpstreamAuthFailed):
        return _refused_key(answer)
    if isinstance(error, UpstreamQuotaExceeded):
        return Diagnosis(ok=False, state="the quota is exceeded", reason=reason, advice="Add credit at the vendor.")
    if isinstance(error, UpstreamRateLimited):
        return Diagnosis(ok=False, state="rate limited", reason=reason, advice="Try again later.")
    if status < 400:
        return Diagnosis(ok=False, state="redirects", reason=reason, advice=_redirected(provider))
    if status == 404 and url.raw_path.endswith(b"Content") and 200 <= listed < 300:
        return Diagnosis(
            ok=False, state="the model does not exist", reason=reason, advice="Check the names under `models`."
        )
    if status in _NOT_THERE:
        return Diagnosis(ok=False, state="nothing at this address", reason=reason, advice=_base_url(provider))
    if status in _UNPROCESSABLE and isinstance(error, UpstreamRefused) and _is_json(answer.body):
        return Diagnosis(ok=True, state="ok")
    if isinstance(error, UpstreamOverloaded):
        return Diagnosis(ok=False, state="is overloaded", reason=reason, advice="Try again later.")
    advice = "Look at the log of the upstream, or ask the vendor." if status >= 500 else _base_url(provider)
    return Diagnosis(ok=False, state="fails" if status >= 500 else "refuses", reason=reason, advice=advice)


def _refused_key(answer: _ProbeResponse) -> Diagnosis:
    return Diagnosis(ok=False, state="the credential is refused", reason=answer.reason, advice="Replace api_key.")


_SLOW = "Raise `timeout`, or check the network in between."


def _unreached(error: GatewayError, provider: Provider) -> Diagnosis:
    reason = error.reason if isinstance(error, UpstreamError) else error.message
    if isinstance(error, SocketsExhausted):
        state, advice = "this machine has no socket left", "Raise the limit of open files (`ulimit -n`)."
    elif isinstance(error, UpstreamTLSError):
        state, advice = (
            "its certificate is not trusted",
            "Name the certificate's host in base_url, or trust its issuer.",
        )
    elif isinstance(error, UpstreamTimeout):
        state, advice = "does not answer in time", _SLOW
    elif isinstance(error, UpstreamNotConnected):
        state = "cannot be reached"
        advice = "Check `proxy`." if "proxy" in reason else _no_connection(provider)
    else:
        state, advice = "closes the connection", _base_url(provider)
    return Diagnosis(ok=False, state=state, reason=reason, advice=advice)


def _base_url(provider: Provider) -> str:
    version = "" if provider.config.base_url is None else " Is a version missing (/v1), or given twice?"
    return f"base_url is {provider.root}; set it to what the vendor's own SDK takes.{version}"


def _redirected(provider: Provider) -> str:
    return f"base_url is {provider.root}; set it to where the redirect leads, without the path of an endpoint."


def _no_connection(provider: Provider) -> str:
    where = f"base_url is {provider.root}; check its scheme, host and port, and that the server is running."
    return f"{where} If this machine reaches the internet through a proxy, set `proxy`."


def _no_response(provider: Provider) -> str:
    return f"no whole answer within the timeouts of {provider.name}"


def _is_json(body: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(body), dict | list)
    except (ValueError, RecursionError):
        return False


def _model_of(provider: Provider) -> str:
    """Return the upstream's name of a configured model; empty: there is none."""
    entries = [entry for entry in provider.config.models or () if entry.enabled and not entry.is_pattern]
    named = next((entry.upstream or entry.name for entry in entries), "")
    return named or provider.config.default_model or ""
