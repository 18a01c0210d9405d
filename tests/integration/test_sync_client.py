"""`generate_sync` on sockets: each call has an event loop of its own, and takes nothing away from anybody else's."""

import asyncio
import gc

import pytest

from llmproxy_asgi import create_llm_client
from llmproxy_asgi.testing import Upstream, json_answer
from support.gateway import chat_answer

SAY = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("times", [1, 3])
def test_a_synchronous_call_leaves_the_connections_of_other_loops_alone(times: int) -> None:
    """Threads may share one client: the end of one call closes what is its own, and nothing that another is using."""
    with Upstream.in_thread(default=json_answer(200, chat_answer("words"))) as upstream:
        client = create_llm_client("generic", model="m", api_key="sk-made-up", base_url=f"{upstream.base_url}/v1")

        async def around() -> None:
            async with client:
                assert await client.generate(SAY) == "words"
                for _ in range(times):
                    assert await asyncio.to_thread(client.generate_sync, SAY) == "words"
                assert await client.generate(SAY) == "words"

        asyncio.run(around())
        assert upstream.connections == 1 + times
        gc.collect()  # a socket left to it would be a warning, and so a failure
