"""Mutations: of JSON as the tree that it is, and of bytes as nothing but bytes.

Trees stay Python's own, so that encoding them is quick. What those cannot hold (a number of 5000 digits, a repeated
key) stands in them as text between NULs and is spelled out when the tree is written.
"""

# ruff: noqa: ARG001, ARG005  every mutation is called in one way, whatever it needs of it

import gzip
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

_SPELLED = re.compile(rb'"\\u0000<([^"]*)>\\u0000"')
_AGAIN = re.compile(rb"\\u0000again[0-9]*\\u0000")


def spelled(text: str) -> str:
    """A value that is written exactly so, without quotes; no quotes and no backslashes within."""
    return f"\0<{text}>\0"


def dump(tree: Any, rng: random.Random | None = None) -> bytes:
    """A tree as JSON, or as near to it as it can be spelled; `rng` chooses among the ways to write it."""
    way = rng.random() if rng is not None else 1.0
    text = json.dumps(
        tree,
        ensure_ascii=way >= 0.3,
        indent=1 if way < 0.1 else None,
        separators=(",", ":") if way > 0.6 else None,
    )
    body = text.encode("utf-8", "surrogatepass")
    return _AGAIN.sub(b"", _SPELLED.sub(rb"\1", body)) if b"\\u0000" in body else body


EXTREMES: tuple[Any, ...] = (
    None, True, False, "", " ", "0", 0, -1, 1, 0.5, -0.0, 1e308, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1,
    spelled("1e400"), spelled("-1e400"), spelled("1e-400"), spelled("NaN"), spelled("Infinity"), spelled("-Infinity"),
    spelled("9" * 400), spelled("1." + "3" * 400), spelled("01"), spelled("+1"), spelled("0x10"), spelled("1_000"),
    spelled("nul"), spelled(""), spelled("[1,]"), spelled("{a:1}"), spelled("undefined"),
    [], {}, [[]], [{}], [None], {"": None}, {"a": {}}, [0, "0", None, True], "null", "\ud800", "a\udfffb", "\0",
    "\ufeff",
    "\u2028\u2029", "🧑‍🚀" * 3, "a\r\nb: c", "\r\rdata: x\n\n", "data:image/png;base64,", "data:,", "https://",
    "../../x",
    "%00%2f", "{", "[", '"', "\\", "$ref", "#/$defs/a", "-", "1e5", "x" * 300,
)  # fmt: skip
"""What a value becomes when anything will do."""

_HUGE: tuple[Callable[[random.Random], Any], ...] = (
    lambda rng: spelled("9" * rng.choice((4300, 4301, 5000, 20000))),
    lambda rng: spelled("[" * (depth := rng.choice((20, 62, 63, 64, 65, 500, 1025, 30000))) + "]" * depth),
    lambda rng: spelled("[" * rng.choice((64, 2000))),
    lambda rng: "a" * rng.choice((4096, 65536, 300_000)),
    lambda rng: '\\"\n' * rng.choice((100, 20_000)),
    lambda rng: [0] * rng.choice((300, 20_000)),
    lambda rng: {f"k{n}": n for n in range(rng.choice((300, 10_000)))},
    lambda rng: _nested(rng.choice((5, 30, 60, 70)), rng),
    lambda rng: "=" * 2000,
    lambda rng: "0123456789abcdef" * 256,
)


def _nested(depth: int, rng: random.Random) -> Any:
    value: Any = rng.choice(("x", 1, None))
    keys = ("properties", "items", "content", "parts", "a", "anyOf", "tools")
    for _ in range(depth):
        value = [value] if rng.random() < 0.5 else {rng.choice(keys): value}
    return value


class Spot(NamedTuple):
    """A place in a tree: its holder, and the key or index under which it has the value."""

    holder: Any
    key: Any

    @property
    def value(self) -> Any:
        """What stands there."""
        return self.holder[self.key]

    def put(self, value: Any) -> None:
        """Put something else there."""
        self.holder[self.key] = value


def spots(tree: Any) -> Iterator[Spot]:
    """Every place in a tree but the whole of it."""
    stack = [tree]
    while stack:
        holder = stack.pop()
        items: Any = holder.items() if isinstance(holder, dict) else enumerate(holder)
        for key, value in items:
            yield Spot(holder, key)
            if isinstance(value, dict | list):
                stack.append(value)


