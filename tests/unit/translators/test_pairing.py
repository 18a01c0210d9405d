import json
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.conversation import (
    Authority,
    CacheMark,
    Media,
    Message,
    Part,
    PlainText,
    Reasoning,
    Request,
    Role,
    Seal,
    Text,
    ToolCall,
    ToolResult,
)
from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.translators.pairing import (
    MISSING_RESULT,
    arguments_object,
    arguments_raw,
    drop_empty,
    is_object,
    merge,
    pair,
)
from support.conversations import message_rows, requests, texts

SYSTEM: tuple[Role, ...] = ("system",)


def call(call_id: str, name: str = "f") -> ToolCall:
    return ToolCall(call_id=call_id, name=name, arguments="{}")


def result(call_id: str, text: str = "ok") -> ToolResult:
    return ToolResult(call_id=call_id, content=(Text(text=text),))


def said(role: Role, *parts: Part | str) -> Message:
    return Message(role=role, parts=tuple(Text(text=part) if isinstance(part, str) else part for part in parts))


def shape(messages: Sequence[Message]) -> list[tuple[str, ...]]:
    """Roles, and what their parts say, short enough to compare by eye."""
    return [(message.role, *map(word, message.parts)) for message in messages]


def word(part: Part) -> str:
    match part:
        case ToolCall(call_id=call_id):
            return f"?{call_id}"
        case ToolResult(call_id=call_id, content=(Text(text=text),)):
            return f"!{call_id}:{text}"
        case Text(text=text):
            return text
        case _:
            return type(part).__name__


@st.composite
def shuffled_histories(draw: st.DrawFn) -> list[Message]:
    """Steps whose results come late, in any order, in any number of messages, among other words, or not at all."""
    rows: list[Message] = [said("user", "go")]
    owed: list[str] = []
    ids = iter(range(100))
    for _ in range(draw(st.integers(1, 4))):
        calls = [call(f"c{next(ids)}", draw(st.sampled_from(["f", "g"]))) for _ in range(draw(st.integers(0, 3)))]
        rows.append(said("assistant", *(["hm"] if draw(st.booleans()) else []), *calls))
        owed += [made.call_id for made in calls]
        for _ in range(draw(st.integers(0, 3))):
            if draw(st.booleans()) and owed:
                answered = draw(st.lists(st.sampled_from(owed), min_size=1, max_size=3, unique=True))
                owed = [call_id for call_id in owed if call_id not in answered]
                rows.append(said("tool", *map(result, answered)))
            else:
                rows.append(said(draw(st.sampled_from(["user", "system"])), "words"))
    return rows


def steps(messages: Sequence[Message]) -> list[tuple[Message, Message | None]]:
    """Each message with calls, and the message right behind it."""
    behind = [*messages[1:], None]
    return [
        (message, after)
        for message, after in zip(messages, behind, strict=True)
        if any(isinstance(part, ToolCall) for part in message.parts)
    ]


def calls_of(message: Message) -> list[ToolCall]:
    return [part for part in message.parts if isinstance(part, ToolCall)]


@given(shuffled_histories())
def test_every_call_is_answered_once_right_behind_its_step(history: list[Message]) -> None:
    """After pairing, each step is followed by its results, in its order, and there is no other result anywhere."""
    paired = pair(history)
    found = 0
    for step, after in steps(paired.messages):
        if after is None:
            assert step is paired.messages[-1]
            continue
        assert after.role == "tool"
        answers = [(part.call_id, part.name) for part in after.parts if isinstance(part, ToolResult)]
        assert answers == [(made.call_id, made.name) for made in calls_of(step)]
        assert len(answers) == len(after.parts)
        found += 1
    assert found == sum(message.role == "tool" for message in paired.messages)


@given(shuffled_histories())
def test_pairing_loses_nothing(history: list[Message]) -> None:
    """Every word, call and result is still there; what was made up is counted in a warning, and only then."""
    paired = pair(history)
    before = Counter(word(part) for message in history for part in message.parts)
    after = Counter(word(part) for message in paired.messages for part in message.parts)
    made_up = after - before
    assert not before - after
    assert all(text.endswith(MISSING_RESULT) for text in made_up)
    assert paired.warnings == (("emulated:tool_result",) if made_up else ())


@given(shuffled_histories())
def test_pairing_twice_changes_nothing(history: list[Message]) -> None:
    """What is in order stays as it is, without a warning."""
    once = pair(history).messages
    assert pair(once).messages == once
    assert pair(once).warnings == ()


