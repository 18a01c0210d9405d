"""A Starlette application with a login, a chat page, and a gateway mounted behind them.

The gateway shares the application's login: `AuthenticationMiddleware` finds out who is signed in, and
`llmproxy_starlette.mount` hands that user over. README.md says how to run it.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from typing_extensions import override

from llmproxy_asgi import LLMProxy
from llmproxy_starlette import mount

STATIC = Path(__file__).parent / "static"


# --- The gateway ------------------------------------------------------------------------------------------------------


def gateway_config() -> dict[str, Any]:
    """Configure the vendors whose keys are in the environment; without keys, the simulated provider (no network).

    A configuration may as well be a file: `LLMProxy("llmproxy.yaml")`.
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


proxy = LLMProxy(gateway_config())


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


class SessionLogin(AuthenticationBackend):
    @override
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        user = conn.session.get("user")
        return (AuthCredentials(["signed_in"]), SimpleUser(user)) if user in USERS else None


def login_page(_: Request) -> Response:
    return FileResponse(STATIC / "login.html")


async def login(request: Request) -> Response:
    form = parse_qs((await request.body()).decode())
    user, password = (form.get(name, [""])[0] for name in ("user", "password"))
    if not is_password(user, password):
        return RedirectResponse("login#failed", status_code=303)
    request.session.clear()
    request.session["user"] = user
    return RedirectResponse("./", status_code=303)


def logout(request: Request) -> Response:
    request.session.clear()
    return RedirectResponse("login", status_code=303)


# --- The application's own pages --------------------------------------------------------------------------------------


def chat(request: Request) -> Response:
    return FileResponse(STATIC / "chat.html") if request.user.is_authenticated else RedirectResponse("login")


def me(request: Request) -> Response:
    if not request.user.is_authenticated:
        return JSONResponse({"detail": "sign in first"}, status_code=401)
    return JSONResponse({"name": request.user.display_name})


app = Starlette(
    routes=[
        Route("/", chat),
        Route("/me", me),
        Route("/login", login_page),
        Route("/login", login, methods=["POST"]),
        Route("/logout", logout, methods=["POST"]),
        Mount("/static", StaticFiles(directory=STATIC)),
    ],
    middleware=[
        # Without SESSION_SECRET, all users must sign in again after a restart.
        Middleware(SessionMiddleware, secret_key=os.environ.get("SESSION_SECRET") or secrets.token_hex(32)),
        Middleware(AuthenticationMiddleware, backend=SessionLogin()),
    ],
)
mount(app, "/llm", proxy)
