"""A Flask application with a login, a chat page, and a gateway as a blueprint behind its session.

It streams under any WSGI server with threads. README.md says how to run it.
"""

import hashlib
import hmac
import os
import secrets
from typing import Any

from flask import Flask, redirect, request, session
from starlette.requests import HTTPConnection
from werkzeug import Response

from llmproxy_flask import LLMProxy

# --- The gateway ------------------------------------------------------------------------------------------------------


def gateway_config() -> dict[str, Any]:
    """Configure the vendors whose keys are in the environment; without keys, the simulated provider (no network).

    A configuration may as well be a file: `LLMProxy(app, "llmproxy.yaml")`.
    """
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
        targets.append("simulated/story")
    return {"providers": providers, "models": {"assistant": {"targets": targets}}}


def who_is_calling(_: HTTPConnection) -> str | None:
    """Return the signed-in user, or None. It runs inside the request context, so `session` is available."""
    user = session.get("user")
    return user if user in USERS else None


# --- The login: made-up users, salted hashes, a signed cookie ---------------------------------------------------------

USERS = {
    "alice": ("e1c35ba21dc9246abbe2db06875f00cd", "4eb60dcea9ca0f7b3e2f592b02a66f902ae49a482b621fc0703690c51e12df43"),
    "bob": ("aafa2161c1dc5d5f3bc52f02b9959751", "0df9b7d9eddb09218ccb8d7d811792c15bc938d41325ada3e9e20e56ee8b875b"),
}
UNKNOWN = ("00" * 16, "00" * 32)  # an unknown name takes as long to refuse as a wrong password


def is_password(user: str, password: str) -> bool:
    salt, digest = USERS.get(user, UNKNOWN)
    hashed = hashlib.scrypt(password.encode(), salt=bytes.fromhex(salt), n=2**14, r=8, p=1, dklen=32)
    return hmac.compare_digest(hashed, bytes.fromhex(digest))


app = Flask(__name__)
# Without SESSION_SECRET, all users must sign in again after a restart. All workers need the same one: start them
# with --preload, or set it.
app.secret_key = os.environ.get("SESSION_SECRET") or secrets.token_hex(32)
app.config["SESSION_COOKIE_SAMESITE"] = "Lax"

LLMProxy(app, gateway_config(), url_prefix="/llm", identify=who_is_calling)


@app.get("/login")
def login_page() -> Response:
    return app.send_static_file("login.html")


@app.post("/login")
def login() -> Response:
    user = request.form.get("user", "")
    if not is_password(user, request.form.get("password", "")):
        return redirect("login#failed", 303)
    session.clear()
    session["user"] = user
    return redirect("./", 303)


@app.post("/logout")
def logout() -> Response:
    session.clear()
    return redirect("login", 303)


# --- The application's own pages --------------------------------------------------------------------------------------


@app.get("/")
def chat() -> Response:
    return app.send_static_file("chat.html") if session.get("user") in USERS else redirect("login")


@app.get("/me")
def me() -> tuple[dict[str, str], int]:
    if session.get("user") not in USERS:
        return {"detail": "sign in first"}, 401
    return {"name": session["user"].title()}, 200