@given(st.data())
def test_orderly_conversations_pass(data: st.DataObject) -> None:
    """A conversation whose steps are answered is not touched."""
    history = data.draw(message_rows(tools=data.draw(requests()).tools))
    assert pair(history).messages == history


@given(requests())
def test_generated_requests_are_orderly(request: Request) -> None:
    """The requests that translators are tested with need no repair."""
    assert pair(request.messages).warnings == ()
    assert drop_empty(request.messages) == request.messages


ROWS: dict[str, tuple[list[Message], list[tuple[str, ...]], tuple[str, ...]]] = {
    "results apart": (
        [said("assistant", call("a"), call("b")), said("tool", result("a")), said("tool", result("b"))],
        [("assistant", "?a", "?b"), ("tool", "!a:ok", "!b:ok")],
        (),
    ),
    "results in another order": (
        [said("assistant", call("a"), call("b")), said("tool", result("b"), result("a"))],
        [("assistant", "?a", "?b"), ("tool", "!a:ok", "!b:ok")],
        (),
    ),
    "words before the result": (
        [said("assistant", call("a")), said("user", "hurry"), said("tool", result("a"))],
        [("assistant", "?a"), ("tool", "!a:ok"), ("user", "hurry")],
        (),
    ),
    "result among a user's words": (
        [said("assistant", call("a")), said("user", "see", result("a"), "now?")],
        [("assistant", "?a"), ("tool", "!a:ok"), ("user", "see", "now?")],
        (),
    ),
    "words in a tool message": (
        [said("assistant", call("a")), said("tool", result("a"), "and a picture")],
        [("assistant", "?a"), ("tool", "!a:ok"), ("user", "and a picture")],
        (),
    ),
    "one step in two messages": (
        [said("assistant", "hm", call("a")), said("assistant", call("b")), said("tool", result("b"), result("a"))],
        [("assistant", "hm", "?a", "?b"), ("tool", "!a:ok", "!b:ok")],
        (),
    ),
    "unanswered, and more messages": (
        [said("assistant", call("a")), said("user", "never mind")],
        [("assistant", "?a"), ("tool", f"!a:{MISSING_RESULT}"), ("user", "never mind")],
        ("emulated:tool_result",),
    ),
    "half answered at the end": (
        [said("assistant", call("a"), call("b")), said("tool", result("b"))],
        [("assistant", "?a", "?b"), ("tool", f"!a:{MISSING_RESULT}", "!b:ok")],
        ("emulated:tool_result",),
    ),
    "unanswered at the end": ([said("assistant", call("a"))], [("assistant", "?a")], ()),
    "id used again": (
        [
            said("assistant", call("a")),
            said("tool", result("a", "1")),
            said("assistant", call("a")),
            said("tool", result("a", "2")),
        ],
        [("assistant", "?a"), ("tool", "!a:1"), ("assistant", "?a"), ("tool", "!a:2")],
        (),
    ),
    "id used again after an interruption": (
        [said("assistant", call("a")), said("user", "no"), said("assistant", call("a")), said("tool", result("a"))],
        [
            ("assistant", "?a"),
            ("tool", f"!a:{MISSING_RESULT}"),
            ("user", "no"),
            ("assistant", "?a"),
            ("tool", "!a:ok"),
        ],
        ("emulated:tool_result",),
    ),
    "one id for two calls of a step": (
        [said("assistant", call("a"), call("a")), said("tool", result("a", "1"), result("a", "2"))],
        [("assistant", "?a", "?a"), ("tool", "!a:1", "!a:2")],
        (),
    ),
    "a later result replaces the first": (
        [
            said("assistant", call("a")),
            said("tool", result("a", "started")),
            said("user", "wait"),
            said("tool", result("a", "done")),
        ],
        [("assistant", "?a"), ("tool", "!a:done"), ("user", "wait")],
        ("dropped:tool_result",),
    ),
    "the same result twice": (
        [said("assistant", call("a")), said("tool", result("a")), said("tool", result("a"))],
        [("assistant", "?a"), ("tool", "!a:ok")],
        (),
    ),
    "result before its call": (
        [said("tool", result("a")), said("assistant", call("a")), said("user", "so?")],
        [("assistant", "?a"), ("tool", "!a:ok"), ("user", "so?")],
        (),
    ),
    "early result of an answered call": (
        [said("tool", result("a", "early")), said("assistant", call("a")), said("tool", result("a", "late"))],
        [("assistant", "?a"), ("tool", "!a:late")],
        ("dropped:tool_result",),
    ),
    "no tools at all": ([said("user", "hi")], [("user", "hi")], ()),
}


