"""Rewrite tool names and call ids that the upstream would refuse, and restore them in its answer.

Legal ones are unchanged. Others are derived from the original alone, by hash, so that the history is the same in every
turn. A table lives for one call and is then dropped.

Two originals never share a name: if a derived name is taken, the later one is derived again. This takes a client that
sends both an illegal name and the name derived from it; only then does the order of calls matter.
"""

import re
from collections.abc import Iterator
from hashlib import sha256
from itertools import count
from string import ascii_letters, digits

CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""The form of call ids that every large vendor accepts."""
_ANY = re.compile(r"(?s:.)+")
_NO_LIMIT = 1 << 30

_ALPHABET = digits + ascii_letters
_FOREIGN = re.compile(r"[^A-Za-z0-9_-]")
_HASH_SIZE = 8
_COMMON = re.compile(r"(?i)functions?|tool_?use|toolu|tool|call|fc_|[^a-z0-9]")


class Renamer:
    """Tool names for one call.

    Args:
        pattern: What the upstream accepts; a name must match it completely. ASCII letters, digits and underscores in
            any order must be legal, but for the first character, where letters and underscores must be.
        limit: The maximum length of a name, in characters; at least 16.
    """

    def __init__(self, pattern: re.Pattern[str], limit: int) -> None:
        if limit < 2 * _HASH_SIZE:
            raise ValueError("a limit under 16 characters leaves no room for a derived name")
        self._pattern = pattern
        self._limit = limit
        self._given: dict[tuple[str | None, str], str] = {}
        self._taken: set[str] = set()
        self.table: dict[str, str] = {}
        """By upstream name: the client's name; only those that differ."""
        self.namespaces: dict[str, str] = {}
        """By upstream name: the namespace flattened into it."""

    @classmethod
    def unchanged(cls) -> "Renamer":
        """Return a renamer that keeps all names, but flattens namespaces."""
        return cls(_ANY, _NO_LIMIT)

    def outward(self, name: str, namespace: str | None = None) -> str:
        """Return the name for the upstream: stable, and distinct from that of every other name.

        A namespace is flattened: `namespace__name`.
        """
        key = (namespace, name)
        given = self._given.get(key)
        if given is None:
            given = next(made for made in self._choices(key) if made not in self._taken)
            self._given[key] = given
            self._taken.add(given)
            if given != name:
                self.table[given] = name
            if namespace is not None:
                self.namespaces[given] = namespace
        return given

    def inward(self, name: str) -> str:
        """Return the client's name for an upstream name."""
        return self.table.get(name, name)

    def _choices(self, key: tuple[str | None, str]) -> Iterator[str]:
        namespace, name = key
        flat = name if namespace is None else f"{namespace}__{name}"
        if len(flat) <= self._limit and self._pattern.fullmatch(flat):
            yield flat
        readable = _FOREIGN.sub("_", flat).replace("-", "_")[: self._limit - _HASH_SIZE - 2]
        for attempt in count():
            made = f"{readable}_{_digest(namespace, name, attempt, size=_HASH_SIZE)}"
            yield made if self._pattern.fullmatch(made) else f"_{made}"


class CallIds:
    """Call ids for one call.

    Args:
        pattern: What the upstream accepts; an id must match it completely.
        prefix: The prefix of derived ids.
        size: The number of letters and digits after the prefix.
    """

    def __init__(self, pattern: re.Pattern[str] = CALL_ID, *, prefix: str = "call_", size: int = 24) -> None:
        self._pattern = pattern
        self._prefix = prefix
        self._size = size
        self._given: dict[str, str] = {}
        self._taken: set[str] = set()
        self.table: dict[str, str] = {}
        """By upstream id: the client's id; only those that differ."""

    def outward(self, call_id: str) -> str:
        """Return the id for the upstream: stable, and distinct from that of every other id."""
        given = self._given.get(call_id)
        if given is None:
            given = next(made for made in self._choices(call_id) if made not in self._taken)
            self._given[call_id] = given
            self._taken.add(given)
            if given != call_id:
                self.table[given] = call_id
        return given

    def inward(self, call_id: str) -> str:
        """Return the client's id for an upstream id."""
        return self.table.get(call_id, call_id)

    def _choices(self, call_id: str) -> Iterator[str]:
        if self._pattern.fullmatch(call_id):
            yield call_id
        for attempt in count():
            yield self._prefix + _digest(None, call_id, attempt, size=self._size)


class DistinctIds:
    """Distinct call ids of one answer, because only its id links a result to its call.

    Some upstreams repeat an id for parallel calls, or send none. A repeated or empty id is replaced by one derived from
    the call, so that the same answer has the same ids.

    Args:
        nonce: Text unique to the answer (see `UpstreamRequest.nonce`), so that no other answer has these ids.
    """

    __slots__ = ("_given", "_nonce")

    def __init__(self, nonce: str = "") -> None:
        self._nonce = nonce
        self._given: set[str] = set()

    def of(self, call_id: str, *seeds: str) -> str:
        """Return the id of the next call: the upstream's if it is new, else one derived from it and `seeds`."""
        if not call_id or call_id in self._given:
            number = len(self._given)
            call_id = derived("call_", *seeds, call_id, str(number), self._nonce)
        self._given.add(call_id)
        return call_id


def derived(prefix: str, *seeds: str, size: int = 24) -> str:
    """Return a deterministic id: the prefix and `size` hexadecimal digits, at most 64."""
    return prefix + sha256("\0".join(seeds).encode("utf-8", "surrogatepass")).hexdigest()[:size]


def is_unique(call_id: str, name: str) -> bool:
    """Return whether a call's id, by its form, is unique among conversations.

    Some servers count (`call_0`, `functions.weather:0`), some repeat the tool's name. Random ids have eight letters and
    digits or more beside all that.
    """
    rest = _COMMON.sub("", call_id.replace(name, "") if name else call_id)
    return len(rest) >= _HASH_SIZE and not rest.isdecimal()


def _digest(namespace: str | None, name: str, attempt: int, *, size: int) -> str:
    """Return letters and digits that depend on the arguments alone."""
    # Lengths first, so that no two originals read alike; half surrogate pairs are hashed as they are.
    text = f"{-1 if namespace is None else len(namespace)} {attempt} {namespace or ''}{name}"
    number = int.from_bytes(sha256(text.encode("utf-8", "surrogatepass")).digest())
    made = []
    for _ in range(size):
        number, digit = divmod(number, len(_ALPHABET))
        made.append(_ALPHABET[digit])
    return "".join(made)
