"""What servers of open models refuse in a Chat Completions request: the rules of their chat templates.

Qwen 3.5 to 3.8 raise "System message must be at the beginning." and "No user query found in messages."; Gemma 3 and
Llama 2 want user and assistant in turn; endpoints such as DeepSeek's and Groq's read text as one string alone.
"""

import itertools
from collections.abc import Collection

from llmproxy_asgi.testing import Received
from support.strict.rules import Asked, Complaints, Rule, apply


def check_template(received: Received, *, allow: Collection[str] = ()) -> None:
    """Refuse what a chat template refuses.

    Args:
        received: A request as the upstream got it.
        allow: Names of rules that shall not count.

    Raises:
        Refused: It breaks a rule.
    """
    apply(TEMPLATE_RULES, received, allow)


def _one_system(asked: Asked) -> Complaints:
    for number, message in enumerate(asked.messages):
        if message.get("role") not in {"system", "user", "assistant", "tool"}:
            yield f"messages[{number}].role is {message.get('role')!r}"
        if number and message.get("role") == "system":
            yield f"messages[{number}]: a system message must be at the beginning"


def _user_query(asked: Asked) -> Complaints:
    if not any(message.get("role") == "user" for message in asked.messages):
        yield "no user query found"


def _alternation(asked: Asked) -> Complaints:
    roles = [message.get("role") for message in asked.messages]
    for number, (one, other) in enumerate(itertools.pairwise(roles)):
        if one == other == "user":
            yield f"messages[{number + 1}]: roles must alternate"


def _text_as_string(asked: Asked) -> Complaints:
    for number, message in enumerate(asked.messages):
        content = message.get("content")
        if isinstance(content, list) and all(part.get("type") == "text" for part in content):
            yield f"messages[{number}].content is a list of texts"


TEMPLATE_RULES = (
    Rule("one-system", _one_system),
    Rule("user-query", _user_query),
    Rule("alternation", _alternation),
    Rule("text-as-string", _text_as_string),
)
