"""The callers of a soak: so many at once, each with one call after another, and what came of each call."""

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

from soak.caller import Answer, Connection
from soak.plan import Call


class Played(NamedTuple):
    """A call, and what came of it."""

    call: Call
    answer: Answer
    right: bool
    """Whether its text is the one that its upstream said, to the letter."""


class Load:
    """Callers against one port.

    Args:
        port: Of the host.
        streams: How many callers there are.
        calls: The jobs; a free caller takes the next one.
    """

    def __init__(self, port: int, streams: int, calls: Iterator[Call]) -> None:
        self._port = port
        self._streams = streams
        self._calls = calls
        self._going_on = True
        self.played: list[Played] = []
        self.under_way = 0

    async def play(self, seconds: float, *, spread: float = 0.0) -> None:
        """Call for so long, and let the last calls end.

        Args:
            seconds: After these no caller begins another call.
            spread: Seconds over which the callers come.
        """
        self._going_on = True
        asyncio.get_running_loop().call_later(seconds, self._stop)
        async with asyncio.TaskGroup() as callers:
            for number in range(self._streams):
                callers.create_task(self._caller(spread * number / self._streams))

    async def rehearse(self, count: int) -> None:
        """Play the next so many calls, and no more; those that wait for a clock first, as they take longest.

        Few at once: nearly all of them meet a fault, and with many there would be no key left that does not rest.
        """
        calls = [next(self._calls) for _ in range(count)]
        calls.sort(key=lambda call: call.errand.fault in ("silent", "stall"))
        async with asyncio.TaskGroup() as callers:
            for _ in range(min(8, count)):
                callers.create_task(self._one_after_another(calls))

    def _stop(self) -> None:
        self._going_on = False

    async def _caller(self, later: float) -> None:
        await asyncio.sleep(later)
        connection = Connection(self._port)
        while self._going_on:
            await self._one(connection, next(self._calls))
        connection.close()

    async def _one_after_another(self, calls: list[Call]) -> None:
        connection = Connection(self._port)
        while calls:
            await self._one(connection, calls.pop())
        connection.close()

    async def _one(self, connection: Connection, call: Call) -> None:
        self.under_way += 1
        try:
            answer = await connection.ask(call)
        finally:
            self.under_way -= 1
        right = answer.text == "".join(call.errand.texts())
        self.played.append(Played(call, answer._replace(text="") if right else answer, right))
