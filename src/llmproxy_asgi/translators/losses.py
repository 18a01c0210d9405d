"""What a request lost or had changed on its way to an upstream that cannot take it as it is."""


class Losses:
    """The warnings of one request, each once, in the order they came up.

    A warning is `dropped:`, `clamped:`, `downgraded:`, `emulated:` or `moved:`, and what it happened to.
    """

    __slots__ = ("_words",)

    def __init__(self) -> None:
        self._words: dict[str, None] = {}

    def add(self, *words: str) -> None:
        """Note these."""
        self._words.update(dict.fromkeys(words))

    @property
    def words(self) -> tuple[str, ...]:
        """All that were noted."""
        return tuple(self._words)