class Material(NamedTuple):
    """What mutations take from elsewhere: trees of all protocols, their keys and their short words."""

    trees: Sequence[Any]
    keys: Sequence[str]
    words: Sequence[str]

    @classmethod
    def of(cls, trees: Sequence[Any]) -> "Material":
        """All that these trees hold."""
        keys: set[str] = set()
        words: set[str] = set()
        for tree in trees:
            for spot in spots(tree):
                if isinstance(spot.key, str):
                    keys.add(spot.key)
                if isinstance(spot.value, str) and len(spot.value) <= 40:
                    words.add(spot.value)
        return cls(trees, sorted(keys), sorted(words))


def copied(tree: Any) -> Any:
    """A tree of one's own."""
    if isinstance(tree, dict):
        return {key: copied(value) for key, value in tree.items()}
    return [copied(value) for value in tree] if isinstance(tree, list) else tree


def mutated(tree: Any, rng: random.Random, material: Material, *, most: int = 6) -> Any:
    """A tree with one mutation or a few; the tree itself is left alone."""
    tree = copied(tree)
    for _ in range(min(most, 1 + int(rng.expovariate(0.7)))):
        places = list(spots(tree)) if isinstance(tree, dict | list) else []
        if not places or rng.random() < 0.005:
            return rng.choice(EXTREMES) if rng.random() < 0.5 else [tree]
        rng.choice(_TREE)(rng.choice(places), places, rng, material)
    return tree


def _drop(spot: Spot, places: Sequence[Spot], rng: random.Random, material: Material) -> None:
    del spot.holder[spot.key]


def _double(spot: Spot, places: Sequence[Spot], rng: random.Random, material: Material) -> None:
    other = copied(rng.choice(places).value) if rng.random() < 0.5 else copied(spot.value)
    if isinstance(spot.holder, list):
        for _ in range(rng.choice((1, 1, 2, 40))):
            spot.holder.insert(spot.key, other)
    else:
        spot.holder[f"{spot.key}\0again{rng.randrange(9)}\0"] = other


def _extreme(spot: Spot, places: Sequence[Spot], rng: random.Random, material: Material) -> None:
    spot.put(copied(rng.choice(EXTREMES)))


def _huge(spot: Spot, places: Sequence[Spot], rng: random.Random, material: Material) -> None:
    if rng.random() < 0.15:  # they are slow to make and to read
        spot.put(rng.choice(_HUGE)(rng))
    else:
        _extreme(spot, places, rng, material)


def _wrap(spot: Spot, places: Sequence[Spot], rng: random.Random, material: Material) -> None:
    value = spot.value
    match rng.randrange(4):
        case 0:
            spot.put([value])
        case 1:
            spot.put({rng.choice(material.keys): value})
        case 2:
            spot.put(json.dumps(value).replace("\0", ""))
        case _:
            if isinstance(value, dict | list) and value:
                spot.put(rng.choice(list(value.values()) if isinstance(value, dict) else value))


def _transplant(spot: Spot, places: Sequence[Spot], rng: random.Random, material: Material) -> None:
    spot.put(copied(rng.choice(places).value))


def _graft(spot: Spot, places: Sequence[Spot], rng: random.Random, material: Material) -> None:
    """Something of another request or wire, of any protocol, often from under the same key."""
    others = list(spots(rng.choice(material.trees)))
    alike = [other for other in others if other.key == spot.key]
    if not others:
        return
    other = rng.choice(alike or others)
    if isinstance(spot.holder, list) and rng.random() < 0.5:
        spot.holder.insert(spot.key, copied(other.value))
    elif isinstance(spot.holder, dict) and isinstance(other.key, str) and rng.random() < 0.5:
        spot.holder[other.key] = copied(other.value)
    else:
        spot.put(copied(other.value))


