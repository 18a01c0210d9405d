"""Which cooldowns concern a call to a target, and which of them its outcome changes.

::

    what failed                                         what cools down
    429, 5xx, a broken answer, a timeout                (credential, model): vendors limit and break per model
    401, 403, 402, a spent quota, an account's limit    the credential
    refused, DNS, TLS, no connection in time            the upstream: every credential and model of the provider

A target is tried only when none of the three is cooling down. Decides nothing about calls.
"""

from collections.abc import Iterator

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.errors import UpstreamError, UpstreamRefused
from llmproxy_asgi.execution.cooldown import Cooldowns, Noticed, Rest, Subject
from llmproxy_asgi.providers.base import Credential
from llmproxy_asgi.providers.target import Target


class TargetCooldowns:
    """The cooldowns of upstreams, of their credentials, and of models by credential.

    Kept per process, beside the configuration, so that a reload does not forget them.

    Args:
        clock: What cooldowns are measured with.
        noticed: Told of every change.
    """

    def __init__(self, clock: Clock = SYSTEM, *, noticed: Noticed | None = None) -> None:
        self._cooldowns = Cooldowns(clock)
        self.known = self._cooldowns.known
        """What has failed lately, as `Cooldowns.known`."""
        self._cooldowns.noticed = noticed

    @property
    def nothing_known(self) -> bool:
        """Whether nothing has failed lately."""
        return not self.known

    def resting(self, target: Target, credential: Credential) -> Rest | None:
        """What keeps a target from being tried with a credential now; None: nothing does.

        Where several things cool down, the one that ends last. If an upstream asked for one of them, all of it counts
        as asked for: nobody may try before.
        """
        if not self.known:
            return None
        cooldowns = self._cooldowns
        rests = [rest for each in _subjects(target, credential) if (rest := cooldowns.resting(each)) is not None]
        if len(rests) < 2:
            return rests[0] if rests else None
        last = max(rests, key=lambda rest: rest.until)
        asked = any(rest.asked for rest in rests)
        return Rest(last.until, asked=asked, seconds=last.seconds, reason=last.reason)

    def is_ready(self, target: Target) -> bool:
        """Whether a target could be tried now with one of its credentials."""
        return not self.known or any(
            self.resting(target, credential) is None for credential in target.provider.credentials
        )

    def seconds_left(self, rest: Rest) -> float:
        """How long a rest still lasts."""
        return self._cooldowns.seconds_left(rest)

    def trying(self, target: Target, credential: Credential) -> None:
        """A try begins: nobody else makes one where a circuit is half open until this one has been reported on."""
        if self.known:
            for subject in _subjects(target, credential):
                self._cooldowns.trying(subject)

    def gave_up(self, target: Target, credential: Credential) -> None:
        """A try ended without telling anything about the upstream: its caller left, or it was never sent."""
        if self.known:
            for subject in _subjects(target, credential):
                self._cooldowns.gave_up(subject)

    def answered(self, target: Target, credential: Credential) -> None:
        """An answer began: circuits close. What failed before is forgotten only when an answer ends well."""
        if self.known:
            upstream, account, model = _subjects(target, credential)
            self._cooldowns.succeeded(upstream)
            self._cooldowns.succeeded(account)
            self._cooldowns.answered(model)

    def succeeded(self, target: Target, credential: Credential) -> None:
        """An answer ended well: whatever was counted is forgotten."""
        if self.known:
            for subject in _subjects(target, credential):
                self._cooldowns.succeeded(subject)

    def failed(self, target: Target, credential: Credential, error: UpstreamError, cooldown: float) -> None:
        """An attempt failed, before its first event or after.

        Args:
            target: Where it was made.
            credential: What signed it.
            error: How it failed; its `about` says what cools down.
            cooldown: Seconds to cool down where the upstream names none; 0: only where it names some.
        """
        upstream, account, model = _subjects(target, credential)
        cooldowns = self._cooldowns
        if isinstance(error, UpstreamRefused):
            self.answered(target, credential)  # a refusal of this request is an answer: somebody is there
        elif error.about == "connection":
            cooldowns.failed(upstream, error, cooldown)
            cooldowns.gave_up(account)
            cooldowns.gave_up(model)
        elif error.about == "credential":
            cooldowns.succeeded(upstream)
            cooldowns.failed(account, error, cooldown)
            cooldowns.gave_up(model)
        else:
            cooldowns.succeeded(upstream)
            cooldowns.gave_up(account)
            cooldowns.failed(model, error, cooldown)

    def found_down(self, provider: str, seconds: float) -> None:
        """A health check found that an upstream does not answer: it cools down, if it does not already."""
        self._cooldowns.found_down(Subject(provider), seconds)

    def found_up(self, provider: str) -> None:
        """A health check found that an upstream answers: a cooldown that a check began is over."""
        self._cooldowns.found_up(Subject(provider))

    def clear(self) -> None:
        """Forget everything."""
        self._cooldowns.clear()

    def all_resting(self) -> Iterator[tuple[Subject, Rest]]:
        """Everything that cools down now."""
        return self._cooldowns.all_resting()


def _subjects(target: Target, credential: Credential) -> tuple[Subject, Subject, Subject]:
    """What a call to a target with a credential depends on: the upstream, the credential, the model by it."""
    provider, fingerprint = target.provider.name, credential.fingerprint
    return Subject(provider), Subject(provider, fingerprint), Subject(provider, fingerprint, target.model)
