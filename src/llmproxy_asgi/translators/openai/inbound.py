"""The shared caller side of OpenAI's protocols: errors and model lists."""

from collections.abc import Sequence

from typing_extensions import override

from llmproxy_asgi.errors import GatewayError
from llmproxy_asgi.translators.base import Inbound, Problem, RequestT, ResponseT
from llmproxy_asgi.translators.openai import listing
from llmproxy_asgi.translators.openai.errors import encode_problem


class OpenAIInbound(Inbound[RequestT, ResponseT]):
    """The base of the codecs for callers, without the calls."""

    @override
    def problem(self, error: GatewayError, *, request_id: str | None = None) -> Problem:
        return encode_problem(error)

    @override
    def list_models(self, names: Sequence[str]) -> bytes:
        return listing.list_models(names)

    @override
    def show_model(self, name: str) -> bytes:
        return listing.show_model(name)
