"""Which cooldowns concern a call to a target, and which of them its outcome changes.

::

    what failed                                         what cools down
    429, 5xx, a broken answer, a timeout                (credential, model): vendors limit and break per model
    401, 403, 402, an exceeded quota, an account limit   the credential
    refused, DNS, TLS, no connection in time            the upstream: every credential and model of the provider

A target is tried only when none of the three is cooling down. Decides nothing about calls.
"""

from collections.abc import Iterator

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.errors import UpstreamError, UpstreamRefused
from llmproxy_asgi.execution.cooldown import Cooldown, Cooldowns, OnChange, Subject
from llmproxy_asgi.providers.base import Credential
from llmproxy_asgi.providers.target import Target


class TargetCooldowns:
    """The cooldowns of upstreams, of their credentials, and of models by credential.

    Kept per process, beside the configuration, so that a reload does not forget them.

    Args:
        clock: Measures cooldowns.
        on_change: Receives every change.
    """

    def __init__(self, clock: Clock = SYSTEM, *, on_change: OnChange | None = None) -> None:
        self._cooldowns = Cooldowns(clock)
        self.known = self._cooldowns.known
        """As `Cooldowns.known`."""
        self._cooldowns.on_change = on_change

    @property
    def is_empty(self) -> bool:
        """Whether nothing has failed lately."""
        return not self.known

    def active(self, target: Target, credential: Credential) -> Cooldown | None:
        """Return the cooldown because of which a target may not be tried with a credential now; None: there is none.

        Of several cooldowns, the one that ends last. If an upstream asked for one of them, the result counts as asked
        for, because the target may not be tried before its end.
        """
        if not self.known:
            return None
        cooldowns = self._cooldowns
        active = [found for each in _subjects(target, credential) if (found := cooldowns.active(each)) is not None]
        if len(active) < 2:
            return active[0] if active else None
        last = max(active, key=lambda each: each.until)
        asked = any(each.asked for each in active)
        return Cooldown(last.until, asked=asked, seconds=last.seconds, reason=last.reason)

    def is_ready(self, target: Target) -> bool:
        """Return whether a target can be tried now with one of its credentials."""
        return not self.known or any(
            self.active(target, credential) is None for credential in target.provider.credentials
        )

    def seconds_left(self, cooldown: Cooldown) -> float:
        """Return the remaining seconds of a cooldown."""
        return self._cooldowns.seconds_left(cooldown)

    def attempt_started(self, target: Target, credential: Credential) -> None:
        """Block other attempts on half-open circuits until this attempt's result is reported."""
        if self.known:
            for subject in _subjects(target, credential):
                self._cooldowns.attempt_started(subject)

    def attempt_abandoned(self, target: Target, credential: Credential) -> None:
        """Report an attempt that shows nothing about the upstream: it was cancelled, or never sent."""
        if self.known:
            for subject in _subjects(target, credential):
                self._cooldowns.attempt_abandoned(subject)

    def response_started(self, target: Target, credential: Credential) -> None:
        """Close circuits when a response begins. Failures are forgotten only when a response is complete."""
        if self.known:
            upstream, account, model = _subjects(target, credential)
            self._cooldowns.succeeded(upstream)
            self._cooldowns.succeeded(account)
            self._cooldowns.response_started(model)

    def succeeded(self, target: Target, credential: Credential) -> None:
        """Forget the failures of a target when a response is complete."""
        if self.known:
            for subject in _subjects(target, credential):
                self._cooldowns.succeeded(subject)

    def failed(self, target: Target, credential: Credential, error: UpstreamError, cooldown: float) -> None:
        """Count a failed attempt, before its first event or after.

        Args:
            target: The target of the attempt.
            credential: Its credential.
            error: The failure; its `about` decides what cools down.
            cooldown: Seconds to cool down where the upstream names none; 0: only where it names some.
        """
        upstream, account, model = _subjects(target, credential)
        cooldowns = self._cooldowns
        if isinstance(error, UpstreamRefused):
            self.response_started(target, credential)  # a refusal shows that the upstream is available
        elif error.about == "connection":
            cooldowns.failed(upstream, error, cooldown)
            cooldowns.attempt_abandoned(account)
            cooldowns.attempt_abandoned(model)
        elif error.about == "credential":
            cooldowns.succeeded(upstream)
            cooldowns.failed(account, error, cooldown)
            cooldowns.attempt_abandoned(model)
        else:
            cooldowns.succeeded(upstream)
            cooldowns.attempt_abandoned(account)
            cooldowns.failed(model, error, cooldown)

    def found_down(self, provider: str, seconds: float) -> None:
        """Begin a cooldown because a health check failed, unless another one lasts."""
        self._cooldowns.found_down(Subject(provider), seconds)

    def found_up(self, provider: str) -> None:
        """End a cooldown that a health check began, because a later check succeeded."""
        self._cooldowns.found_up(Subject(provider))

    def clear(self) -> None:
        """Forget everything."""
        self._cooldowns.clear()

    def all_active(self) -> Iterator[tuple[Subject, Cooldown]]:
        """Yield every subject that cools down now, with its cooldown."""
        return self._cooldowns.all_active()


def _subjects(target: Target, credential: Credential) -> tuple[Subject, Subject, Subject]:
    """Return the subjects that a call depends on: the upstream, the credential, and the model by the credential."""
    provider, fingerprint = target.provider.name, credential.fingerprint
    return Subject(provider), Subject(provider, fingerprint), Subject(provider, fingerprint, target.model)
