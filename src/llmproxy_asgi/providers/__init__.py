"""Providers: where to call, with which credential, in which protocol, and with which quirks."""

from llmproxy_asgi.providers.base import Credential, ModelEntry, Provider, ProviderConfig, provider

__all__ = ["Credential", "ModelEntry", "Provider", "ProviderConfig", "provider"]
