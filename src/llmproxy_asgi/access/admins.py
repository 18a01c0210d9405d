"""The administrators, who may see the metrics and the administration of all callers.

Other callers see their own data only. Callers are authenticated before.
"""

from collections.abc import Iterable

from llmproxy_asgi.access.keys import Grant
from llmproxy_asgi.errors import Forbidden
from llmproxy_asgi.settings import AdminEntry

NOT_CONFIGURED = "No administrators are configured (access.admins): list groups, users or keys."
_NOT_ALLOWED = "Only administrators may see this page."


class Admins:
    """The administrators.

    Args:
        entries: Groups, users and keys. A user and a key of the same name are different owners.
        everyone: Whether every caller is an administrator if there are no entries: the gateway is configured as open.
    """

    def __init__(self, entries: Iterable[AdminEntry], *, everyone: bool) -> None:
        entries = tuple(entries)
        self._groups = frozenset(entry.id for entry in entries if entry.kind == "group")
        self._owners = frozenset((entry.kind, entry.tenant, entry.id) for entry in entries if entry.kind != "group")
        self._named = bool(entries)
        self._everyone = everyone and not self._named

    def check(self, grant: Grant) -> None:
        """Check that a caller is an administrator.

        Raises:
            Forbidden: It is not.
        """
        if not self._everyone and not self.names(grant):
            raise Forbidden(_NOT_ALLOWED if self._named else NOT_CONFIGURED)

    def names(self, grant: Grant) -> bool:
        """Return whether the caller is listed, rather than allowed because the gateway is open."""
        principal = grant.principal
        listed = (grant.kind, principal.tenant, principal.id) in self._owners
        return listed or not self._groups.isdisjoint(principal.groups)
