"""Merge several configuration sources: later ones take precedence, and the location of each value is recorded.

Mappings are merged; lists and single values are replaced. The environment is a separate layer: `LLMPROXY__A__B` sets
`a.b`. This module does not interpret values, with one exception: `api_key` and `api_key_env` are alternatives, so the
later of them replaces the earlier.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from pydantic import BaseModel

from llmproxy_asgi.config.document import MAX_DEPTH, Path, Tree, Unreadable
from llmproxy_asgi.config.scalars import read_scalar

PREFIX = "LLMPROXY__"
"""The prefix of environment variables that set a value."""

CODE = "code"
"""The source of values that the host program passed."""

SECRET_KEYS = frozenset({"api_key", "key"})
"""Keys whose values stay text, even if they look like a number."""

_ALWAYS_BLOCKS = 2
"""Down to this depth `null` does not switch a mapping off; below, it does (`health`, `rate_limit`)."""
_ALTERNATIVES = {"api_key": "api_key_env", "api_key_env": "api_key"}
_NON_ALPHANUMERIC = re.compile(r"[^A-Za-z0-9]")


class Location(msgspec.Struct, frozen=True):
    """The location of a value.

    Args:
        source: A file's path, `code`, or an environment variable.
        line: From 1, if the source has lines.
        rank: The source's position among the sources, for sorting.
        literal: Whether `${...}` in it is left unchanged.
    """

    source: str
    line: int | None = None
    rank: int = 0
    literal: bool = False


class Layers(msgspec.Struct):
    """The values merged so far, and the location of each key and list item."""

    values: Tree = msgspec.field(default_factory=dict)
    locations: dict[Path, Location] = msgspec.field(default_factory=dict)

    def location(self, path: Path) -> Location | None:
        """Return the location of a path, or of its closest parent with a location."""
        while path and path not in self.locations:
            path = path[:-1]
        return self.locations.get(path)

    def merge(self, values: Mapping[str, object], locations: Mapping[Path, Location], base: Location) -> None:
        """Merge a source into the values.

        Args:
            values: The source's values.
            locations: The locations of values, where they are known.
            base: The location of all other values.
        """
        self._merge(self.values, values, (), locations, base)

    def put(self, path: Path, value: object, location: Location) -> None:
        """Set one value, creating the mappings on its path."""
        holder: object = self.values
        for length, step in enumerate(path[:-1], 1):
            below = get(holder, step)
            if not isinstance(below, (dict, list)):
                self._forget(path[:length], below)
                below = {}
                self.locations[path[:length]] = location
                _set(holder, step, below)
            holder = below
        if isinstance(holder, dict):
            self._drop_alternative(holder, path, location.rank)
        self._forget(path, get(holder, path[-1]))
        _set(holder, path[-1], value)
        self.locations[path] = location

    def drop(self, path: Path) -> None:
        """Remove a value from a mapping; a value in a list stays, since removing it would shift the others."""
        holder = self._holder(path)
        if isinstance(holder, dict):
            holder.pop(path[-1], None)

    def replace(self, path: Path, value: object) -> None:
        """Replace a value and keep its location."""
        _set(self._holder(path), path[-1], value)

    def _holder(self, path: Path) -> object:
        holder: object = self.values
        for step in path[:-1]:
            holder = get(holder, step)
        return holder

    def _merge(
        self, below: Tree, above: Mapping[str, object], path: Path, locations: Mapping[Path, Location], base: Location
    ) -> None:
        for key, value in above.items():
            here = (*path, key)
            old = below.get(key)
            if isinstance(old, dict) and isinstance(value, dict):
                self._merge(old, value, here, locations, base)
                continue
            if isinstance(old, dict) and value is None and len(here) <= _ALWAYS_BLOCKS:
                continue  # an empty block sets nothing
            self._drop_alternative(below, here, base.rank)
            if key in below:
                self._forget(here, old)
            below[key] = value
            for at in _paths(value, here):
                self.locations[at] = locations.get(at, base)

    def _drop_alternative(self, holder: Tree, path: Path, rank: int) -> None:
        """Remove an earlier `api_key_env` for a later `api_key`, and vice versa; both in one source stay."""
        alternative = _ALTERNATIVES.get(str(path[-1]))
        if alternative is None or alternative not in holder:
            return
        alternative_location = self.locations.get((*path[:-1], alternative))
        if alternative_location is not None and alternative_location.rank < rank:
            self._forget((*path[:-1], alternative), holder.pop(alternative))

    def _forget(self, path: Path, value: object) -> None:
        """Remove the locations of a value and of everything in it."""
        for at in _paths(value, path):
            self.locations.pop(at, None)


def plain(source: Mapping[str, object]) -> Tree:
    """Return a deep copy of dict and list, independent of the caller's objects.

    Raises:
        Unreadable: A key is not text, or it nests too deep.
    """
    return {_text(key): _copy(value, 1) for key, value in source.items()}


def unfold(model: BaseModel) -> Tree:
    """Return the values that were set explicitly in a model; secrets stay `Secret`."""
    return {
        name: _unfold_value(getattr(model, name)) for name in type(model).model_fields if name in model.model_fields_set
    }


def read_environment(layers: Layers, environment: Mapping[str, str], rank: int) -> Iterator[tuple[str, str]]:
    """Set the values of the environment's variables; yield each invalid variable and what is wrong with it."""
    for name in sorted(environment):
        if not name.upper().startswith(PREFIX):
            continue
        steps = name[len(PREFIX) :].split("__")
        if not all(steps):
            yield name, "has an empty part in its name"
            continue
        try:
            path = _find(layers.values, steps)
        except LookupError as error:
            yield name, str(error)
            continue
        text = environment[name]
        layers.put(path, _scalar(text, path), Location(name, rank=rank, literal=True))


