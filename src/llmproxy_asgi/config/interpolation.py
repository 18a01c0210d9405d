"""Replace `${NAME}` and `${NAME:-default}` in texts, and resolve `api_key_env`.

Replaced text is final: it is neither searched for `${` again nor parsed as YAML. Keys of mappings are never changed.
This module looks names up only in the mapping that it is given.
"""

import re
from collections.abc import Iterator, Mapping

import msgspec

from llmproxy_asgi.config.document import Path, Tree
from llmproxy_asgi.config.layers import SECRET_KEYS, Layers
from llmproxy_asgi.config.schema import Finding
from llmproxy_asgi.errors import MisuseError

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_TOKEN = re.compile(rf"(?P<escaped>\$\$\{{)|\$\{{(?P<name>{_NAME})(?::-(?P<default>(?:(?!\$\{{)[^}}])*))?\}}|\$\{{")
_MALFORMED = "has a `${` that is not `${NAME}` or `${NAME:-default}`; write `$${` for a literal one"
_FOREIGN = re.compile(r"(?:os\.environ/|env[:./]|\$env:|\$|%|\{\{\s*(?:env\.)?)([A-Z][A-Z0-9_]{2,})(?:%|\s*\}\})?")
"""The syntax of variables in other products and shells."""
_BLOCKS_WITH_SECRETS = ("providers", "access")
_KEY_BEGINNINGS = ("sk-", "llmp_", "Bearer ")
_MIN_SECRET = 6
"""Characters of the shortest text that is masked; shorter ones are parts of ordinary words, and no secrets."""


class Interpolation(msgspec.Struct):
    """The result of an interpolation."""

    findings: list[Finding] = msgspec.field(default_factory=list)
    unresolved: set[Path] = msgspec.field(default_factory=set)
    """Paths without a value because of a finding; further findings about them are dropped."""
    secrets: set[str] = msgspec.field(default_factory=set)
    """Texts that must not appear in messages."""


def interpolate(layers: Layers, environment: Mapping[str, str]) -> Interpolation:
    """Replace variables in the values, in place. Values that cannot be resolved are removed."""
    result = Interpolation()
    for path, text in list(_texts(layers.values, ())):
        location = layers.location(path)
        is_final = location is not None and location.literal
        final = text if is_final else _replace(layers, path, text, environment, result)
        if final is not None and (is_final or _is_secret(path, final)):
            result.secrets.add(final)
        variable = (
            None
            if is_final or path[0] not in _BLOCKS_WITH_SECRETS or not _holds_secret(path)
            else _FOREIGN.fullmatch(text)
        )
        if variable is not None:
            result.findings.append(Finding(path, f"is not read as a variable: write ${{{variable[1]}}}"))
            result.unresolved.add(path)
    _name_keys(layers, environment, result)
    _name_proxies(layers, environment, result)
    result.secrets = {text for text in result.secrets if len(text) >= _MIN_SECRET}
    return result


def _replace(
    layers: Layers, path: Path, text: str, environment: Mapping[str, str], result: Interpolation
) -> str | None:
    if "${" not in text:
        return text
    problems: list[str] = []

    def look_up(token: re.Match[str]) -> str:
        if token["escaped"]:
            return "${"
        name, default = token["name"], token["default"]
        if name is None:
            problems.append(_MALFORMED)
            return ""
        found = environment.get(name)
        if default is not None:
            found = found or default
        if found is None:
            problems.append(_not_set(name))
            return ""
        result.secrets.add(found)
        return found

    replaced = _TOKEN.sub(look_up, text)
    if problems:
        # What follows a malformed `${` may only look like a variable.
        reported = [_MALFORMED] if _MALFORMED in problems else dict.fromkeys(problems)
        result.findings.extend(Finding(path, problem) for problem in reported)
        result.unresolved.add(path)
        layers.drop(path)
        return None
    layers.replace(path, replaced)
    return replaced


def _name_keys(layers: Layers, environment: Mapping[str, str], result: Interpolation) -> None:
    """Turn each provider's `api_key_env` into its `api_key`."""
    providers = layers.values.get("providers")
    for name, block in providers.items() if isinstance(providers, dict) else ():
        if not isinstance(block, dict) or "api_key_env" not in block:
            continue
        path = ("providers", name, "api_key_env")
        problem = _name_key(block, environment, result)
        if problem:
            result.findings.append(Finding(path, problem))
            result.unresolved |= {path, (*path[:-1], "api_key")}
        else:
            layers.locations[*path[:-1], "api_key"] = layers.locations[path]


def _name_key(block: Tree, environment: Mapping[str, str], result: Interpolation) -> str | None:
    variable = block.pop("api_key_env")
    if "api_key" in block:
        return "says the same as api_key; give one of the two"
    if not isinstance(variable, str) or not re.fullmatch(_NAME, variable):
        return "must be the name of an environment variable"
    key = environment.get(variable)
    if not key:
        return _not_set(variable) if key is None else f"the environment variable {variable} is empty"
    result.secrets.add(key)
    block["api_key"] = key
    return None


def _name_proxies(layers: Layers, environment: Mapping[str, str], result: Interpolation) -> None:
    """Replace each `proxy: environment` by the values of the usual proxy variables."""
    providers = layers.values.get("providers")
    for name, block in providers.items() if isinstance(providers, dict) else ():
        if not isinstance(block, dict) or block.get("proxy") != "environment":
            continue
        from llmproxy_asgi.transport.proxies import exempt_in, read_proxy, variable_of

        found: dict[str, object] = {}
        for scheme in ("http", "https"):
            variable = variable_of(scheme, environment)
            if variable is None:
                continue
            text = environment[variable] if "://" in environment[variable] else f"http://{environment[variable]}"
            result.secrets.add(environment[variable])
            try:
                read_proxy(text)
            except MisuseError as error:
                path = ("providers", name, "proxy")
                result.findings.append(Finding(path, f"the environment variable {variable} {error.message}"))
                result.unresolved |= {path, (*path, scheme)}
            else:
                found[scheme] = text
        block["proxy"] = {**found, "exempt": exempt_in(environment)} if found else None


def _not_set(name: str) -> str:
    return f"the environment variable {name} is not set"


def _texts(value: object, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))


def _is_secret(path: Path, text: str) -> bool:
    """Return whether a text is a key or a header's value, or looks like a key in the wrong place."""
    return _holds_secret(path) or text.startswith(_KEY_BEGINNINGS) or ("proxy" in path[-2:] and "@" in text)


def _holds_secret(path: Path) -> bool:
    return not SECRET_KEYS.isdisjoint(path[-2:]) or "headers" in path
