"""The short way: one provider, one model, text in and text out.

`create_llm_client` builds a `Gateway` with a single provider behind a client whose methods return plain text. What
needs more (tools, several providers, usage) uses `Gateway`.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

from llmproxy_asgi.conversation import PartDelta, PartStarted, Text, TextDelta
from llmproxy_asgi.errors import ConfigError, MisuseError
from llmproxy_asgi.gateway import Gateway, Messages, Transports
from llmproxy_asgi.providers.base import key_variable
from llmproxy_asgi.providers.registry import known_types, provider_class

_SYNONYMS = {"generic": "openai-compatible"}


class LLMClient:
    """One model of one provider.

    Args:
        gateway: Closed with the client.
        model: What is asked.
    """

    def __init__(self, gateway: Gateway, *, model: str) -> None:
        self.gateway = gateway
        self.model = model

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close idle connections."""
        await self.gateway.aclose()

    async def generate(
        self,
        messages: Messages,
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        stream: bool = False,
        on_text: Callable[[str], None] | None = None,
        **options: Any,
    ) -> str:
        """The answer's text.

        Args:
            messages: What was said so far.
            temperature: Sent only if given.
            max_tokens: Sent only if given.
            stream: Ask for a stream and collect it (long answers then never look idle).
            on_text: Called with each piece as it comes; implies `stream`.
            options: Further fields of a Chat request.

        Raises:
            CallerError: The request is wrong.
            UpstreamError: The upstream failed.
        """
        asked = _given(options, temperature=temperature, max_tokens=max_tokens)
        if not stream and on_text is None:
            return (await self.gateway.complete(model=self.model, messages=messages, **asked)).text
        pieces = []
        async with aclosing(self.generate_stream(messages, **asked)) as texts:
            async for piece in texts:
                pieces.append(piece)
                if on_text is not None:
                    on_text(piece)
        return "".join(pieces)

    async def generate_stream(
        self,
        messages: Messages,
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        **options: Any,
    ) -> AsyncGenerator[str, None]:
        """The answer's text, piece by piece. Closing it lets go of the upstream.

        Raises:
            CallerError: The request is wrong.
            UpstreamError: The upstream failed, maybe in mid-stream.
        """
        asked = _given(options, temperature=temperature, max_tokens=max_tokens)
        async with aclosing(self.gateway.stream(model=self.model, messages=messages, **asked)) as events:
            async for event in events:
                match event:
                    case PartStarted(part=Text(text=text)) | PartDelta(delta=TextDelta(text=text)) if text:
                        yield text

    async def generate_multiple(
        self, conversations: Sequence[Messages], *, concurrency: int = 4, **options: Any
    ) -> list[str]:
        """The texts of several answers, in order; the first failure is raised and the rest is cancelled.

        Args:
            conversations: One list of messages each.
            concurrency: How many are asked at once.
            options: As for `generate`.
        """
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        places = asyncio.Semaphore(concurrency)

        async def one(messages: Messages) -> str:
            async with places:
                return await self.generate(messages, **options)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(messages)) for messages in conversations]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    def generate_sync(self, messages: Messages, **options: Any) -> str:
        """`generate`, for code that is not asynchronous.

        Raises:
            MisuseError: It was called inside a running event loop.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            # Its connections end with this loop; those of other threads' loops are not ours to close.
            return asyncio.run(self.generate(messages, **options))
        raise MisuseError("generate_sync cannot run inside an event loop; await generate() instead.")


def create_llm_client(
    provider: str,
    *,
    model: str,
    api_key: str | None = None,
    base_url: str | None = None,
    timeout: float | str | None = None,
    transport: "Transports | None" = None,
) -> LLMClient:
    """A client of one provider's model.

    Args:
        provider: A provider type, in any case; `generic` is `openai-compatible`.
        model: The upstream's name of the model.
        api_key: Without one, `<PROVIDER>_API_KEY` is read from the environment.
        base_url: Without one, `<PROVIDER>_API_BASE_URL`, else the provider's own.
        timeout: For the whole call, in seconds or as `5m`.
        transport: The host's own httpx2 client or transport.

    Raises:
        ValueError: There is no such provider; the message lists those there are.
        ConfigError: Something is missing (a key, an address).
    """
    name = provider.strip().lower().replace("_", "-")
    kind = _SYNONYMS.get(name, name)
    if kind not in known_types():
        raise ValueError(f"unknown provider {provider!r}; known: {', '.join([*known_types(), *_SYNONYMS])}")
    cls = provider_class(kind)
    block: dict[str, Any] = {"type": kind}
    key, key_place = _from(api_key, "api_key", key_variable(name))
    address, address_place = _from(base_url, "base_url", f"{key_variable(name).removesuffix('_KEY')}_BASE_URL")
    if key and cls.takes_key:
        block["api_key"] = key
    elif cls.needs_key:
        raise ConfigError([f"an API key is needed for {name} (api_key): {key_place}"])
    if address:
        block["base_url"] = address
    elif cls.base_url is None:
        raise ConfigError([f"an address is needed for {name} (base_url): {address_place}"])
    if timeout is not None:
        block["timeout"] = {"total": timeout, "first_byte": timeout, "idle": timeout}
    try:
        gateway = Gateway({"providers": {name: block}}, transport=transport)
    except ConfigError as error:
        raise ConfigError(_by_arguments(error, name, api_key=key_place, base_url=address_place)) from None
    return LLMClient(gateway, model=f"{name}/{model}")


def _from(given: str | None, argument: str, variable: str) -> tuple[str | None, str]:
    """A value from an argument or a variable, and which of them said it; of one that neither said, what to do."""
    if given:
        return given, argument
    found = os.environ.get(variable)
    return (found, variable) if found else (None, f"pass {argument}=, or set {variable} in the environment")


def _by_arguments(error: ConfigError, name: str, **places: str) -> list[str]:
    """The findings of a configuration that was made of arguments, in the words of whoever gave them."""
    findings = []
    for finding in error.findings:
        field, _, text = finding.removeprefix(f"code: providers.{name}.").partition(": ")
        findings.append(f"{places.get(field, field.partition('.')[0])}: {text}" if text else finding)
    return findings


def _given(options: dict[str, Any], **named: Any) -> dict[str, Any]:
    return {**options, **{name: value for name, value in named.items() if value is not None}}
