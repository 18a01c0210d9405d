"""The Flask extension: a blueprint whose one view lets the gateway answer, through the WSGI bridge.

Because it is a blueprint, `before_request` hooks, sessions and Flask-Login work as for any other view. The answer
streams: Flask is handed an iterator that it passes through untouched. This module reads no body and writes no JSON.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Response, current_app, request
from flask.sansio.blueprints import BlueprintSetupState
from werkzeug.exceptions import NotFound
from werkzeug.routing import BaseConverter

from llmproxy_asgi import LLMProxy as Gateway
from llmproxy_asgi import MisuseError
from llmproxy_asgi.errors import CallerError
from llmproxy_asgi.gateway import ConfigSource
from llmproxy_asgi.principal import CSRF_KEY, SCOPE_KEY
from llmproxy_asgi.wsgi import WSGIBridge
from llmproxy_flask.identity import (
    FINDING_KEY,
    Csrf,
    Finding,
    Identify,
    PrincipalOf,
    find,
    has_csrf_token,
    recall,
    refuse_async,
)

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_REST = "llmproxy_rest"


class _RestConverter(BaseConverter):
    """Matches all of the path below the mount; Flask's `path` matches neither nothing nor a doubled slash."""

    regex = ".*?"
    part_isolating = False
    weight = 300


@dataclass(frozen=True, slots=True)
class State:
    """What one application has of the extension: `app.extensions["llmproxy"]`."""

    proxy: Gateway
    bridge: WSGIBridge
    owned: bool
    """Whether the gateway was made here, and so asks here who is calling."""