def _scalar(text: str, path: Path) -> object:
    if path[-1] in SECRET_KEYS:
        return text
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return read_scalar(text)


def _find(values: object, steps: Sequence[str]) -> Path:
    """Return the path for a variable's name: existing keys match in any case, and with other characters as `_`.

    Raises:
        LookupError: No path matches, or more than one.
    """
    path: Path = ()
    for step in steps:
        if isinstance(values, list):
            if not step.isascii() or not step.isdigit() or int(step) >= len(values):
                raise LookupError(f"names {step!r} in a list of {len(values)}, counted from 0")
            key: str | int = int(step)
        elif isinstance(values, dict):
            alike = [str(known) for known in values if _folded(str(known)) == _folded(step)]
            if len(alike) > 1:
                raise LookupError(f"may mean any of {', '.join(alike)}")
            key = alike[0] if alike else step.lower()
        else:
            key = step.lower()
        values = get(values, key)
        path = (*path, key)
    return path


def _folded(name: str) -> str:
    return _NON_ALPHANUMERIC.sub("_", name).lower()


def get(holder: object, step: str | int) -> object:
    """Return the value at a key of a mapping or an index of a list; None if there is none."""
    if isinstance(holder, dict):
        return holder.get(step)
    if isinstance(holder, list) and isinstance(step, int):
        return holder[step]
    return None


def _set(holder: object, step: str | int, value: object) -> None:
    if isinstance(holder, dict):
        holder[step] = value
    else:
        assert isinstance(holder, list)
        assert isinstance(step, int)
        holder[step] = value


def _paths(value: object, path: Path) -> Iterator[Path]:
    """Yield the paths of a value and of everything in it."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _paths(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _paths(item, (*path, index))


def _text(key: object) -> str:
    if not isinstance(key, str):
        raise Unreadable(f"has a key that is not text but {type(key).__name__}")
    return key


def _copy(value: object, depth: int) -> object:
    if depth > MAX_DEPTH:
        raise Unreadable(f"nests deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return {_text(key): _copy(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy(item, depth + 1) for item in value]
    return unfold(value) if isinstance(value, BaseModel) else value


def _unfold_value(value: object) -> object:
    if isinstance(value, BaseModel):
        return unfold(value)
    if isinstance(value, Mapping):
        return {key: _unfold_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_unfold_value(item) for item in value]
    return value