@pytest.mark.parametrize("case", ROWS)
def test_disorder_is_put_right(case: str) -> None:
    """Each kind of disorder that callers send becomes the one order that upstreams take."""
    history, wanted, warnings = ROWS[case]
    paired = pair(history)
    assert shape(paired.messages) == wanted
    assert paired.warnings == warnings


def test_a_result_of_nothing_is_refused() -> None:
    """A result whose call is not there is the caller's mistake, and says which."""
    with pytest.raises(BadRequest, match="'b'") as caught:
        pair([said("assistant", call("a")), said("tool", result("a"), result("b"))])
    assert caught.value.param == "messages"


def test_a_result_takes_name_and_kind_from_its_call() -> None:
    """What a caller's library guesses of a result's tool is not believed."""
    made = ToolCall(call_id="a", name="patch", kind="custom")
    given_result = ToolResult(call_id="a", name="unknown")
    (answer,) = pair([said("assistant", made), said("tool", given_result)]).messages[1].parts
    assert isinstance(answer, ToolResult)
    assert (answer.name, answer.kind) == ("patch", "custom")


def test_a_made_up_result_says_so() -> None:
    """The stand-in is an error, of the call's own kind."""
    made = ToolCall(call_id="a", name="patch", kind="custom")
    (answer,) = pair([said("assistant", made), said("user", "?")]).messages[1].parts
    assert answer == ToolResult(
        call_id="a", name="patch", kind="custom", is_error=True, content=(Text(text="[no result]"),)
    )


def test_marks_and_fields_of_tool_messages_survive() -> None:
    """A cache mark stays on its result; what a lone tool message says of itself stays on it."""
    marked = msgspec.structs.replace(result("a"), cache_mark=CacheMark(lifetime="1h"))
    tool = Message(role="tool", parts=(marked,), id="msg_1", expires="2026-01-01")
    paired = pair([said("assistant", call("a")), said("user", "x"), tool]).messages[1]
    assert (paired.id, paired.expires, paired.parts[0].cache_mark) == ("msg_1", "2026-01-01", marked.cache_mark)


def test_pairing_is_linear_in_reused_ids() -> None:
    """Thousands of calls of one id are paired one by one, not each with each."""
    many = 20_000
    history = [said("assistant", *[call("a")] * many), said("tool", *[result("a")] * many)]
    assert len(pair(history).messages[1].parts) == many


# ── merging ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(message_rows())
def test_merging_leaves_no_neighbours_of_one_role(history: tuple[Message, ...]) -> None:
    """After merging, users and assistants alternate, and all parts are there in their order."""
    doubled = [copy for message in history for copy in (message, message)]
    merged = merge(doubled)
    assert [part for message in merged for part in message.parts] == [part for row in doubled for part in row.parts]
    for before, after in pairwise(merged):
        assert before.role != after.role or before.role in {"system", "tool"}


def test_merging_keeps_what_all_agree_on() -> None:
    """Own fields stay if equal, go if not; extras are united; other roles stay apart."""
    one = Message(role="user", parts=(Text(text="a"),), name="ann", id="m1", extras={"p": {"x": 1}})
    two = Message(role="user", parts=(Text(text="b"),), name="ann", id="m2", extras={"p": {"y": 2}, "q": {}})
    (merged,) = merge([one, two])
    assert merged == Message(
        role="user", parts=(*one.parts, *two.parts), name="ann", extras={"p": {"x": 1, "y": 2}, "q": {}}
    )
    assert merge([one]) == (one,)
    system = said("system", "a")
    assert merge([system, system]) == (system, system)
    assert len(merge([system, system], roles=SYSTEM)) == 1


def test_authorities_are_not_merged() -> None:
    """What the system says and what the developer says stay two messages."""
    words: tuple[Authority, ...] = ("system", "developer")
    rows = [Message(role="system", parts=(Text(text="a"),), authority=word) for word in words]
    assert merge(rows, roles=SYSTEM) == tuple(rows)


# ── empty texts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_empty_texts_are_left_out() -> None:
    """Empty texts go, also within results; messages without parts go; nothing comes in their place."""
    history = [
        said("user", "hi", ""),
        said("assistant", "", call("a")),
        said("tool", ToolResult(call_id="a", content=(Text(text=""), Text(text="x")))),
        said("assistant", ""),
        said("assistant"),
    ]
    kept = drop_empty(history)
    assert shape(kept) == [("user", "hi"), ("assistant", "?a"), ("tool", "!a:x")]


def test_a_result_may_be_empty() -> None:
    """A tool that gave nothing back has still answered."""
    (kept,) = drop_empty([said("tool", result("a", ""))])
    assert kept.parts == (ToolResult(call_id="a"),)


