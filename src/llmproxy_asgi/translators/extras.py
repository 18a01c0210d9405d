"""A caller's fields that its protocol alone knows, put back into a request of the same protocol."""

from collections.abc import Mapping
from typing import Any


def merge_extras(body: dict[str, Any], extras: Mapping[str, Any]) -> None:
    """Merge a caller's own fields into an encoded request; of two values for one field, the caller's counts.

    Objects are merged member by member at every depth, because the extras hold only what was not decoded: whatever
    stands beside it in the same object was, and is in the body.
    """
    for key, value in extras.items():
        made = body.get(key)
        if isinstance(made, dict) and isinstance(value, dict):
            merged = dict(made)
            merge_extras(merged, value)
            body[key] = merged
        else:
            body[key] = value
