"""A FastAPI application with a login, a chat page, and a gateway behind its own dependencies.

`include_llm` runs `current_user` before the gateway is reached, as for any other route; what it yields is the caller.
README.md says how to run it.
"""

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Form, HTTPException, Request
from fastapi.responses import FileResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware.sessions import SessionMiddleware

from llmproxy_asgi import LLMProxy
from llmproxy_fastapi import include_llm

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


@dataclass
class User:
    id: str
    display_name: str


def current_user(request: Request) -> User | None:
    """Return the signed-in user. With None, the gateway refuses in the format of the client's protocol."""
    name = request.session.get("user")
    return User(id=name, display_name=name.title()) if name in USERS else None


CurrentUser = Annotated[User | None, Depends(current_user)]

app = FastAPI(title="Chat")
# Without SESSION_SECRET, all users must sign in again after a restart.
app.add_middleware(SessionMiddleware, secret_key=os.environ.get("SESSION_SECRET") or secrets.token_hex(32))
app.mount("/static", StaticFiles(directory=STATIC))

include_llm(app, "/llm", proxy, user=Depends(current_user))


@app.get("/login", include_in_schema=False)
def login_page() -> Response:
    return FileResponse(STATIC / "login.html")


@app.post("/login", include_in_schema=False)
def login(request: Request, user: Annotated[str, Form()], password: Annotated[str, Form()]) -> Response:
    if not is_password(user, password):
        return RedirectResponse("login#failed", status_code=303)
    request.session.clear()
    request.session["user"] = user
    return RedirectResponse("./", status_code=303)


@app.post("/logout", include_in_schema=False)
def logout(request: Request) -> Response:
    request.session.clear()
    return RedirectResponse("login", status_code=303)


# --- The application's own pages --------------------------------------------------------------------------------------


@app.get("/", include_in_schema=False)
def chat(user: CurrentUser) -> Response:
    return FileResponse(STATIC / "chat.html") if user else RedirectResponse("login")


@app.get("/me")
def me(user: CurrentUser) -> dict[str, str]:
    if user is None:
        raise HTTPException(401, "sign in first")
    return {"name": user.display_name}


@app.get("/title")
async def title(about: str, user: CurrentUser) -> dict[str, str]:
    """Call the gateway from Python: the same models, counted for the same user, without an HTTP request."""
    if user is None:
        raise HTTPException(401, "sign in first")
    wish = {"role": "user", "content": f"A title of at most five words for a talk about {about}."}
    reply = await proxy.gateway.complete(model="assistant", messages=[wish], principal=user.id)
    return {"title": reply.text}
