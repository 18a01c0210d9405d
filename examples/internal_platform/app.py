"""One gateway for a company: people use single sign-on, machines use keys, and each team is a tenant.

A proxy in front signs people in and passes their name on. Whoever reaches this application past the proxy could write
that header, too; so it counts only together with a secret that the proxy alone adds, and only from the proxy's address.
README.md says how to run it, and what the proxy has to do.
"""

import hmac
import os
from typing import Any

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from llmproxy_asgi import LLMProxy, Principal
from llmproxy_starlette import mount

PROXY_SECRET = os.environ["PROXY_SECRET"]  # required
PROXY_ADDRESSES = set(os.environ.get("PROXY_ADDRESSES", "127.0.0.1,::1").split(","))

TEAMS = {"alice": "search", "bob": "payments", "carol": "payments"}
LEADS = {"alice", "carol"}


# --- Who is calling ---------------------------------------------------------------------------------------------------


def comes_from_proxy(connection: HTTPConnection) -> bool:
    sent = connection.headers.get("x-proxy-secret", "")
    near = connection.client is not None and connection.client.host in PROXY_ADDRESSES
    return near and hmac.compare_digest(sent.encode(), PROXY_SECRET.encode())


async def single_sign_on(connection: HTTPConnection) -> Principal | None:
    """Return the caller that the proxy names; None without the proxy's secret and address, or without a team."""
    name = connection.headers.get("x-forwarded-user", "")
    if not comes_from_proxy(connection) or name not in TEAMS:
        return None
    groups = ("staff", "leads") if name in LEADS else ("staff",)
    return Principal(name, display_name=name.title(), tenant=TEAMS[name], groups=groups)


# --- The gateway ------------------------------------------------------------------------------------------------------


def gateway_config() -> dict[str, Any]:
    """Configure the vendors whose keys are in the environment, or the simulated provider; and a machine key, if set."""
    providers: dict[str, Any] = {}
    targets = []
    if os.environ.get("OPENAI_API_KEY"):
        base_url = os.environ.get("OPENAI_BASE_URL")
        elsewhere = {"type": "openai-compatible", "base_url": base_url} if base_url else {"type": "openai"}
        providers["openai"] = {**elsewhere, "api_key": "${OPENAI_API_KEY}"}
        targets.append("openai/" + os.environ.get("OPENAI_MODEL", "gpt-5-mini"))
    if os.environ.get("ANTHROPIC_API_KEY"):
        base_url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
        providers["anthropic"] = {"base_url": base_url, "api_key": "${ANTHROPIC_API_KEY}"}
        targets.append("anthropic/" + os.environ.get("ANTHROPIC_MODEL", "claude-haiku-4-5"))
    if not providers:
        providers["simulated"] = {"delay": "20ms"}
        targets.append("simulated/echo")
    keys = []
    if os.environ.get("CI_KEY"):
        # The build may use only this model, and counts for the payments team.
        keys.append({"name": "ci", "key": "${CI_KEY}", "models": ["assistant"], "tenant": "payments"})
    return {"providers": providers, "models": {"assistant": {"targets": targets}}, "access": {"keys": keys}}


proxy = LLMProxy(gateway_config(), identify=single_sign_on)


# --- The application's own pages --------------------------------------------------------------------------------------


async def me(request: Request) -> Response:
    principal = await single_sign_on(request)
    if principal is None:
        return JSONResponse({"detail": "come through the single sign-on"}, status_code=401)
    return JSONResponse({"name": principal.display_name, "team": principal.tenant, "groups": principal.groups})


app = Starlette(routes=[Route("/me", me)])
mount(app, "/llm", proxy)
