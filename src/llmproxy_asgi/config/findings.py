"""Translate pydantic's errors about a configuration into findings for its author.

Pydantic describes errors for programmers; here each becomes a sentence of plain English. Values are not quoted, except
for settings with a fixed choice of values.
"""

import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.config.document import Path, hint
from llmproxy_asgi.config.hints import LITELLM, LITELLM_FILE, other_word, proper_place, renamed
from llmproxy_asgi.config.layers import get
from llmproxy_asgi.config.schema import UNKNOWN_TYPE, Config, Finding, Inconsistent
from llmproxy_asgi.errors import MisuseError
from llmproxy_asgi.providers.base import ProviderConfig
from llmproxy_asgi.providers.registry import known_types, provider_class

MAX_EXPLAINED = 200
"""The most errors of one configuration that are explained in full; more than are ever printed."""

NOT_YET = "is not available in this version"

_EACH = None
RESERVED: dict[tuple[str | None, ...], frozenset[str]] = {
    (): frozenset(
        {
            "vault", "prices", "ledger", "hooks", "fetch", "responses", "projects", "redis", "cache", "extensions",
            "include", "watch", "idempotency",
        }
    ),
    ("access",): frozenset({"policies", "groups", "principals", "grants_ttl", "self_service", "key_pepper"}),
    ("access", "keys", _EACH): frozenset({"budget", "budgets"}),
    ("endpoints",): frozenset({"accounts", "admin", "usage"}),
    ("providers", _EACH): frozenset({"auth", "user_credentials"}),
}  # fmt: skip
"""Keys reserved for later versions, by the block that they belong to."""

RESERVED_TYPES = frozenset(
    {
        "azure-openai", "vertex", "bedrock", "openrouter", "requesty", "copilot", "kiro", "claude-pro",
        "chatgpt-plus", "ctonew",
    }
)  # fmt: skip


def explain(error: ValidationError, values: Mapping[str, object]) -> Iterator[Finding]:
    """Yield the findings for pydantic's error about some values."""
    foreign = [key for key in values if key in LITELLM]
    if foreign:
        yield Finding((foreign[0],), LITELLM_FILE)
    for number, detail in enumerate(error.errors(include_url=False)):
        if foreign and detail["loc"][0] not in Config.model_fields:
            continue
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, Inconsistent):
            yield from cause.findings
            continue
        path = _path(detail["loc"], values, keep_last=detail["type"] in ("missing", "extra_forbidden"))
        if number >= MAX_EXPLAINED:
            yield Finding(path, _BRIEFLY.get(detail["type"], "is not valid"))
        elif detail["type"] == UNKNOWN_TYPE:
            yield _unknown_type(str(detail["input"]), detail["loc"], values)
        elif path[-1:] == ("capabilities",) and isinstance(detail["input"], dict):
            yield from _capabilities(path, detail["input"])
        elif detail["type"] == "extra_forbidden":
            yield Finding(path, _unknown_key(path, values))
        else:
            yield Finding(path, _sentence(path, detail))


_BRIEFLY = {"extra_forbidden": "unknown key", UNKNOWN_TYPE: "unknown provider type", "missing": "is required"}
"""Short texts for the errors beyond `MAX_EXPLAINED`."""


def _path(loc: tuple[int | str, ...], values: object, *, keep_last: bool) -> Path:
    """Convert pydantic's location to a path in the configuration: its own names (a union's branch) are left out."""
    path: Path = ()
    for position, step in enumerate(loc):
        known = (isinstance(values, dict) and step in values) or (
            isinstance(values, list) and isinstance(step, int) and step < len(values)
        )
        if known:
            values = get(values, step)
        elif not (keep_last and position == len(loc) - 1):
            continue
        path = (*path, step)
    return path


def _unknown_type(kind: str, loc: tuple[int | str, ...], values: Mapping[str, object]) -> Finding:
    path = _path(loc, values, keep_last=False)
    if kind in RESERVED_TYPES:
        return Finding(path, f"the type {kind!r} {NOT_YET}")
    known = known_types()
    if path[-1:] == ("type",):
        return Finding(path, f"unknown provider type {kind!r}{hint(kind, known) or _choices(known)}")
    return Finding(path, f"needs a `type`, because its name is not one{hint(kind, known) or _choices(known)}")


def _capabilities(path: Path, given: Mapping[str, object]) -> Iterator[Finding]:
    known = Capabilities.__struct_fields__
    for name in given:
        if name not in known:
            yield Finding((*path, name), f"unknown capability{hint(name, known) or _choices(known)}")


