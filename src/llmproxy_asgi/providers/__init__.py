"""Whom we call: where, with what credential, in which protocol, with which quirks."""

from llmproxy_asgi.providers.base import Credential, ModelEntry, Provider, ProviderConfig, provider

__all__ = ["Credential", "ModelEntry", "Provider", "ProviderConfig", "provider"]
