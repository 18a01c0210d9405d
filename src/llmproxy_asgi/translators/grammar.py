"""The legal order of stream events, as a table.

::

    stream := Started body* ending
    body   := part event | Finished | UsageReported
    part   := PartStarted PartDelta* PartEnded      per (candidate, index); parts of one candidate may overlap
    ending := Ended | Failed                        Ended: every part ended, every candidate finished, one at the least

`Passed` may stand anywhere before the ending, even before `Started`; `Failed` may be the only event there is.
`Grammar` checks all of it, for tests; `Borders` checks the borders of parts and the ending, for streams at work.
Neither repairs or reorders anything.
"""

from llmproxy_asgi.conversation import StreamEvent


class GrammarError(ValueError):
    """An event that may not stand where it stands; `rule` names the rule it breaks."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule = rule


class Grammar:
    """Checks a row of events one by one, every delta included."""

    @property
    def complete(self) -> bool:
        """Whether the row has had its ending."""
        raise NotImplementedError

    def check(self, event: StreamEvent) -> None:
        """Take the next event.

        Raises:
            GrammarError: It may not stand here.
        """
        raise NotImplementedError


class Borders:
    """The cheap check for streams at work: borders of parts and the ending, no delta."""

    @property
    def complete(self) -> bool:
        """Whether the row has had its ending."""
        raise NotImplementedError

    def check(self, event: StreamEvent) -> None:
        """Take the next event.

        Raises:
            GrammarError: It may not stand here.
        """
        raise NotImplementedError
