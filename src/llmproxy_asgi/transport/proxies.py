"""Select the outgoing proxy of a call, from the configuration or the environment.

Only `http://` proxies are supported: a request to an http upstream contains its full address, an https one is reached
through CONNECT, so that the proxy sees its host and port only. Nothing here reads the environment; functions take a
mapping.
"""

import base64
import ipaddress
from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlsplit

import msgspec

from llmproxy_asgi.errors import MisuseError
from llmproxy_asgi.transport.request_head import Address, Headers, address

_NOT_A_PROXY = "must be http://host:port, with user:password@ before the host where the proxy asks for one"


class Proxy(msgspec.Struct, frozen=True):
    """One proxy."""

    address: Address
    headers: Headers = ()
    """Headers with the proxy's credentials."""
    secrets: tuple[str, ...] = ()
    """The password, in every form in which it is sent."""

    @property
    def text_headers(self) -> list[tuple[str, str]]:
        """The headers as text."""
        return [(name.decode("ascii"), value.decode("ascii")) for name, value in self.headers]


def read_proxy(text: str) -> Proxy:
    """Parse a proxy's address.

    Raises:
        MisuseError: It is invalid; the message describes valid ones, and quotes nothing of it.
    """
    try:
        parts = urlsplit(text)
        user, password = parts.username, parts.password
        found = address(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
    except (ValueError, MisuseError):
        raise MisuseError(_NOT_A_PROXY) from None
    if found.scheme != "http" or found.raw_path != b"/" or parts.fragment:
        raise MisuseError(_NOT_A_PROXY)
    if user is None:
        return Proxy(found)
    pair = f"{unquote(user)}:{unquote(password or '')}"
    token = base64.b64encode(pair.encode()).decode("ascii")
    secrets = tuple(each for each in (password, unquote(password or ""), token) if each)
    return Proxy(found, ((b"proxy-authorization", f"Basic {token}".encode("ascii")),), secrets)


class Proxies:
    """The proxies of calls.

    Args:
        http: For http upstreams; None: none.
        https: For https upstreams; None: none.
        exempt: Hosts that are called directly, as in `NO_PROXY`: names, including all their subdomains, addresses,
            networks (``10.0.0.0/8``), each with or without a port, and ``*``.
    """

    def __init__(self, http: Proxy | None, https: Proxy | None, exempt: Sequence[str] = ()) -> None:
        self._by_scheme = {"http": http, "https": https}
        self._exempt = tuple(each.strip().lower() for each in exempt if each.strip())

    def of(self, url: Address) -> Proxy | None:
        """Return the proxy for an address; None: it is called directly."""
        proxy = self._by_scheme[url.scheme]
        if proxy is None or not self._exempt:
            return proxy
        host = url.raw_host.decode("ascii").lower().rstrip(".")
        port = url.port or (443 if url.scheme == "https" else 80)
        return None if any(_covers(rule, host, port) for rule in self._exempt) else proxy

    @property
    def identity(self) -> tuple[object, ...]:
        """A key that is equal for equal proxies."""
        keys = ((str(each.address), each.headers) if each else None for each in self._by_scheme.values())
        return (*keys, self._exempt)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The passwords."""
        return tuple(secret for each in self._by_scheme.values() if each is not None for secret in each.secrets)


def variable_of(scheme: str, environment: Mapping[str, str]) -> str | None:
    """Return the environment variable with the proxy for a scheme; lower case takes precedence. None: there is none."""
    names = [f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"]
    if "REQUEST_METHOD" in environment and scheme == "http":
        names.remove("HTTP_PROXY")  # with CGI it is the `Proxy` header of a request
    return next((name for name in names if environment.get(name)), None)


def exempt_in(environment: Mapping[str, str]) -> list[str]:
    """Return the hosts that are called directly according to the environment."""
    return (environment.get("no_proxy") or environment.get("NO_PROXY") or "").replace(",", " ").split()


def peer_name(url: Address, proxy: Proxy | None) -> str:
    """Return the host and port of a call, and its proxy, for the reasons of failures."""
    return url.host_port if proxy is None else f"{url.host_port} through the proxy {proxy.address.host_port}"


def _covers(rule: str, host: str, port: int) -> bool:
    """Return whether a rule of `NO_PROXY` matches a host."""
    if rule == "*":
        return True
    name, colon, number = rule.rpartition(":")
    if colon and number.isdecimal() and (":" not in name or name.endswith("]")):
        if int(number) != port:
            return False
        rule = name
    rule = rule.strip("[]")
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(rule, strict=False)
    except ValueError:
        pass  # one of the two is a name
    rule = rule.lstrip("*").strip(".")
    return bool(rule) and (host == rule or host.endswith("." + rule))
