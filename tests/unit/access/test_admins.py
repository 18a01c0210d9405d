"""Administrators are the principals in the configuration; no tenant, user or key can become one otherwise."""

import pytest
from pydantic import TypeAdapter, ValidationError

from llmproxy_asgi.access.admins import Admins
from llmproxy_asgi.access.keys import Grant
from llmproxy_asgi.errors import Forbidden
from llmproxy_asgi.principal import ANYBODY, LOCAL, Principal
from llmproxy_asgi.settings import AdminName

READER: TypeAdapter[AdminName] = TypeAdapter(AdminName)


def admins(*entries: object, everyone: bool = False) -> Admins:
    return Admins([READER.validate_python(entry) for entry in entries], everyone=everyone)


def user(name: str, *groups: str, tenant: str = "") -> Grant:
    return Grant(Principal(name, groups=groups, tenant=tenant))


def key(name: str, *groups: str, tenant: str = "") -> Grant:
    return Grant(Principal(name, groups=groups, tenant=tenant), kind="key")


@pytest.mark.parametrize(
    ("entry", "grant"),
    [
        pytest.param("group:ops", user("ada", "dev", "ops"), id="a group"),
        pytest.param("ops", user("ada", "ops"), id="a bare word"),
        pytest.param("group:ldap:ops", user("ada", "ldap:ops"), id="a group with a colon"),
        pytest.param("ops", key("ci", "ops"), id="a key's group"),
        pytest.param("ops", user("eve", "ops", tenant="acme"), id="a tenant's caller whom the host put in it"),
        pytest.param("user:ada", user("ada"), id="a user"),
        pytest.param("user:acme/ada", user("ada", tenant="acme"), id="a tenant's user"),
        pytest.param("user:/auth0/ada", user("auth0/ada"), id="a user whose id holds a slash"),
        pytest.param({"kind": "user", "id": "auth0/ada"}, user("auth0/ada"), id="a block"),
        pytest.param("user:auth0|ada:7", user("auth0|ada:7"), id="an id with a colon"),
        pytest.param("key:scraper", key("scraper"), id="a key"),
        pytest.param("key:acme/scraper", key("scraper", tenant="acme"), id="a tenant's key"),
    ],
)
def test_administrators_pass(entry: object, grant: Grant) -> None:
    """Admit a member of a named group, a named user and a named key."""
    admins(entry).check(grant)


@pytest.mark.parametrize(
    ("entry", "grant"),
    [
        pytest.param("ops", user("ada", "dev"), id="another group"),
        pytest.param("ops", user("ops"), id="a user with the name of a group"),
        pytest.param("ops", key("ops"), id="a key with the name of a group"),
        pytest.param("user:scraper", key("scraper"), id="a key with the name of a user"),
        pytest.param("key:scraper", user("scraper"), id="a user with the name of a key"),
        pytest.param("user:ada", user("ada", tenant="acme"), id="an id that a tenant handed out"),
        pytest.param("user:acme/ada", user("acme/ada"), id="an id that spells a tenant"),
        pytest.param("user:anonymous", Grant(ANYBODY, kind="open"), id="an anonymous caller"),
        pytest.param("user:local", Grant(LOCAL, kind="local"), id="the host's own call"),
        pytest.param("ops", Grant(Principal("ada", claims={"groups": ["ops"]})), id="a claim"),
    ],
)
@pytest.mark.parametrize("everyone", [False, True])
def test_others_do_not(entry: str, grant: Grant, *, everyone: bool) -> None:
    """Refuse all others, on an open gateway too once an administrator is named."""
    with pytest.raises(Forbidden, match="administrators"):
        admins(entry, everyone=everyone).check(grant)


@pytest.mark.parametrize("entry", ["users:ada", "user:", "key:", "group:", ":ada", "", {"kind": "open", "id": "x"}])
def test_an_entry_that_names_nothing_known_is_refused(entry: object) -> None:
    """Refuse a misspelt kind instead of reading it as a group without members."""
    with pytest.raises(ValidationError):
        READER.validate_python(entry)


def test_without_administrators() -> None:
    """Name the missing setting in the refusal; admit every caller on an open gateway."""
    with pytest.raises(Forbidden, match=r"access\.admins"):
        admins().check(user("ada", "ops"))
    admins(everyone=True).check(user("ada"))
