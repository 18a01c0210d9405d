"""Answers that every protocol can give, said in each of them."""

from dataclasses import dataclass

from llmproxy_asgi.testing import Scenario, json_answer
from support.pairs import gemini_wires, responses_wires
from support.pairs.wires import (
    GEMINI,
    MESSAGES,
    RESPONSES,
    Call,
    JSONObject,
    call_deltas,
    chat_call,
    chat_chunks,
    chat_whole,
    messages_events,
    messages_whole,
    sse,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer: texts are streamed one piece at a time, and calls in fragments."""

    texts: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()

    def scenario(self, protocol: str, *, stream: bool) -> Scenario:
        """The answer, said in a protocol."""
        return sse(self.frames(protocol)) if stream else json_answer(200, self.whole(protocol))

    def whole(self, protocol: str) -> JSONObject:
        """The answer in one piece."""
        if protocol == MESSAGES:
            return messages_whole(*self._blocks(), stop="tool_use" if self.calls else "end_turn")
        if protocol == RESPONSES:
            return responses_wires.responses_whole(*self._items())
        if protocol == GEMINI:
            said = [{"text": "".join(self.texts)}] if self.texts else []
            return gemini_wires.gemini_whole(*said, *map(gemini_wires.function_call, self.calls))
        message: JSONObject = {"content": "".join(self.texts) or None}
        if self.calls:
            message["tool_calls"] = [chat_call(call) for call in self.calls]
        return chat_whole(finish="tool_calls" if self.calls else "stop", **message)

    def frames(self, protocol: str) -> list[bytes]:
        """The answer as the frames of a stream."""
        if protocol == MESSAGES:
            return messages_events(*self._blocks(), stop="tool_use" if self.calls else "end_turn")
        if protocol == RESPONSES:
            return responses_wires.responses_events(*self._items())
        if protocol == GEMINI:
            return gemini_wires.gemini_spoken(self.texts, self.calls)
        deltas: list[JSONObject] = [{"content": text} for text in self.texts]
        for number, call in enumerate(self.calls):
            deltas += call_deltas(number, call)
        return chat_chunks(*deltas, finish="tool_calls" if self.calls else "stop")

    def _blocks(self) -> list[JSONObject]:
        blocks: list[JSONObject] = [{"type": "text", "text": self.texts}] if self.texts else []
        return blocks + [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments} for call in self.calls
        ]

    def _items(self) -> list[JSONObject]:
        said = [responses_wires.message_item(*self.texts)] if self.texts else []
        return said + [responses_wires.call_item(call.id, call.name, call.arguments) for call in self.calls]