def _rename(spot: Spot, places: Sequence[Spot], rng: random.Random, material: Material) -> None:
    if not isinstance(spot.key, str):
        return
    key = spot.key
    match rng.randrange(4):
        case 0:
            key = rng.choice(material.keys)
        case 1:
            key = re.sub(r"_([a-z])", lambda found: found[1].upper(), key)
        case 2:
            key = re.sub(r"([A-Z])", lambda found: "_" + found[1].lower(), key)
        case _:
            key = rng.choice((key.upper(), key + " ", key + "\ud800", key[:-1], "", "__proto__", key + "\0"))
    spot.holder[key] = spot.holder.pop(spot.key)


def _word(spot: Spot, places: Sequence[Spot], rng: random.Random, material: Material) -> None:
    """Another of the words there are, or a number near a border."""
    value = spot.value
    if isinstance(value, str) and value and rng.random() < 0.4:
        at = rng.randrange(len(value) + 1)
        extra = rng.choice(("", "\0", "\ud83d", "\u202e", "\n", '"', "\\", "é", "x" * 100, value))
        spot.put(value[:at] + extra + (value[at:] if rng.random() < 0.5 else ""))
    elif isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.7:
        spot.put(rng.choice((-value, value + 1, value - 1, value * 1e10, float(value), str(value), value * 2**40)))
    else:
        spot.put(rng.choice(material.words))


def _shuffle(spot: Spot, places: Sequence[Spot], rng: random.Random, material: Material) -> None:
    value = spot.holder
    if isinstance(value, list):
        rng.shuffle(value)
    else:
        items = list(value.items())
        rng.shuffle(items)
        value.clear()
        value.update(items)


_TREE = (
    _drop, _drop, _double, _extreme, _extreme, _extreme, _huge, _wrap, _transplant, _graft, _graft, _rename, _word,
    _word, _shuffle,
)  # fmt: skip


def bytes_mutated(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Bytes with one mutation or a few, and no regard for what they mean."""
    for _ in range(1 + int(rng.expovariate(1.0))):
        data = rng.choice(_BYTES)(data, rng, others)
    return data


def _flip(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 3, 10)) if data else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 1, 2, 8, 64)) :]


def _insert(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(_MORSELS) + data[at:]


def _repeat(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    piece = data[at : at + rng.choice((1, 4, 30, 300))]
    return data[:at] + piece * rng.choice((2, 2, 3, 50)) + data[at + len(piece) :]


def _splice(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _overwrite(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    morsel = rng.choice(_MORSELS)
    return data[:at] + morsel + data[at + len(morsel) :]


def _pack(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    match rng.randrange(8):
        case 0:
            return gzip.compress(data, mtime=0)
        case 1:
            return data.decode("utf-8", "replace").encode("utf-16")
        case 2:
            return b"\xef\xbb\xbf" + data
        case _:
            return _flip(data, rng, others)


_BYTES = (_flip, _flip, _cut, _remove, _insert, _insert, _repeat, _splice, _overwrite, _pack)
_MORSELS = (
    b"\0", b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b'"', b"\\", b"\\u0000", b"\\ud800", b"{", b"}", b"[",
    b"]", b",", b":", b"\xff", b"\xc3", b"\xf0\x9f", b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8",
    b"\x7f",
    b"null", b"true", b"-", b"1e999", b"data: ", b"data:", b"event: error\n", b"event: \n", b": hi\n\n", b"id: 1\0\n",
    b"retry: 99999999999999999999\n", b"data: [DONE]\n\n", b'data: {"error":{"message":"x"}}\n\n', b"data: {}\n\n",
    b"data: []\n\n", b"data: null\n\n", b"data\n\n", b"\n\ndata: 1\n\n", b"event: message_stop\ndata: {}\n\n",
    b"x" * 5000,
    b'{"a":' * 70, b"[" * 2000, b"\x1f\x8b\x08\x00", b"/*x*/", b"//\n",
)  # fmt: skip


def cut_up(data: bytes, rng: random.Random) -> list[bytes]:
    """The bytes in the pieces in which they come: all at once, in some, or one by one."""
    way = rng.random()
    if way < 0.25 or len(data) < 2:
        return [data] if data else []
    if way < 0.32 and len(data) <= 3000:
        return [data[at : at + 1] for at in range(len(data))]
    places = sorted(rng.sample(range(1, len(data)), min(len(data) - 1, rng.choice((1, 2, 5, 20)))))
    return [data[begin:end] for begin, end in zip([0, *places], [*places, len(data)], strict=True)]
