"""Outgoing proxies: which one a call goes through, by what the configuration or the environment says.

Only `http://` proxies: an http upstream is asked for by its whole address, an https one is reached through CONNECT, so
that the proxy sees no more than its host and port. Nothing here reads the environment; a mapping is handed in.
"""

import base64
import ipaddress
from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlsplit

import msgspec

from llmproxy_asgi.errors import MisuseError
from llmproxy_asgi.transport.outgoing import Address, Headers, address

_NOT_A_PROXY = "must be http://host:port, with user:password@ before the host where the proxy asks for one"


class Proxy(msgspec.Struct, frozen=True):
    """One proxy."""

    address: Address
    headers: Headers = ()
    """What proves to the proxy who we are."""
    secrets: tuple[str, ...] = ()
    """Its password, in every form in which it is sent."""

    @property
    def text_headers(self) -> list[tuple[str, str]]:
        """The headers as texts."""
        return [(name.decode("ascii"), value.decode("ascii")) for name, value in self.headers]


def read_proxy(text: str) -> Proxy:
    """Read a proxy's address.

    Raises:
        MisuseError: It is none; the message says what it must be, and holds nothing of it.
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
    """Which proxy calls go through.

    Args:
        http: For http upstreams; None: none.
        https: For https upstreams.
        exempt: Hosts that are called directly, as `NO_PROXY` lists them: names, which stand for all names below them,
            addresses, networks (``10.0.0.0/8``), each with a port or without, and ``*``.
    """

    def __init__(self, http: Proxy | None, https: Proxy | None, exempt: Sequence[str] = ()) -> None:
        self._by_scheme = {"http": http, "https": https}
        self._exempt = tuple(each.strip().lower() for each in exempt if each.strip())

    def of(self, url: Address) -> Proxy | None:
        """The proxy for an address; None: it is called directly."""
        proxy = self._by_scheme[url.scheme]
        if proxy is None or not self._exempt:
            return proxy
        host = url.raw_host.decode("ascii").lower().rstrip(".")
        port = url.port or (443 if url.scheme == "https" else 80)
        return None if any(_covers(rule, host, port) for rule in self._exempt) else proxy

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for those that lead the same way."""
        ways = ((str(each.address), each.headers) if each else None for each in self._by_scheme.values())
        return (*ways, self._exempt)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The passwords."""
        return tuple(secret for each in self._by_scheme.values() if each is not None for secret in each.secrets)


def variable_of(scheme: str, environment: Mapping[str, str]) -> str | None:
    """The environment variable that names the proxy for a scheme; one in lower case wins. None: there is none."""
    names = [f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"]
    if "REQUEST_METHOD" in environment and scheme == "http":
        names.remove("HTTP_PROXY")  # in a CGI environment that is a header of the caller's
    return next((name for name in names if environment.get(name)), None)


def exempt_in(environment: Mapping[str, str]) -> list[str]:
    """The hosts that the environment says are called directly."""
    return (environment.get("no_proxy") or environment.get("NO_PROXY") or "").replace(",", " ").split()


def where(url: Address, proxy: Proxy | None) -> str:
    """Whom a call goes to, as a reason names it."""
    return url.where if proxy is None else f"{url.where} through the proxy {proxy.address.where}"


def _covers(rule: str, host: str, port: int) -> bool:
    """Whether a rule of `NO_PROXY` covers a host."""
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
