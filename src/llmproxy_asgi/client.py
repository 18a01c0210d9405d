"""A simple client: one provider, one model, text in and text out.

`create_llm_client` builds a `Gateway` with a single provider for a client whose methods return plain text. For tools,
several providers or usage, use `Gateway`.
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
        gateway: The gateway, which the client closes.
        model: The name of the model.
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
        """Return the text of a response.

        Args:
            messages: The conversation so far.
            temperature: Sent only if given.
            max_tokens: Sent only if given.
            stream: Request a stream and collect it (long responses then do not reach the idle timeout).
            on_text: Called with each piece of text as it arrives; implies `stream`.
            options: Further fields of a Chat request.

        Raises:
            CallerError: The request is invalid.
            UpstreamError: The upstream failed.
        """
        fields = _given(options, temperature=temperature, max_tokens=max_tokens)
        if not stream and on_text is None:
            return (await self.gateway.complete(model=self.model, messages=messages, **fields)).text
        pieces = []
        async with aclosing(self.generate_stream(messages, **fields)) as texts:
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
        """Yield the text of a response piece by piece. Closing the iterator aborts the upstream's response.

        Raises:
            CallerError: The request is invalid.
            UpstreamError: The upstream failed, possibly within the stream.
        """
        fields = _given(options, temperature=temperature, max_tokens=max_tokens)
        async with aclosing(self.gateway.stream(model=self.model, messages=messages, **fields)) as events:
            async for event in events:
                match event:
                    case PartStarted(part=Text(text=text)) | PartDelta(delta=TextDelta(text=text)) if text:
                        yield text

    async def generate_multiple(
        self, conversations: Sequence[Messages], *, concurrency: int = 4, **options: Any
    ) -> list[str]:
        """Return the texts of several responses, in order; the first failure is raised and cancels the others.

        Args:
            conversations: A list of messages for each response.
            concurrency: The number of calls at the same time.
            options: As for `generate`.
        """
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        semaphore = asyncio.Semaphore(concurrency)

        async def one(messages: Messages) -> str:
            async with semaphore:
                return await self.generate(messages, **options)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(messages)) for messages in conversations]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    def generate_sync(self, messages: Messages, **options: Any) -> str:
        """Call `generate` from synchronous code.

        Raises:
            MisuseError: It was called inside a running event loop.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            # These connections end with this loop; those of other threads' loops stay open.
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
    """Create a client for one provider's model.

    Args:
        provider: A provider type, in any letter case; `generic` is `openai-compatible`.
        model: The upstream's name of the model.
        api_key: The key; by default `<PROVIDER>_API_KEY` from the environment.
        base_url: The address; by default `<PROVIDER>_API_BASE_URL` from the environment, or else the provider's own.
        timeout: For the whole call, in seconds or as `5m`.
        transport: The host's own httpx2 client or transport.

    Raises:
        ValueError: The provider is unknown; the message lists the known ones.
        ConfigError: A key or an address is missing.
    """
    name = provider.strip().lower().replace("_", "-")
    kind = _SYNONYMS.get(name, name)
    if kind not in known_types():
        raise ValueError(f"unknown provider {provider!r}; known: {', '.join([*known_types(), *_SYNONYMS])}")
    cls = provider_class(kind)
    block: dict[str, Any] = {"type": kind}
    key, key_source = _from(api_key, "api_key", key_variable(name))
    address, address_source = _from(base_url, "base_url", f"{key_variable(name).removesuffix('_KEY')}_BASE_URL")
    if key and cls.takes_key:
        block["api_key"] = key
    elif cls.needs_key:
        raise ConfigError([f"an API key is needed for {name} (api_key): {key_source}"])
    if address:
        block["base_url"] = address
    elif cls.base_url is None:
        raise ConfigError([f"an address is needed for {name} (base_url): {address_source}"])
    if timeout is not None:
        block["timeout"] = {"total": timeout, "first_byte": timeout, "idle": timeout}
    try:
        gateway = Gateway({"providers": {name: block}}, transport=transport)
    except ConfigError as error:
        raise ConfigError(_by_arguments(error, name, api_key=key_source, base_url=address_source)) from None
    return LLMClient(gateway, model=f"{name}/{model}")


def _from(given: str | None, argument: str, variable: str) -> tuple[str | None, str]:
    """Return a value from an argument or a variable with the name of its source; without a value, what to do."""
    if given:
        return given, argument
    found = os.environ.get(variable)
    return (found, variable) if found else (None, f"pass {argument}=, or set {variable} in the environment")


def _by_arguments(error: ConfigError, name: str, **sources: str) -> list[str]:
    """Return a configuration's findings in terms of the arguments that it was made from."""
    findings = []
    for finding in error.findings:
        field, _, text = finding.removeprefix(f"code: providers.{name}.").partition(": ")
        findings.append(f"{sources.get(field, field.partition('.')[0])}: {text}" if text else finding)
    return findings


def _given(options: dict[str, Any], **named: Any) -> dict[str, Any]:
    return {**options, **{name: value for name, value in named.items() if value is not None}}
