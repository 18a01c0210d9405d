"""Encode lists of models for OpenAI's SDK.

Shape: the model object of the OpenAI API reference, read from openai 3.52 on 2026-11-21. The creation time of an
upstream's model is unknown, so `created` is the epoch.
"""

from collections.abc import Sequence

import msgspec


def list_models(names: Sequence[str]) -> bytes:
    """Encode all models."""
    return msgspec.json.encode({"object": "list", "data": [_model(name) for name in names]})


def show_model(name: str) -> bytes:
    """Encode one model."""
    return msgspec.json.encode(_model(name))


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "llmproxy"}
