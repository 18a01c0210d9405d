"""The protocol-neutral request and answer of embeddings.

No logic, no vendor's field names and no I/O live here.
"""

from typing import ClassVar

import llmproxy_asgi.conversation as ir


class EmbeddingInput(ir.Record, frozen=True, kw_only=True):
    """One input: a text, or its token ids."""

    text: str = ""
    tokens: tuple[int, ...] = ()
    """Token ids of one vendor; `text` is then empty."""
    extras: ir.Extras = ir.EMPTY


class EmbeddingRequest(ir.Record, frozen=True, kw_only=True):
    """The protocol-neutral embedding request."""

    stream: ClassVar[bool] = False

    protocol: str
    model: str
    inputs: tuple[EmbeddingInput, ...]
    dimensions: int | None = None
    end_user: str | None = None
    extras: ir.Extras = ir.EMPTY


class Embeddings(ir.Record, frozen=True, kw_only=True):
    """The answer: one vector for each input, in their order."""

    model: str
    vectors: tuple[tuple[float, ...], ...]
    usage: ir.Usage = ir.Usage()
    provider: str = ""
    """This and the next three as in `Response`."""
    request_id: str = ""
    attempts: int = 0
    warnings: tuple[str, ...] = ()
    extras: ir.Extras = ir.EMPTY
