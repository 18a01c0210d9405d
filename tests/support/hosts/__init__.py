"""The example applications on real servers in processes of their own, each as a `Host` that tests can ask.

A host says how its example is started and how a user signs in; the tests are the same for all of them. Behind
each stands a scripted upstream in the test's own process.
"""

import os
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import httpx2
from typing_extensions import override

from llmproxy_asgi.testing import ThreadedUpstream, Upstream
from support.hosts.answers import answer

ROOT = Path(__file__).parents[3]
HANG = 60.0
"""Seconds after which a wait is a failure; nothing depends on how long it really takes."""

UPSTREAM_KEYS = {"OPENAI_API_KEY": "sk-upstream-one-4711", "ANTHROPIC_API_KEY": "sk-upstream-two-4711"}
PROXY_SECRET = "between-proxy-and-application"
MACHINE_KEY = "llmp_7f3a9c51d2e84b60"


class Host(ABC):
    """A running example.

    Args:
        base_url: Where the application is.
        upstream: What its gateway calls.
        callers: The file with whom the gateway took each caller for.
    """

    example: ClassVar[str]
    """Its folder under `examples/`."""
    environment: ClassVar[dict[str, str]] = {}

    def __init__(self, base_url: str, upstream: ThreadedUpstream, callers: Path) -> None:
        self.base_url = base_url
        self.upstream = upstream
        self._callers = callers

    @classmethod
    @abstractmethod
    def command(cls, fd: int) -> list[str]:
        """What starts its server on the open socket `fd`."""

    @abstractmethod
    def sign_in(self, user: str) -> dict[str, str]:
        """The headers with which a browser of that user comes, a cookie among them."""

    @property
    def mount(self) -> str:
        """The address of the gateway."""
        return self.base_url + "/llm"

    def client(self, headers: dict[str, str] | None = None) -> httpx2.Client:
        """An HTTP client at the mount that keeps no cookies and follows no redirect."""
        return httpx2.Client(base_url=self.mount, headers=headers, timeout=HANG, trust_env=False)

    def callers(self) -> dict[str, str]:
        """Request id to `tenant/id`, or to `nobody`, of all requests so far."""
        lines = self._callers.read_text().splitlines()
        return dict(line.split(" ", 1) for line in lines)


class Uvicorn(Host):
    """An example on one uvicorn."""

    @classmethod
    @override
    def command(cls, fd: int) -> list[str]:
        return [sys.executable, str(ROOT / "tests/support/hosts/serve.py"), str(fd)]


class LoginPage(Host):
    """An example where users sign in by a form and keep a session cookie."""

    PASSWORDS: ClassVar[dict[str, str]] = {"alice": "wonderland", "bob": "builder"}

    @override
    def sign_in(self, user: str) -> dict[str, str]:
        return {"cookie": self.session(user, self.PASSWORDS[user])}

    def session(self, user: str, password: str) -> str:
        """The cookie that the login form gives for this password; empty if it gives none."""
        form = {"user": user, "password": password}
        with httpx2.Client(base_url=self.base_url, timeout=HANG, trust_env=False) as client:
            answered = client.post("/login", data=form)
            assert answered.status_code == 303, answered.text
            return "; ".join(f"{name}={value}" for name, value in answered.cookies.items())


class StarletteApp(Uvicorn, LoginPage):
    """`request.user` of AuthenticationMiddleware."""

    example = "starlette_app"


class FastAPIApp(Uvicorn, LoginPage):
    """A dependency."""

    example = "fastapi_app"


class FlaskApp(LoginPage):
    """A blueprint, under gunicorn: two processes, loaded before they are forked, with four threads each."""

    example = "flask_app"

    @classmethod
    @override
    def command(cls, fd: int) -> list[str]:
        options = ["--preload", "--workers", "2", "--worker-class", "gthread", "--threads", "4"]
        return [
            *(sys.executable, "-m", "gunicorn", "--no-control-socket", "--log-level", "warning"),
            *options,
            *("--graceful-timeout", "5", "--bind", f"fd://{fd}", "observed:app"),
        ]


class InternalPlatform(Uvicorn):
    """Single sign-on by a proxy in front, and machine keys."""

    example = "internal_platform"
    environment: ClassVar[dict[str, str]] = {"PROXY_SECRET": PROXY_SECRET, "CI_KEY": MACHINE_KEY}

    @override
    def sign_in(self, user: str) -> dict[str, str]:
        # The cookie is the proxy's own, and it comes through.
        return {"x-forwarded-user": user, "x-proxy-secret": PROXY_SECRET, "cookie": f"sso={user}-session"}


HOSTS: dict[str, type[Host]] = {host.example: host for host in (StarletteApp, FastAPIApp, FlaskApp, InternalPlatform)}


@contextmanager
def running(kind: type[Host], folder: Path, *, vendors: bool = True) -> Iterator[Host]:
    """Start an example's server and its upstream; end both.

    Args:
        kind: Which one.
        folder: For its log and notes.
        vendors: Whether the environment has keys of vendors, for whom the upstream stands.
    """
    with Upstream.in_thread(default=answer) as upstream, socket.create_server(("127.0.0.1", 0)) as listener:
        callers = folder / "callers"
        callers.touch()
        environment = {
            **_surroundings(),
            **(UPSTREAM_KEYS if vendors else {}),
            **kind.environment,
            "OPENAI_BASE_URL": upstream.base_url + "/v1",
            "ANTHROPIC_BASE_URL": upstream.base_url,
            "LLMPROXY__KEEPALIVE": "1s",
            "OBSERVED_CALLERS": str(callers),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "tests/support/hosts"), str(ROOT / "examples" / kind.example)]),
        }
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                kind.command(listener.fileno()),
                cwd=ROOT / "examples" / kind.example,
                env=environment,
                pass_fds=[listener.fileno()],
                stdout=log,
                stderr=log,
            )
        with _ended(process, (folder / "log").read_text):
            host = kind(f"http://127.0.0.1:{listener.getsockname()[1]}", upstream, callers)
            # The socket listens already, so this waits for the server; ours is closed so that a dead one refuses.
            listener.close()
            with host.client() as client:
                assert client.get("/health").status_code in {200, 401}
            yield host


def _surroundings() -> dict[str, str]:
    """Our environment without what would configure a gateway or a vendor's SDK."""
    ours = ("OPENAI_", "ANTHROPIC_", "LLMPROXY_", "SESSION_", "PROXY_", "CI_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@contextmanager
def _ended(process: subprocess.Popen[bytes], log: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(log())
        raise
    finally:
        process.terminate()
        try:
            process.wait(HANG)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
