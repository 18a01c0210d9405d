"""Whole answers of upstreams, of any size: hostile ones of very many tiny values, and the largest honest ones."""

from collections.abc import Callable

Made = Callable[[int], bytes]
"""An answer of about so many bytes."""

CHAT, MESSAGES, RESPONSES, GEMINI = "openai-chat", "anthropic-messages", "openai-responses", "gemini"
COMPLETIONS, EMBEDDINGS, GEMINI_EMBEDDINGS = "openai-completions", "openai-embeddings", "gemini-embeddings"


def filled(head: bytes, unit: bytes, tail: bytes) -> Made:
    """An answer in which one element is repeated."""
    return lambda size: head + b",".join([unit] * max(1, (size - len(head) - len(tail)) // (len(unit) + 1))) + tail


def _beside(head: bytes, tail: bytes) -> dict[str, Made]:
    """Shapes within any value of an answer."""
    return {
        "empty objects": filled(head + b"[", b"{}", b"]" + tail),
        "small objects": filled(head + b"[", b'{"a":1}', b"]" + tail),
        "numbers": filled(head + b"[", b"1", b"]" + tail),
        "members": lambda size: head + b"{" + b",".join(b'"%x":1' % n for n in range(size // 10)) + b"}" + tail,
        "arrays sixty deep": filled(head + b"[", b"[" * 60 + b"]" * 60, b"]" + tail),
        "one array without an end": lambda size: head + b"[" * size + tail,
        "small objects in the first of two members": filled(
            head + b"[", b'{"a":1}', b"]" + tail[:-1] + b"," + head[1:] + b"[]" + tail
        ),
    }


_CHOICE = b'{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"x"}}'
_CHAT = b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":['
_MESSAGE = b'{"id":"c","type":"message","role":"assistant","model":"m","stop_reason":"end_turn","content":['
_MESSAGE_END = b'],"usage":{"input_tokens":1,"output_tokens":1}}'
_RESPONSE = b'{"id":"resp_1","object":"response","created_at":1,"status":"completed","model":"m","output":['
_SAID = b'{"type":"message","id":"msg_1","status":"completed","role":"assistant","content":['
_CANDIDATES = b'{"responseId":"r","modelVersion":"m","candidates":['
_IN_CHAT = b'{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"x"'
_VECTORS = b'{"object":"list","model":"m","usage":{"prompt_tokens":1,"total_tokens":1},"data":['
_TEXT_CHOICE = b'{"index":0,"finish_reason":"stop","text":"x","logprobs":'

HOSTILE: dict[str, dict[str, Made]] = {
    CHAT: {
        "choices": filled(_CHAT, _CHOICE, b"]}"),
        "tool calls": filled(
            _CHAT + _IN_CHAT + b',"tool_calls":[',
            b'{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}',
            b"]}}]}",
        ),
        "annotations": filled(
            _CHAT + _IN_CHAT + b',"annotations":[', b'{"type":"url_citation","url_citation":{"url":"u"}}', b"]}}]}"
        ),
        "log probabilities without words": filled(_CHAT + _IN_CHAT + b'},"logprobs":{"content":[', b"{}", b"]}}]}"),
        "one token of very many": filled(
            _CHAT + _IN_CHAT + b'},"logprobs":{"content":[{"token":"x","logprob":0,"top_logprobs":[',
            b'{"token":"x","logprob":0}',
            b"]}]}}]}",
        ),
        **_beside(b'{"x":', b"}"),
    },
    MESSAGES: {
        "content blocks": filled(_MESSAGE, b'{"type":"text","text":"x"}', _MESSAGE_END),
        "tool calls": filled(_MESSAGE, b'{"type":"tool_use","id":"c","name":"f","input":{}}', _MESSAGE_END),
        "citations": filled(
            _MESSAGE + b'{"type":"text","text":"x","citations":[',
            b'{"type":"char_location","cited_text":"x","document_index":0}',
            b"]}" + _MESSAGE_END,
        ),
        "arguments": filled(
            _MESSAGE + b'{"type":"tool_use","id":"c","name":"f","input":{"x":[', b"{}", b"]}}" + _MESSAGE_END
        ),
        **_beside(b'{"x":', b"}"),
    },
    RESPONSES: {
        "output items": filled(_RESPONSE, _SAID + b'{"type":"output_text","text":"x"}]}', b"]}"),
        "content parts": filled(_RESPONSE + _SAID, b'{"type":"output_text","text":"x"}', b"]}]}"),
        "tool calls": filled(_RESPONSE, b'{"type":"function_call","call_id":"c","name":"f","arguments":"{}"}', b"]}"),
        "annotations": filled(
            _RESPONSE + _SAID + b'{"type":"output_text","text":"x","annotations":[',
            b'{"type":"url_citation","url":"u"}',
            b"]}]}]}",
        ),
        "log probabilities without words": filled(
            _RESPONSE + _SAID + b'{"type":"output_text","text":"x","logprobs":[', b"{}", b"]}]}]}"
        ),
        **_beside(b'{"x":', b"}"),
    },
    GEMINI: {
        "candidates": filled(
            _CANDIDATES, b'{"index":0,"finishReason":"STOP","content":{"parts":[{"text":"x"}]}}', b"]}"
        ),
        "parts": filled(_CANDIDATES + b'{"finishReason":"STOP","content":{"parts":[', b'{"text":"x"}', b"]}}]}"),
        "tool calls": filled(
            _CANDIDATES + b'{"finishReason":"STOP","content":{"parts":[',
            b'{"functionCall":{"name":"f","args":{}}}',
            b"]}}]}",
        ),
        "grounding": filled(
            _CANDIDATES
            + b'{"finishReason":"STOP","content":{"parts":[{"text":"x"}]},"groundingMetadata":{"groundingChunks":[',
            b'{"web":{"uri":"u"}}',
            b"]}}]}",
        ),
        "log probabilities without words": filled(
            _CANDIDATES
            + b'{"finishReason":"STOP","content":{"parts":[{"text":"x"}]},"logprobsResult":{"chosenCandidates":[',
            b"{}",
            b"]}}]}",
        ),
        **_beside(b'{"x":', b"}"),
    },
    COMPLETIONS: {
        "choices": filled(_CHAT, b'{"index":0,"finish_reason":"stop","text":"x"}', b"]}"),
        "log probabilities without words": filled(_CHAT + _TEXT_CHOICE + b'{"top_logprobs":[', b"{}", b"]}}]}"),
        **_beside(b'{"x":', b"}"),
    },
    EMBEDDINGS: {
        "vectors": filled(_VECTORS, b'{"embedding":[]}', b"]}"),
        "one vector": filled(_VECTORS + b'{"object":"embedding","index":0,"embedding":[', b"1", b"]}]}"),
        **_beside(b'{"x":', b"}"),
    },
    GEMINI_EMBEDDINGS: {
        "vectors": filled(b'{"embeddings":[', b'{"values":[]}', b"]}"),
        "one vector": filled(b'{"embeddings":[{"values":[', b"1", b"]}]}"),
        **_beside(b'{"x":', b"}"),
    },
}
"""By the upstream's protocol."""

_ALTERNATIVE = b'{"token":" hello","logprob":-0.123456789,"bytes":[32,104,101,108,108,111]}'
_TOKEN = _ALTERNATIVE[:-1] + b',"top_logprobs":[' + b",".join([_ALTERNATIVE] * 20) + b"]}"
_LIKELY = b'{"token":" hello","tokenId":15339,"logProbability":-0.123456789}'
_ROW = b'{"candidates":[' + b",".join([_LIKELY] * 20) + b"]}"
_TEXT = rb"A line of \"words\", {and} [signs].\n"


def _likely(size: int) -> bytes:
    """Log probabilities of Gemini's: the tokens, and the alternatives of each."""
    count = size // (len(_LIKELY) + len(_ROW) + 2)
    head = b'{"finishReason":"STOP","content":{"parts":[{"text":"x"}]},"logprobsResult":{"chosenCandidates":['
    rows = b",".join([_ROW] * count)
    return _CANDIDATES + head + b",".join([_LIKELY] * count) + b'],"topCandidates":[' + rows + b"]}}]}"


def _legacy(size: int) -> bytes:
    """Log probabilities of the old Completions: four lists beside each other."""
    count = size // 130
    tops = b'{" hello":-0.1," world":-0.2," there":-0.3," you":-0.4," all":-0.5," a":-0.6," b":-0.7," c":-0.8}'
    lists = {
        b"tokens": b'" hello"',
        b"token_logprobs": b"-0.123456789",
        b"text_offset": b"12345",
        b"top_logprobs": tops,
    }
    told = b",".join(b'"%b":[%b]' % (name, b",".join([unit] * count)) for name, unit in lists.items())
    return _CHAT + _TEXT_CHOICE + b"{" + told + b"}}]}"


def vectors(head: bytes, begin: bytes, end: bytes, *, count: int = 2_048, size: int = 3_072) -> Made:
    """Vectors as many and as long as vendors make them; so long that they fill the size that is asked for."""

    def made(wanted: int) -> bytes:
        digits = max(4, min(12, wanted // (count * size) - 1))
        number = b"-0.123456789123"[:digits]
        inside = b",".join([number] * size)
        shown = min(count, wanted // (len(inside) + len(begin) + 20))
        each = (begin % place + inside + end if b"%d" in begin else begin + inside + end for place in range(shown))
        return head + b",".join(each) + b"]}"

    return made


LARGEST: dict[str, dict[str, Made]] = {
    CHAT: {
        "text": filled(
            _CHAT + b'{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"', _TEXT, b'"}}]}'
        ),
        "log probabilities": filled(_CHAT + _IN_CHAT + b'},"logprobs":{"content":[', _TOKEN, b"]}}]}"),
    },
    MESSAGES: {"text": filled(_MESSAGE + b'{"type":"text","text":"', _TEXT, b'"}' + _MESSAGE_END)},
    RESPONSES: {
        "text": filled(_RESPONSE + _SAID + b'{"type":"output_text","annotations":[],"text":"', _TEXT, b'"}]}]}'),
        "log probabilities": filled(
            _RESPONSE + _SAID + b'{"type":"output_text","text":"x","annotations":[],"logprobs":[', _TOKEN, b"]}]}]}"
        ),
    },
    GEMINI: {
        "text": filled(_CANDIDATES + b'{"finishReason":"STOP","content":{"parts":[{"text":"', _TEXT, b'"}]}}]}'),
        "log probabilities": _likely,
    },
    COMPLETIONS: {"log probabilities": _legacy},
    EMBEDDINGS: {"vectors": vectors(_VECTORS, b'{"object":"embedding","index":%d,"embedding":[', b"]}")},
    GEMINI_EMBEDDINGS: {"vectors": vectors(b'{"embeddings":[', b'{"values":[', b"]}")},
}
"""By the upstream's protocol."""
