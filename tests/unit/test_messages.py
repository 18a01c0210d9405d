"""What callers and operators read: messages in standard English, with the vendors' nouns."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmproxy_asgi
from llmproxy_asgi import errors
from llmproxy_asgi.translators import refusals

SOURCE = Path(llmproxy_asgi.__file__).parent
CLASSES = {name for name, each in vars(errors).items() if inspect.isclass(each) and issubclass(each, Exception)}
FUNCTIONS = {"refusal", "fail", *(name for name, each in vars(refusals).items() if inspect.isfunction(each))}
NOT_READ = {"code", "kind", "status", "param", "allow", "accept_encoding"}
"""Arguments that are no part of a message."""
PRIVATE = re.compile(
    r"\b(is told|are told|of ours|goes on|go on|may not be given|be given|somebody|nobody|anybody|whoever|films?|"
    r"pictures?|sounds?|does not speak|speaks|lets? go|keeps no|takes no|makes no|cannot be asked|is none|"
    r"as (many|much) as it may|waited for)\b",
    re.IGNORECASE,
)


def messages() -> Iterator[tuple[str, str]]:
    """Each text that is given to an error, with where it stands; constants of the same module count as their text."""
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _name(node.func) in CLASSES | FUNCTIONS:
                where = f"{path.relative_to(SOURCE)}:{node.lineno}"
                for given in (*node.args, *(each.value for each in node.keywords if each.arg not in NOT_READ)):
                    value = constants.get(given.id, given) if isinstance(given, ast.Name) else given
                    yield from ((where, text) for text in _texts(value))


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _texts(value: ast.expr) -> Iterator[str]:
    for node in ast.walk(value):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_messages_use_standard_terms() -> None:
    """No message of an error holds a turn of phrase that its reader would have to learn first."""
    found = list(messages())
    assert len(found) > 300
    assert [f"{where}: {text}" for where, text in found if PRIVATE.search(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "This model cannot be given film.",
        "This upstream makes no pictures in an answer.",
        "This model does not speak.",
        "Stored responses go on from each other in a circle.",
    ],
)
def test_private_turns_are_found(text: str) -> None:
    """The pattern finds the wordings that messages once had."""
    assert PRIVATE.search(text)
