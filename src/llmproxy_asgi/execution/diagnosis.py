"""Whether a call could succeed, asked of one provider by one credential without a token; and what to change otherwise.

Two questions. The listing of models shows a refused credential where it wants one. Then an empty request goes to the
very path of calls: an upstream that refuses it in its protocol's own error shape has that path, and has taken the
credential; it computes nothing. A listing alone would prove little: many servers give it to anybody, and it says
nothing of the path of calls.
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
from llmproxy_asgi.execution.health import LONGEST_CHECK
from llmproxy_asgi.execution.reasons import answered, disclosed
from llmproxy_asgi.providers.base import Credential, HeaderList, Provider
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.translators.base import AnyOutbound, UpstreamRequest
from llmproxy_asgi.transport import Address, Pool, ResponseTimeout

_EMPTY = b"{}"
_LARGEST = 64 * 1024
_NOT_THERE = frozenset({404, 405, 410, 415})
_UNPROCESSABLE = frozenset({400, 422})
_ANY_MODEL = {"gemini": "gemini-2.5-flash", "gemini-embeddings": "gemini-embedding-001"}
"""A model to ask for where the path names one and the configuration none."""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What one provider said to one credential.

    Args:
        ok: Whether a call could succeed.
        state: In a few words; `ok` where it is.
        reason: What came back, in one line without secrets.
        advice: What to change.
        seconds: How long it took.
    """

    ok: bool
    state: str
    reason: str = ""
    advice: str = ""
    seconds: float = 0.0


class _Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes
    reason: str
    error: UpstreamError | None


async def diagnose(pool: Pool, provider: Provider, credential: Credential) -> Diagnosis:
    """Ask one provider, now, by one of its credentials. Nothing is noted of what it says.

    Args:
        pool: Its connections.
        provider: Whom to ask.
        credential: What signs the questions.
    """
    since = time.monotonic()
    try:
        found = await _asked(pool, provider, credential)
    except UpstreamError as error:
        seen = disclosed(error, provider.mask(credential), sent=_EMPTY, model="")
        found = _unreached(seen, provider)
    except TimeoutError:
        found = Diagnosis(ok=False, state="does not answer in time", reason=_whole(provider), advice=_SLOW)
    return msgspec.structs.replace(found, seconds=time.monotonic() - since)


async def _asked(pool: Pool, provider: Provider, credential: Credential) -> Diagnosis:
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
    asked = _masked(
        await _ask(pool, provider, "POST", route.address, headers=headers, outbound=route.outbound),
        provider,
        credential,
    )
    if asked.error is None:
        return _served(asked, target, protocol)
    return _judged(asked, asked.error, provider, route.address, listed=listed.status)


async def _ask(
    pool: Pool, provider: Provider, method: str, url: Address, *, headers: HeaderList, outbound: AnyOutbound
) -> _Answer:
    timeout = provider.config.timeout
    body = _EMPTY if method == "POST" else b""
    async with ResponseTimeout(timeout.connect, min(timeout.first_byte, LONGEST_CHECK)) as progress:
        headers = (*headers, *_protocols_own(outbound))
        answer = await pool.open(method, url, headers, body, connect=timeout.connect, progress=progress)
        try:
            pieces: list[bytes] = []
            while sum(map(len, pieces)) < _LARGEST and (data := await answer.chunk()):
                pieces.append(data)
        finally:
            await answer.aclose()
    told = b"".join(pieces)
    error = outbound.decode_error(answer.status, answer.headers, told) if answer.status >= 300 else None
    return _Answer(answer.status, told, answered(answer, url, told), error)


def _protocols_own(outbound: AnyOutbound) -> HeaderList:
    return ((b"anthropic-version", b"2023-06-01"),) if outbound.protocol == "anthropic-messages" else ()


def _masked(answer: _Answer, provider: Provider, credential: Credential) -> _Answer:
    """The answer without secrets, and with an error that knows a credential's by its words, too."""
    mask = provider.mask(credential)
    reason, error = mask.text(answer.reason), answer.error
    if error is not None:
        error.reason = answer.reason
        seen: GatewayError = disclosed(error, mask, sent=_EMPTY, model="")
        assert isinstance(seen, UpstreamError), "it is one of an upstream"
        error, reason = seen, seen.reason
    return _Answer(answer.status, answer.body, reason, error)


def _served(answer: _Answer, target: Target, protocol: str) -> Diagnosis:
    """What a good answer to an empty request means: an upstream that takes one, or a page that answers everything."""
    route = target.route(protocol)
    try:
        upstream_request = UpstreamRequest(body=_EMPTY, stream=False)
        route.outbound.decode(answer.body, upstream_request, route.upstream, received_at=SYSTEM.now())
    except UpstreamError:
        return Diagnosis(
            ok=False, state="does not use its protocol", reason=answer.reason, advice=_base_url(target.provider)
        )
    return Diagnosis(ok=True, state="ok")


def _judged(answer: _Answer, error: UpstreamError, provider: Provider, url: Address, *, listed: int) -> Diagnosis:
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


def _refused_key(answer: _Answer) -> Diagnosis:
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


def _whole(provider: Provider) -> str:
    return f"no whole answer within the timeouts of {provider.name}"


def _is_json(body: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(body), dict | list)
    except (ValueError, RecursionError):
        return False


def _model_of(provider: Provider) -> str:
    """A model that the configuration names, by the upstream's name; empty: none."""
    entries = [entry for entry in provider.config.models or () if entry.enabled and not entry.is_pattern]
    named = next((entry.upstream or entry.name for entry in entries), "")
    return named or provider.config.default_model or ""
