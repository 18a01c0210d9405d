"""Who may see what concerns everybody: the metrics, and the administration.

Callers see what is theirs; this is about the rest. It asks nobody who is calling: that is settled before.
"""

from collections.abc import Iterable

from llmproxy_asgi.errors import Forbidden
from llmproxy_asgi.principal import Principal

NOT_CONFIGURED = "Nobody may see this yet: list groups or ids under access.admins."
_NOT_YOU = "This is for administrators."


class Admins:
    """The administrators.

    Args:
        names: Groups, and ids of principals without a tenant: a tenant hands out its own ids, and could hand out one
            of these.
        anybody: Whether everybody is one where no name is given: the gateway is open, and says so.
    """

    def __init__(self, names: Iterable[str], *, anybody: bool) -> None:
        self._names = frozenset(names)
        self._anybody = anybody and not self._names

    def check(self, principal: Principal) -> None:
        """Let an administrator pass.

        Raises:
            Forbidden: It is none.
        """
        if self._anybody or not self._names.isdisjoint(principal.groups):
            return
        if not principal.tenant and principal.id in self._names:
            return
        raise Forbidden(_NOT_YOU if self._names else NOT_CONFIGURED)