class LLMProxy:
    """A gateway in a Flask application: `LLMProxy(app, "llmproxy.yaml", identify=who_is_calling)`, or `init_app` later.

    It keeps no application, so one extension may serve several. A machine key is the gateway's to judge; for every
    other caller `identify` is asked, inside the request context, and without one Flask-Login's `current_user`.

    Args:
        app: The application; None: `init_app` is called later.
        config: A path, a dict, a `Config` or several of these. Left out: `app.config["LLMPROXY_CONFIG"]`.
        url_prefix: Where it hangs, like `/llm`.
        identify: `(HTTPConnection) -> Principal | str | None`, a plain function. None: nobody, 401.
        csrf: `(HTTPConnection) -> bool`, a plain function: whether the host's CSRF token came and is right. It is
            asked, inside the request context, about requests that a foreign page may have made a browser send.
        principal: Makes a principal of a user of Flask-Login; by default `principal_of`.
        proxy: A gateway made already, with a transport of its own, for instance; then there is no `config`.
        name: The blueprint's name and the key in `app.extensions`; a second gateway in one application needs another.

    Raises:
        ConfigError: The configuration is wrong; all findings at once.
        MisuseError: `identify` or `csrf` is asynchronous, both `config` and `proxy` are given, or the application has
            an extension of this name.
        ValueError: The path does not begin with a slash, or names nothing.
    """

    def __init__(
        self,
        app: Flask | None = None,
        config: ConfigSource | None = None,
        *,
        url_prefix: str = "/llm",
        identify: Identify | None = None,
        csrf: Csrf | None = None,
        principal: PrincipalOf | None = None,
        proxy: Gateway | None = None,
        name: str = "llmproxy",
    ) -> None:
        if not url_prefix.startswith("/") or url_prefix.rstrip("/") == "":
            raise ValueError("url_prefix must start with a slash and name something, like /llm")
        if config is not None and proxy is not None:
            raise MisuseError("Give either config or proxy: a gateway that is made already has its configuration.")
        refuse_async(identify)
        refuse_async(principal)
        refuse_async(csrf, name="csrf")
        self._config = config
        self._proxy = proxy
        self._identify = identify
        self._csrf = csrf
        self._principal = principal
        self._name = name
        self.blueprint = self._draw(url_prefix.rstrip("/"))
        """For `before_request` hooks of its own, and for Flask-WTF's `csrf.exempt`."""
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, config: ConfigSource | None = None) -> None:
        """Serve the gateway in `app`.

        Args:
            app: The application.
            config: Over the extension's own, for this application alone.

        Raises:
            ConfigError: The configuration is wrong; all findings at once.
            MisuseError: There is no configuration, or the application has this extension already.
        """
        if self._name in app.extensions:
            raise MisuseError(f"This application has an extension named {self._name!r} already; pass another name=.")
        proxy = self._proxy
        if proxy is None:
            proxy = Gateway(self._configuration(app, config), identify=recall)
        elif config is not None:
            raise MisuseError("The gateway is made already, so this application cannot have another configuration.")
        gateway = proxy.gateway
        # What is larger is refused by the gateway, in the client's protocol; the bridge only must not read on for ever.
        bridge = WSGIBridge(proxy, max_body=lambda: gateway.config.limits.body, on_close=gateway.aclose)
        app.extensions[self._name] = State(proxy, bridge, owned=self._proxy is None)
        app.url_map.converters.setdefault(_REST, _RestConverter)
        app.register_blueprint(self.blueprint)

    def _configuration(self, app: Flask, config: ConfigSource | None) -> ConfigSource:
        candidates: Sequence[ConfigSource | None] = (config, self._config, app.config.get("LLMPROXY_CONFIG"))
        found = next((candidate for candidate in candidates if candidate is not None), None)
        if found is None:
            raise MisuseError('There is no configuration: pass one, or set app.config["LLMPROXY_CONFIG"].')
        return found

    def _draw(self, url_prefix: str) -> Blueprint:
        blueprint = Blueprint(self._name, __name__, url_prefix=url_prefix)
        blueprint.record(self._refuse_without_init_app)
        blueprint.add_url_rule(
            f"/<{_REST}:{_REST}>",
            endpoint="call",
            view_func=self._call,
            methods=METHODS,
            provide_automatic_options=False,
            merge_slashes=False,  # Flask's redirect to the merged path would lose the body
        )
        return blueprint

    def _refuse_without_init_app(self, setup: BlueprintSetupState) -> None:
        """Refuse a blueprint that was registered by hand.

        Raises:
            MisuseError: `init_app` was not called for the application.
        """
        if self._name not in setup.app.extensions:
            raise MisuseError(
                "The blueprint of llmproxy_flask.LLMProxy cannot be registered by hand: call init_app(app), and put "
                "the whole prefix, a parent blueprint's included, into url_prefix."
            )

    def _call(self, **values: str) -> Response:
        """Let the gateway answer this request. Variables of the host's prefix are left to its hooks."""
        rest = values[_REST]
        state: State = current_app.extensions[self._name]
        finding = find(request, self._identify, self._principal)
        handed_over = _handed_over(state, finding)
        if has_csrf_token(request, self._csrf, state.proxy.gateway.config.access.origins):
            handed_over[CSRF_KEY] = True
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> Any:
            head[:] = [status, headers]

        answer = state.bridge(_below(rest), start_response, scope_extra=handed_over)
        status, headers = head
        return Response(answer, status=status, headers=headers, direct_passthrough=True)


def _handed_over(state: State, finding: Finding) -> dict[str, object]:
    """What the scope tells the gateway about its caller.

    Raises:
        Exception: The host's hook failed, and the gateway is one that would not ask what became of it.
    """
    if state.owned:
        return {FINDING_KEY: finding}
    if finding.error is not None and not isinstance(finding.error, CallerError):
        raise finding.error
    return {SCOPE_KEY: finding.error or finding.principal}


def _below(rest: str) -> "WSGIEnvironment":
    """The request's environment as seen from the mount, its body unread.

    Raises:
        NotFound: The path is not UTF-8.
    """
    environ = dict(request.environ)
    path: str = environ["PATH_INFO"]
    tail = "/" + rest.encode().decode("latin-1")
    if not path.endswith(tail):
        raise NotFound
    environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "").rstrip("/") + path[: len(path) - len(tail)]
    environ["PATH_INFO"] = tail
    if "stream" in vars(request):  # a hook of the host's has begun to read; werkzeug keeps what get_data() once gave
        data = request.get_data()
        environ["wsgi.input"] = BytesIO(data)
        environ["CONTENT_LENGTH"] = str(len(data))
    return environ
