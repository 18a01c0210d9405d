"""Encode lists of models for Google's SDK, always as one page, and token counts.

Shape: the model object of the Gemini API, read from google-genai 3.4 on 2026-11-21.
"""

from collections.abc import Sequence

import msgspec

_METHODS = ("generateContent", "countTokens")


def list_models(names: Sequence[str]) -> bytes:
    """Encode the list of models."""
    return msgspec.json.encode({"models": [_model(name) for name in names]})


def show_model(name: str) -> bytes:
    """Encode one model."""
    return msgspec.json.encode(_model(name.removeprefix("models/")))


def encode_count(tokens: int) -> bytes:
    """Encode the response of `:countTokens`."""
    return msgspec.json.encode({"totalTokens": tokens})


def _model(name: str) -> dict[str, object]:
    return {
        "name": f"models/{name}",
        "version": "001",
        "displayName": name,
        "supportedGenerationMethods": _METHODS,
    }
