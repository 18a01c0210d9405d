"""A client's JSON is read by accessors that name the field in every error."""

from collections.abc import Callable
from typing import Any

import pytest

from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.gemini.proto import ProtoNode

ACCESSORS: dict[str, tuple[Callable[[Node], Any], Any, str]] = {
    "required_text": (lambda node: node.required_text("x"), "word", "a string"),
    "optional_text": (lambda node: node.optional_text("x"), "word", "a string"),
    "filled_text": (lambda node: node.filled_text("x"), "word", "a string"),
    "optional_boolean": (lambda node: node.optional_boolean("x"), False, "a boolean"),
    "required_object": (lambda node: node.required_object("x"), {"y": 1}, "an object"),
    "optional_object": (lambda node: node.optional_object("x"), {"y": 1}, "an object"),
    "required_array": (lambda node: [each.value for each in node.required_array("x")], [1, None], "an array"),
    "optional_array": (lambda node: [each.value for each in node.optional_array("x")], [1, None], "an array"),
    "required_choice": (lambda node: node.required_choice("x", ("word", "other")), "word", "a string"),
    "optional_choice": (lambda node: node.optional_choice("x", ("word", "other")), "word", "a string"),
}
"""By name: the accessor, a value that it accepts, and what an error says it expected."""


def _refusal(read: Callable[[Node], Any], node: Node) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        read(node)
    return caught.value


@pytest.mark.parametrize("kind", [Node, ProtoNode])
@pytest.mark.parametrize("name", ACCESSORS)
def test_an_accessor_returns_a_member_of_its_type(name: str, kind: type[Node]) -> None:
    """The value comes back as it is, false and empty ones included."""
    read, value, _ = ACCESSORS[name]
    assert read(kind({"x": value}, "a")) == value


@pytest.mark.parametrize("name", ACCESSORS)
def test_an_accessor_refuses_another_type_by_its_path(name: str) -> None:
    """The path runs from the root through arrays and objects to the member."""
    read, _, wanted = ACCESSORS[name]
    entry = Node({"list": [0, {"inner": {"x": 7}}]}, "root").required_array("list")[1].need("inner")
    error = _refusal(read, entry)
    assert error.message == f"root.list[1].inner.x: expected {wanted}, got a number."
    assert (error.param, error.code) == ("root.list[1].inner.x", "invalid_type")


@pytest.mark.parametrize("fields", [{}, {"x": None}], ids=["absent", "null"])
@pytest.mark.parametrize("name", ACCESSORS)
def test_null_is_absent(name: str, fields: dict[str, Any]) -> None:
    """Required members are missed, optional ones are None, or no elements."""
    read = ACCESSORS[name][0]
    if name.startswith("optional"):
        assert read(Node(fields, "a")) == ([] if name == "optional_array" else None)
    else:
        error = _refusal(read, Node(fields, "a"))
        assert (error.message, error.code) == ("a.x is required.", "missing_required_parameter")


@pytest.mark.parametrize("name", ACCESSORS)
def test_only_objects_have_members(name: str) -> None:
    """The error names the value that should have been an object."""
    assert _refusal(ACCESSORS[name][0], Node([], "a")).message == "a: expected an object, got an array."


def test_a_filled_text_is_not_empty() -> None:
    """An empty string is there, but invalid."""
    error = _refusal(lambda node: node.filled_text("x"), Node({"x": ""}, "a"))
    assert (error.message, error.code) == ("a.x: must not be empty.", "invalid_value")


def test_a_choice_lists_the_options() -> None:
    """An unknown word is shown beside the known ones."""
    error = _refusal(lambda node: node.optional_choice("x", ("b", "c")), Node({"x": "d"}, "a"))
    assert error.message == "a.x: 'd' is not one of 'b', 'c'."


def test_extras_are_the_unknown_members() -> None:
    """They belong to a protocol; without any there is none."""
    node = Node({"x": 1, "y": None}, "a")
    assert node.extras("p", {"x"}) == {"p": {"y": None}}
    assert node.extras("p", {"x", "y"}) == {}


def test_the_members_of_a_body_have_no_path_before_them() -> None:
    """A root without a path is a whole body."""
    assert _refusal(lambda node: node.required_text("x"), Node({}, "")).param == "x"


def test_errors_keep_the_spelling_of_proto_json() -> None:
    """Both spellings are read; an error has the caller's own."""
    node = ProtoNode({"mime_type": 1, "fileUri": "u", "display_name": None, "videoMetadata": None}, "a")
    assert node.required_text("fileUri") == "u"
    assert _refusal(lambda node: node.optional_text("mimeType"), node).param == "a.mime_type"
    assert _refusal(lambda node: node.required_text("displayName"), node).param == "a.displayName"
    assert node.extras("p", {"mimeType", "fileUri"}) == {}