def test_blank_texts_go_on_demand() -> None:
    """White space is a text, unless the upstream refuses it."""
    history = [said("user", "hi", " \n")]
    assert drop_empty(history) == tuple(history)
    assert shape(drop_empty(history, blank=True)) == [("user", "hi")]


def test_sealed_texts_stay_on_demand() -> None:
    """An empty text that carries state is kept for encoders that can write it."""
    sealed = Text(text="", seals=(Seal(issuer="gemini", kind="signature", data="x"),))
    history = [said("assistant", "hi", sealed)]
    assert shape(drop_empty(history)) == [("assistant", "hi")]
    assert drop_empty(history, keep_sealed=True) == tuple(history)


def test_a_cache_mark_moves_to_the_part_before() -> None:
    """The prefix that ended with an empty text ends with what stood before it; another mark is not overwritten."""
    mark, other = CacheMark(lifetime="1h"), CacheMark(lifetime="5m")
    picture = Media(kind="document", source=PlainText(text="x"))
    (kept,) = drop_empty([said("user", picture, Text(text="", cache_mark=mark))])
    assert kept.parts == (msgspec.structs.replace(picture, cache_mark=mark),)
    marked = msgspec.structs.replace(picture, cache_mark=other)
    (kept,) = drop_empty([said("user", marked, Text(text="", cache_mark=mark))])
    assert kept.parts == (marked,)
    assert drop_empty([said("user", Text(text="", cache_mark=mark))]) == ()


def test_reasoning_without_words_is_no_empty_text() -> None:
    """Sealed reasoning has no words and is not empty."""
    history = (said("assistant", Reasoning(seals=(Seal(issuer="openai", kind="encrypted", data="x"),))),)
    assert drop_empty(history) == history


# ── arguments ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", {}),
        (" \n", {}),
        ("null", {}),
        ("{}", {}),
        (' {"a": 1} ', {"a": 1}),
        ("[1]", {"value": [1]}),
        ('"x"', {"value": "x"}),
        ("0", {"value": 0}),
        ('{"a": ', {"_raw": '{"a": '}),
        ("NaN", {"_raw": "NaN"}),
        ("plain words", {"_raw": "plain words"}),
        ("[" * 501 + "]" * 501, {"_raw": "[" * 501 + "]" * 501}),
        ('{"a": ' * 5000 + "1" + "}" * 5000, {"_raw": '{"a": ' * 5000 + "1" + "}" * 5000}),
        (json.dumps({"a": "[" * 600}), {"a": "[" * 600}),
    ],
)
def test_arguments_are_an_object_whatever_was_written(text: str, wanted: dict[str, object]) -> None:
    """Nothing, no object and no JSON all become objects that say what they were."""
    assert arguments_object(text) == wanted
    assert json.loads(bytes(arguments_raw(text))) == wanted


def test_raw_arguments_keep_their_spelling() -> None:
    """Numbers, spacing and order of an object stay as the model wrote them, also when it says `_raw` itself."""
    assert bytes(arguments_raw(' {"b": 1.10,"a": 12345678901234567890123}\n')) == (
        b'{"b": 1.10,"a": 12345678901234567890123}'
    )
    assert json.loads(bytes(arguments_raw('{"_raw": "x"}'))) == {"_raw": "x"}


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [' + "[]," * 100_000 + "1]}",
        '{"a": [' + "1," * 200_000 + "1]}",
        '{"a": [' + '"",' * 200_000 + '""]}',
        "[" + "{}," * 100_000 + "1]",
    ],
    ids=["arrays", "numbers", "strings", "objects"],
)
def test_arguments_of_too_many_values_stay_a_text(text: str) -> None:
    """Values beyond the bound of a body are not made, whatever form the arguments are wanted in."""
    assert arguments_object(text) == {"_raw": text}
    assert json.loads(bytes(arguments_raw(text))) == {"_raw": text}
    assert not is_object(text)


def test_an_object_is_checked_without_making_its_values() -> None:
    """Checking the arguments of a call takes a small multiple of their text in memory, not of their values."""
    text = '{"a": [' + "[]," * 66_000 + "1]}"
    tracemalloc.start()
    try:
        assert bytes(arguments_raw(text)) == text.encode()
        assert is_object(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(text)


@given(texts(min_size=0))
def test_no_text_is_too_odd_to_be_arguments(text: str) -> None:
    """Any text becomes an object, and valid JSON."""
    assert json.loads(bytes(arguments_raw(text))) == arguments_object(text)
