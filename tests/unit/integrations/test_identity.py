"""From a framework's user to a principal."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from starlette.authentication import BaseUser, SimpleUser, UnauthenticatedUser
from typing_extensions import override

import llmproxy_fastapi
import llmproxy_flask
import llmproxy_starlette
from llmproxy_asgi import MisuseError, Principal

ADA = Principal("ada", tenant="analysis", groups=("staff",))
NUMBER = UUID("b3b4f1de-6c1e-4a4f-9f5a-0d3c1f6b2a77")


@dataclass
class User:
    id: Any
    username: str = "somebody-else"


class Named(BaseUser):
    """As starlette's documentation makes one: `identity` is left out."""

    username = "ada"

    @property
    @override
    def is_authenticated(self) -> bool:
        return True


each_adapter = pytest.mark.parametrize(
    "principal_of",
    [llmproxy_starlette.principal_of, llmproxy_fastapi.principal_of, llmproxy_flask.principal_of],
    ids=["starlette", "fastapi", "flask"],
)
Reader = Callable[[object], Principal | None]


@each_adapter
@pytest.mark.parametrize(
    ("user", "expected"),
    [
        pytest.param(ADA, ADA, id="principal"),
        pytest.param("ada", Principal("ada"), id="text"),
        pytest.param(7, Principal("7"), id="number"),
        pytest.param(NUMBER, Principal(str(NUMBER)), id="uuid"),
        pytest.param(User("ada"), Principal("ada"), id="object"),
        pytest.param(User(7), Principal("7"), id="object-with-number"),
        pytest.param(User(NUMBER), Principal(str(NUMBER)), id="object-with-uuid"),
        pytest.param(SimpleNamespace(id=1, display_name="Ada"), Principal("1", display_name="Ada"), id="shown"),
        pytest.param(SimpleNamespace(id=1, display_name=""), Principal("1"), id="shown-as-nothing"),
        pytest.param(None, None, id="nobody"),
    ],
)
def test_user_becomes_principal(principal_of: Reader, user: object, expected: Principal | None) -> None:
    """A principal is itself, text and numbers are ids, an object is its `id`, and None is no user."""
    assert principal_of(user) == expected


@each_adapter
@pytest.mark.parametrize(
    "user",
    [
        pytest.param(True, id="bool"),
        pytest.param(User(True), id="object-with-bool"),
        pytest.param(User(1.5), id="object-with-float"),
        pytest.param(User(object()), id="object-with-object"),
        pytest.param(object(), id="object"),
        pytest.param("", id="no-text"),
        pytest.param(User("a" * 256), id="long"),
        pytest.param(User("a\nb"), id="line-break"),
    ],
)
def test_what_names_nobody_is_refused(principal_of: Reader, user: object) -> None:
    """A value that cannot be an id is an error that says what to do, never another user by accident."""
    with pytest.raises(MisuseError):
        principal_of(user)


@pytest.mark.parametrize(
    ("user", "name"),
    [
        pytest.param(SimpleUser("ada"), "ada", id="starlettes-own"),
        pytest.param(Named(), None, id="without-display-name"),
        pytest.param({"id": "ada"}, "ada", id="mapping"),
        pytest.param(SimpleNamespace(identity="ada"), "ada", id="identity"),
        pytest.param(SimpleNamespace(username="ada"), "ada", id="username"),
        pytest.param(SimpleNamespace(id="ada", is_authenticated=lambda: True), "ada", id="asked"),
    ],
)
def test_starlettes_users(user: object, name: str | None) -> None:
    """The first name of three that the user object has is the id."""
    found = llmproxy_starlette.principal_of(user)
    assert found is not None
    assert found.id == "ada"
    if name is not None:
        assert found.id == name


@pytest.mark.parametrize(
    "user",
    [
        pytest.param(UnauthenticatedUser(), id="starlettes-own"),
        pytest.param(SimpleNamespace(id="ada", is_authenticated=False), id="flag"),
        pytest.param(SimpleNamespace(id="ada", is_authenticated=lambda: False), id="asked"),
    ],
)
def test_who_is_not_signed_in_is_nobody(user: object) -> None:
    """A user object that is not authenticated names no user, whatever its other attributes."""
    assert llmproxy_starlette.principal_of(user) is None


@pytest.mark.parametrize("user", [User(None), {"id": None}, {}])
def test_empty_id_is_not_filled_from_another_name(user: object) -> None:
    """A user without an id is not taken for the one whose id is this one's name."""
    with pytest.raises(MisuseError):
        llmproxy_starlette.principal_of(user)


def test_flask_login_names_its_users_itself() -> None:
    """A user object without an `id` is asked as Flask-Login asks it."""
    assert llmproxy_flask.principal_of(SimpleNamespace(get_id=lambda: "ada")) == Principal("ada")
