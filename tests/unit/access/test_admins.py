"""Administrators are whom the configuration names, and nobody a tenant could make one."""

import pytest

from llmproxy_asgi.access.admins import Admins
from llmproxy_asgi.errors import Forbidden
from llmproxy_asgi.principal import Principal


@pytest.mark.parametrize(
    "principal",
    [
        pytest.param(Principal("ada", groups=("dev", "ops")), id="a group"),
        pytest.param(Principal("ops"), id="an id"),
        pytest.param(Principal("eve", groups=("ops",), tenant="acme"), id="a tenant's caller whom the host put in it"),
    ],
)
def test_administrators_pass(principal: Principal) -> None:
    """Whoever is in a named group, or has a named id, passes."""
    Admins(["ops"], anybody=False).check(principal)


@pytest.mark.parametrize(
    "principal",
    [
        pytest.param(Principal("ada", groups=("dev",)), id="another group"),
        pytest.param(Principal("ops", tenant="acme"), id="an id that a tenant handed out"),
        pytest.param(Principal("ada", claims={"groups": ["ops"]}), id="a claim"),
    ],
)
@pytest.mark.parametrize("anybody", [False, True])
def test_others_do_not(principal: Principal, *, anybody: bool) -> None:
    """Everybody else is refused, on an open gateway as well once somebody is named."""
    with pytest.raises(Forbidden, match="administrators"):
        Admins(["ops"], anybody=anybody).check(principal)


def test_nobody_is_named() -> None:
    """Where nobody is named the refusal says what to set; an open gateway lets anybody."""
    with pytest.raises(Forbidden, match=r"access\.admins"):
        Admins([], anybody=False).check(Principal("ada", groups=("ops",)))
    Admins([], anybody=True).check(Principal("ada"))
