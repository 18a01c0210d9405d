"""The outline of Google's requests, whose every field has two legal spellings: camel case and snake case.

Source: the types of Google's Python SDK google-genai 3.4.0, read 2026-12-01.
"""

from collections.abc import Collection

from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.translators.gemini.proto import camel, snake
from llmproxy_asgi.translators.outline import Counted, Outline


def both_spellings(*names: str) -> list[str]:
    """These names, known by their camel case, in each of their spellings."""
    return [spelling for name in names for spelling in (name, snake(name))]


def refuse_both_spellings(fields: Collection[str]) -> None:
    """Refuse a field that is there in both of its spellings: which of the two counts differs from server to server.

    Raises:
        BadRequest: One is.
    """
    for name in fields:
        if "_" in name and (other := camel(name)) != name and other in fields:
            raise BadRequest(f"{name} and {other} are one field: send it once.", param=name, code="invalid_value")


OUTLINE = Outline(
    both_spellings(
        "model",
        "contents",
        "systemInstruction",
        "tools",
        "toolConfig",
        "safetySettings",
        "generationConfig",
        "cachedContent",
        "labels",
        "serviceTier",
        "store",
        "generateContentRequest",
    ),
    Counted("contents", "messages"),
    Counted("tools", "tools", within=("functionDeclarations", "function_declarations")),
)
