"""The Flask extension: a blueprint whose single view calls the gateway through the WSGI bridge.

Because it is a blueprint, `before_request` hooks, sessions and Flask-Login work as for any other view. The response
streams: Flask gets an iterator that it passes on unchanged. This module reads no body and writes no JSON.
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
    """Matches any path below the mount; Flask's `path` matches neither an empty path nor a doubled slash."""

    regex = ".*?"
    part_isolating = False
    weight = 300


@dataclass(frozen=True, slots=True)
class State:
    """The extension's state for one application: `app.extensions["llmproxy"]`."""

    proxy: Gateway
    bridge: WSGIBridge
    owned: bool
    """Whether the extension created the gateway, whose `identify` is then the extension's."""


class LLMProxy:
    """A gateway in a Flask application: `LLMProxy(app, "llmproxy.yaml", identify=who_is_calling)`, or `init_app` later.

    It stores no application, so one extension may serve several. The gateway checks machine keys; for all other callers
    `identify` is called in the request context, or without one Flask-Login's `current_user` is used.

    Args:
        app: The application; None: `init_app` is called later.
        config: A path, a dict, a `Config` or several of these. Left out: `app.config["LLMPROXY_CONFIG"]`.
        url_prefix: The path of the gateway, like `/llm`.
        identify: `(HTTPConnection) -> Principal | str | None`, a plain function. None: no user, 401.
        csrf: `(HTTPConnection) -> bool`, a plain function: whether the request has a valid CSRF token of the host. It
            is called in the request context, for requests that a page of another site may have made a browser send.
        principal: Converts a user of Flask-Login to a principal; by default `principal_of`.
        proxy: An existing gateway, for instance with its own transport; there is no `config` then.
        name: The blueprint's name and the key in `app.extensions`; a second gateway in one application needs another.

    Raises:
        ConfigError: The configuration is invalid; contains all findings.
        MisuseError: `identify` or `csrf` is asynchronous, both `config` and `proxy` are given, or the application has
            an extension of this name.
        ValueError: The path does not begin with a slash, or is empty.
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
        self.blueprint = self._build_blueprint(url_prefix.rstrip("/"))
        """The blueprint, for its own `before_request` hooks and for Flask-WTF's `csrf.exempt`."""
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, config: ConfigSource | None = None) -> None:
        """Serve the gateway in `app`.

        Args:
            app: The application.
            config: Replaces the extension's own configuration for this application.

        Raises:
            ConfigError: The configuration is invalid; contains all findings.
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
        # The gateway refuses larger bodies, in the client's protocol; the bridge only needs a bound on what it reads.
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

    def _build_blueprint(self, url_prefix: str) -> Blueprint:
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
        """Answer this request with the gateway. Variables in the host's prefix are ignored here."""
        rest = values[_REST]
        state: State = current_app.extensions[self._name]
        finding = find(request, self._identify, self._principal)
        scope_extra = _scope_extra(state, finding)
        if has_csrf_token(request, self._csrf, state.proxy.gateway.config.access.origins):
            scope_extra[CSRF_KEY] = True
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> Any:
            head[:] = [status, headers]

        response = state.bridge(_mounted_environ(rest), start_response, scope_extra=scope_extra)
        status, headers = head
        return Response(response, status=status, headers=headers, direct_passthrough=True)


def _scope_extra(state: State, finding: Finding) -> dict[str, object]:
    """Return the scope's keys about the caller.

    Raises:
        Exception: The host's hook failed, and the gateway does not use the extension's `identify`.
    """
    if state.owned:
        return {FINDING_KEY: finding}
    if finding.error is not None and not isinstance(finding.error, CallerError):
        raise finding.error
    return {SCOPE_KEY: finding.error or finding.principal}


def _mounted_environ(rest: str) -> "WSGIEnvironment":
    """Return the request's WSGI environment relative to the mount, with an unread body.

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
    if "stream" in vars(request):  # a hook has begun to read the body; werkzeug caches the result of get_data()
        data = request.get_data()
        environ["wsgi.input"] = BytesIO(data)
        environ["CONTENT_LENGTH"] = str(len(data))
    return environ
