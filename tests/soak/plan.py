"""What each call of a soak does, drawn from the seed and the call's number alone; what it and its upstream say.

A call says in its prompt what its upstream is to do (`Errand`), so the upstream needs no plan of its own, and both ends
know every piece of the answer's text.
"""

import random
import re
import zlib
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

Wire = Literal["chat", "responses", "messages", "gemini"]

WIRES: Final[tuple[Wire, ...]] = ("chat", "responses", "messages", "gemini")
"""Protocols of callers and of upstreams; the upstreams' are the providers' names, too."""
AWAY: Final = "away"
"""The provider at whose address no server listens."""

NONE: Final = "none"
REFUSED: Final = "refused"
EARLY: Final = (REFUSED, "reset", "rate_limited", "error", "told", "silent", "slow")
"""Faults before the first event: the caller notices nothing of them."""
LATE: Final = ("stall", "cut", "malformed", "reset_late")
"""Faults in the middle: a stream ends with its protocol's error, a whole answer is asked for again."""
DOWN: Final = "down"
"""Every try fails."""
FAULTS: Final = (*EARLY, *LATE, DOWN)

WHOLE_ROUND: Final = len(WIRES) * (len(FAULTS) + 1)
"""Conversations among which each protocol meets each fault once."""

FAULTY: Final = 0.2
"""Share of calls whose upstream fails."""
LEAVING: Final = 0.1
"""Share of calls whose caller leaves."""
STREAMED: Final = 0.85
"""Share of calls that want a stream."""
SHORTEST: Final = 8
LONGEST: Final = 40
"""Pieces of an answer."""
KEYS: Final = tuple(f"llmp_soak-{number}-0f1e2d3c4b5a" for number in range(4))
"""With which half of the calls come; the other half are users of the host's."""
USERS: Final = 16

_ERRAND = re.compile(rb"soak:(\d+):([a-z_]+):(\d+):(\d+):(\d+);")
_PROSE = "The reading room keeps its lamps lit until the last book has been put back on its shelf. "


class Errand(NamedTuple):
    """What an upstream is to do for a call."""

    number: int
    fault: str
    at: int
    """The piece before which a late fault happens."""
    pieces: int
    pace: int
    """Milliseconds before each piece."""

    def told(self) -> str:
        """As it stands in a prompt."""
        return "soak:" + ":".join(map(str, self)) + ";"

    @property
    def input(self) -> int:
        """Tokens that the upstream counts."""
        return 400 + self.number % 997

    @property
    def cached(self) -> int:
        """Of these, read from a cache."""
        return self.number % 5 * 16

    @property
    def output(self) -> int:
        """Tokens of the answer that the upstream counts."""
        return self.pieces * 3 + self.number % 7

    def texts(self) -> list[str]:
        """The answer, piece by piece; each carries a checksum of where it belongs."""
        return [
            f"{index}.{zlib.crc32(f'{self.number}.{index}'.encode()):08x} and so it went on; "
            for index in range(self.pieces)
        ]


def errand_in(body: bytes) -> Errand:
    """What a request asks of its upstream.

    Raises:
        LookupError: Nothing.
    """
    found = _ERRAND.search(body)
    if found is None:
        raise LookupError(f"a request without an errand: {body[:300]!r}")
    number, fault, at, pieces, pace = found.groups()
    return Errand(int(number), fault.decode(), int(at), int(pieces), int(pace))


class Talk(NamedTuple):
    """A conversation, of which many calls are turns: its caller, its protocol and its model stay the same."""

    number: int
    wire: Wire
    first: Wire
    """The protocol of the upstream that is tried first."""
    second: Wire
    key: str
    """Empty: it is a user's."""
    user: str

    def model(self, fault: str) -> str:
        """The name for its upstreams; for one fault the first of them does not exist."""
        return f"{AWAY if fault == REFUSED else self.first}-{self.second}"

    def beginning(self) -> tuple[str, str, str]:
        """The system's, the user's and the assistant's first words."""
        return (
            _PROSE * 6,
            f"This is conversation {self.number}. How long are the lamps lit?",
            "Until the last book is back on its shelf.",
        )


class Call(NamedTuple):
    """One call."""

    talk: Talk
    errand: Errand
    stream: bool
    leaves: float | None
    """Seconds after which its caller leaves; None: not before the end."""

    @property
    def number(self) -> int:
        """Names it."""
        return self.errand.number

    @property
    def request_id(self) -> str:
        """Names it on all sides."""
        return f"soak-{self.errand.number}"

    @property
    def is_cut(self) -> bool:
        """Whether its stream is to break in the middle."""
        return self.stream and self.errand.fault in LATE

    @property
    def fails(self) -> bool:
        """Whether it is to fail before anything is shown."""
        return self.errand.fault == DOWN


class Plan:
    """All calls of a soak.

    Args:
        seed: Two plans of one seed are the same.
        talks: How many conversations there are.
        pace: Seconds between two pieces of an answer.
    """

    def __init__(self, seed: int, *, talks: int, pace: float) -> None:
        self._seed = seed
        self._pace = pace
        self.talks = [self._talk(number) for number in range(talks)]

    def calls(self) -> Iterator[Call]:
        """Without end; the first ones, two for each conversation, are the rehearsal's."""
        for number, talk in enumerate((*self.talks, *self.talks)):
            yield self._rehearsed(number, talk)
        number = 2 * len(self.talks)
        while True:
            yield self._call(number)
            number += 1

    def _talk(self, number: int) -> Talk:
        drawn = random.Random(f"{self._seed}.talk.{number}")
        first, second = drawn.sample(WIRES, 2)
        wire = WIRES[number % len(WIRES)]
        key = drawn.choice(KEYS) if number % 2 else ""
        return Talk(number, wire, first, second, key, "" if key else f"u{drawn.randrange(USERS)}")

    def _rehearsed(self, number: int, talk: Talk) -> Call:
        """Short; once with one of the faults, and once under the other name that it may call."""
        again = number >= len(self.talks)
        fault = REFUSED if again else (NONE, *FAULTS)[number // len(WIRES) % (len(FAULTS) + 1)]
        return Call(talk, Errand(number, fault, 1, 3, 20), number % 7 != 0, None)

    def _call(self, number: int) -> Call:
        drawn = random.Random(f"{self._seed}.{number}")
        talk = drawn.choice(self.talks)
        fault = drawn.choice(FAULTS) if drawn.random() < FAULTY else NONE
        pieces = drawn.randint(SHORTEST, LONGEST)
        errand = Errand(number, fault, drawn.randint(1, pieces - 1), pieces, round(self._pace * 1000))
        leaves = drawn.uniform(0.0, pieces * self._pace) if drawn.random() < LEAVING else None
        return Call(talk, errand, drawn.random() < STREAMED, leaves)