def _unknown_key(path: Path, values: Mapping[str, object]) -> str:
    *above, key = path
    blocks = list(_blocks(tuple(above), values))
    if any(key in keys for pattern, keys in RESERVED.items() if _matches(pattern, above)):
        return NOT_YET
    new = renamed(str(key), blocks)
    if new is not None:
        return f"has a new name; write {new!r}"
    suggestion = other_word(str(key), blocks)
    if suggestion is not None:
        return f"unknown key; did you mean {suggestion!r}?"
    known = {name for block in blocks for name in block.model_fields}
    if len(above) == 2 and above[0] == "providers":
        known.add("api_key_env")
    correct_place = proper_place(str(key))
    return f"unknown key{hint(str(key), known) or (f'; it belongs {correct_place}' if correct_place else '')}"


def _matches(pattern: tuple[str | None, ...], path: list[str | int]) -> bool:
    return len(pattern) == len(path) and all(
        step is _EACH or step == given for step, given in zip(pattern, path, strict=True)
    )


def _blocks(path: Path, values: Mapping[str, object]) -> Iterator[type[BaseModel]]:
    """Yield the models that describe the block at a path."""
    found: list[Any] = [Config]
    for length, step in enumerate(path, 1):
        found = [below for above in found for below in _below(above, step)]
        if length == 2 and path[0] == "providers":
            found = [_provider_block(str(step), values)]
    yield from (each for each in found if isinstance(each, type) and issubclass(each, BaseModel))


def _below(annotation: Any, step: str | int) -> Iterator[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(step))
        yield from _branches(field.annotation) if field is not None else ()
    elif get_origin(annotation) is dict:
        yield from _branches(get_args(annotation)[1])
    elif get_origin(annotation) in (list, tuple):
        yield from _branches(get_args(annotation)[0])


def _branches(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _branches(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for branch in get_args(annotation):
            yield from _branches(branch)
    else:
        yield annotation


def _provider_block(name: str, values: Mapping[str, object]) -> type[BaseModel]:
    providers = values.get("providers")
    block = providers.get(name) if isinstance(providers, dict) else None
    kind = block.get("type", name) if isinstance(block, dict) else name
    try:
        return provider_class(kind).Config
    except MisuseError:
        return ProviderConfig


_BLOCK = "must be a block with keys of its own"
_NUMBER = "must be a number"
_WHOLE_NUMBER = "must be a whole number"
_BOOLEAN = "must be true or false"
_LIST = "must be a list"
_SENTENCES = {
    "missing": "is required",
    "int_type": _WHOLE_NUMBER,
    "int_parsing": _WHOLE_NUMBER,
    "int_parsing_size": _WHOLE_NUMBER,
    "int_from_float": _WHOLE_NUMBER,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": _NUMBER,
    "bool_type": _BOOLEAN,
    "bool_parsing": _BOOLEAN,
    "list_type": _LIST,
    "tuple_type": _LIST,
    "dict_type": _BLOCK,
    "model_type": _BLOCK,
    "model_attributes_type": _BLOCK,
    "too_short": "must hold at least {min_length}",
    "too_long": "must hold at most {max_length}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "value_error": "{error}",
}
"""Texts by pydantic's error type; the names in braces are from the error's context."""


_LISTS = {
    (
        "providers",
    ): "must be a block with each provider under a name of yours, as in `openai: {api_key: ...}`, not a list",
    ("models",): "must be a block of model names with their targets; "
    "list what a provider serves under its own `models`",
    ("access",): "must be a block; write the list under `keys` in it",
}
"""Texts for a list in place of a block, by path."""


def _sentence(path: Path, detail: ErrorDetails) -> str:
    kind, given = detail["type"], detail["input"]
    if isinstance(given, list) and path in _LISTS:
        return _LISTS[path]
    if kind == "string_type":
        return "must be text" + ("; put it in quotes" if isinstance(given, (int, float)) else "")
    if kind == "literal_error":
        return _choice(detail)
    if kind in ("string_too_short", "too_short") and detail["ctx"].get("min_length") == 1:
        return "must not be empty"
    template = _SENTENCES.get(kind)
    if template is None:
        return detail["msg"].replace("Input should be", "must be").replace("Input should", "must")
    return template.format_map(detail.get("ctx", {}))


def _choice(detail: ErrorDetails) -> str:
    choices = [part.strip(" '") for part in detail["ctx"]["expected"].replace(" or ", ",").split(",")]
    if len(choices) == 1:
        return f"must be {choices[0]}"
    return f"must be one of {', '.join(choices)}"


def _choices(known: Iterable[str]) -> str:
    return f"; choose from {', '.join(known)}"
