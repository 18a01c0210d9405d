"""JSON objects whose members keep the bytes they came in: for bodies that are passed on but for a member or two."""

from collections.abc import Mapping

import msgspec

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def split(data: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """The members of an object.

    Raises:
        msgspec.MsgspecError: It is none.
    """
    return _MEMBERS.decode(data)


def joined(values: Mapping[str, msgspec.Raw]) -> bytes:
    """An object of these members, each with the very bytes it has."""
    pieces: list[bytes | msgspec.Raw] = []
    for key, value in values.items():
        pieces += (b"," if pieces else b"{", msgspec.json.encode(key), b":", value)
    return b"".join(pieces) + b"}" if pieces else b"{}"


def raw(value: object) -> msgspec.Raw:
    """A value as a member."""
    return msgspec.Raw(msgspec.json.encode(value))
