"""Encode lists of models for Anthropic's SDK, always as one page.

Shape: the model object of the Messages API, read from anthropic 2.11 on 2026-11-21. The creation time of an upstream's
model is unknown, so `created_at` is the epoch, as in the vendor's reference for the same case.
"""

from collections.abc import Sequence

import msgspec


def list_models(names: Sequence[str]) -> bytes:
    """Encode the list of models."""
    page = {
        "data": [_model(name) for name in names],
        "has_more": False,
        "first_id": names[0] if names else None,
        "last_id": names[-1] if names else None,
    }
    return msgspec.json.encode(page)


def show_model(name: str) -> bytes:
    """Encode one model."""
    return msgspec.json.encode(_model(name))


def _model(name: str) -> dict[str, object]:
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "active",
    }
