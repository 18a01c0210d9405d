"""Who may see what concerns everybody: the metrics, and the administration.

Callers see what is theirs; this is about the rest. It asks nobody who is calling: that is settled before.
"""

from collections.abc import Iterable

from llmproxy_asgi.access.keys import Grant
from llmproxy_asgi.errors import Forbidden
from llmproxy_asgi.settings import AdminEntry

NOT_CONFIGURED = "No administrators are configured (access.admins): list groups, users or keys."
_NOT_YOU = "Only administrators may see this page."


class Admins:
    """The administrators.

    Args:
        entries: Groups, users and keys. A user and a key of one name are two entries, as they are two owners.
        anybody: Whether everybody is one where no entry is given: the gateway is open, and says so.
    """

    def __init__(self, entries: Iterable[AdminEntry], *, anybody: bool) -> None:
        entries = tuple(entries)
        self._groups = frozenset(entry.id for entry in entries if entry.kind == "group")
        self._owners = frozenset((entry.kind, entry.tenant, entry.id) for entry in entries if entry.kind != "group")
        self._named = bool(entries)
        self._anybody = anybody and not self._named

    def check(self, grant: Grant) -> None:
        """Let an administrator pass.

        Raises:
            Forbidden: It is none.
        """
        if not self._anybody and not self.names(grant):
            raise Forbidden(_NOT_YOU if self._named else NOT_CONFIGURED)

    def names(self, grant: Grant) -> bool:
        """Whether the caller is listed, and not only let in because nobody is."""
        principal = grant.principal
        listed = (grant.kind, principal.tenant, principal.id) in self._owners
        return listed or not self._groups.isdisjoint(principal.groups)
