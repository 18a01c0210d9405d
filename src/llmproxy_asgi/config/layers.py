"""Several sources laid over each other: the later one wins, and each value remembers where it was said.

Mappings merge; lists and single values replace. The environment is a layer of its own: `LLMPROXY__A__B` sets `a.b`.
Nothing here knows what a value means, but for one pair: `api_key` and `api_key_env` say the same thing, so that the
later of them replaces the earlier.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from pydantic import BaseModel

from llmproxy_asgi.config.document import MAX_DEPTH, Path, Tree, Unreadable
from llmproxy_asgi.config.scalars import read_scalar

PREFIX = "LLMPROXY__"
"""What the names of environment variables begin with that set a value."""

CODE = "code"
"""Where a value stands that the host program handed over."""

SECRET_KEYS = frozenset({"api_key", "key"})
"""Keys whose values are kept as they are written, however much they look like a number."""

_ALWAYS_BLOCKS = 2
"""How deep a mapping cannot be switched off by `null`; below, that is what it means (`health`, `rate_limit`)."""
_SAME_THING = {"api_key": "api_key_env", "api_key_env": "api_key"}
_ODD = re.compile(r"[^A-Za-z0-9]")


class Place(msgspec.Struct, frozen=True):
    """Where a value was said.

    Args:
        source: A file's path, `code`, or an environment variable.
        line: From 1, where the source has lines.
        rank: The source's own place among the sources, for sorting.
        literal: Whether `${...}` in it is taken as it is.
    """

    source: str
    line: int | None = None
    rank: int = 0
    literal: bool = False


class Layers(msgspec.Struct):
    """The values so far, and the place of each key and list item."""

    values: Tree = msgspec.field(default_factory=dict)
    places: dict[Path, Place] = msgspec.field(default_factory=dict)

    def place(self, path: Path) -> Place | None:
        """Where a path was said; of one that nobody said, where what holds it was."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path)

    def lay(self, values: Mapping[str, object], places: Mapping[Path, Place], base: Place) -> None:
        """Put a source over what there is.

        Args:
            values: What it holds.
            places: Where each value stands, as far as that is known.
            base: Where all others stand.
        """
        self._lay(self.values, values, (), places, base)

    def put(self, path: Path, value: object, place: Place) -> None:
        """Set one value, making the mappings on the way to it."""
        holder: object = self.values
        for length, step in enumerate(path[:-1], 1):
            below = get(holder, step)
            if not isinstance(below, (dict, list)):
                self._forget(path[:length], below)
                below = {}
                self.places[path[:length]] = place
                _set(holder, step, below)
            holder = below
        if isinstance(holder, dict):
            self._drop_twin(holder, path, place.rank)
        self._forget(path, get(holder, path[-1]))
        _set(holder, path[-1], value)
        self.places[path] = place

    def drop(self, path: Path) -> None:
        """Take a value out of a mapping; one in a list stays, or its neighbours would move."""
        holder = self._holder(path)
        if isinstance(holder, dict):
            holder.pop(path[-1], None)

    def replace(self, path: Path, value: object) -> None:
        """Another value, said at the same place."""
        _set(self._holder(path), path[-1], value)

    def _holder(self, path: Path) -> object:
        holder: object = self.values
        for step in path[:-1]:
            holder = get(holder, step)
        return holder

    def _lay(
        self, below: Tree, above: Mapping[str, object], path: Path, places: Mapping[Path, Place], base: Place
    ) -> None:
        for key, value in above.items():
            here = (*path, key)
            old = below.get(key)
            if isinstance(old, dict) and isinstance(value, dict):
                self._lay(old, value, here, places, base)
                continue
            if isinstance(old, dict) and value is None and len(here) <= _ALWAYS_BLOCKS:
                continue  # a block that was opened and left empty says nothing
            self._drop_twin(below, here, base.rank)
            if key in below:
                self._forget(here, old)
            below[key] = value
            for at in _paths(value, here):
                self.places[at] = places.get(at, base)

    def _drop_twin(self, holder: Tree, path: Path, rank: int) -> None:
        """A later `api_key` replaces an earlier `api_key_env`, and the other way round; both in one source stay."""
        twin = _SAME_THING.get(str(path[-1]))
        if twin is None or twin not in holder:
            return
        said = self.places.get((*path[:-1], twin))
        if said is not None and said.rank < rank:
            self._forget((*path[:-1], twin), holder.pop(twin))

    def _forget(self, path: Path, value: object) -> None:
        """Forget where a value, and all that is in it, was said."""
        for at in _paths(value, path):
            self.places.pop(at, None)


def plain(source: Mapping[str, object]) -> Tree:
    """A copy made of dict and list, so that nothing the caller holds is changed or changes under us.

    Raises:
        Unreadable: A key is not text, or it nests too deep.
    """
    return {_text(key): _copy(value, 1) for key, value in source.items()}


def unfold(model: BaseModel) -> Tree:
    """What somebody set in a model that is made already; secrets stay secrets."""
    return {
        name: _unfold_value(getattr(model, name)) for name in type(model).model_fields if name in model.model_fields_set
    }


def read_environment(layers: Layers, environment: Mapping[str, str], rank: int) -> Iterator[tuple[str, str]]:
    """Set what the environment says; yields a variable and what is wrong with it where it cannot be followed."""
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
        layers.put(path, _scalar(text, path), Place(name, rank=rank, literal=True))


def _scalar(text: str, path: Path) -> object:
    if path[-1] in SECRET_KEYS:
        return text
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return read_scalar(text)


def _find(values: object, steps: Sequence[str]) -> Path:
    """The path that a variable's name means: existing keys in any case and with their odd characters as `_`.

    Raises:
        LookupError: It means none, or more than one.
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
    return _ODD.sub("_", name).lower()


def get(holder: object, step: str | int) -> object:
    """What a mapping or list holds at one step; None if it holds nothing there."""
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
    """The path of a value and of everything in it."""
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
