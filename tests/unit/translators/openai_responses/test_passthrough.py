"""Callers and upstreams that both speak Responses: what passes, and the little that changes."""

from typing import Any

import msgspec
import openai
import pytest

from llmproxy_asgi.conversation import (
    Ended,
    Failed,
    Finished,
    FinishReason,
    Passed,
    Seal,
    Started,
    UsageReported,
)
from llmproxy_asgi.errors import (
    InternalError,
    ModelNotFound,
    Unsupported,
    UpstreamAuthFailed,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamQuotaExceeded,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
)
from llmproxy_asgi.translators.seals import wrap
from support.wires.openai_responses import (
    COMPLETED,
    CREATED,
    INBOUND,
    NOW,
    OUTBOUND,
    accumulated,
    batched,
    client,
    event,
    frames,
    helped,
    inbound_request,
    life,
    passthrough_request,
    upstream,
    upstream_request,
    wire,
)

STREAMS = ("text.sse", "reasoning_and_calls.sse", "web_search.sse", "image.sse", "incomplete.sse", "refusal.sse")


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_bytes_pass_but_for_model_and_store() -> None:
    """Unknown fields, order, number spelling and escapes survive."""
    body = b'{"zeta": 1.10, "model": "smart", "input": [ {"role":"user","content":"K\\u00f6ln"} ], "top_p": 1E0}'
    opened = INBOUND.open(body, headers={})
    sent = OUTBOUND.passthrough_request(opened, upstream())
    assert sent.body == (
        b'{"zeta":1.10,"model":"big-1","input":[ {"role":"user","content":"K\\u00f6ln"} ],"top_p":1E0,"store":false}'
    )
    assert sent.warnings == ()


def test_store_is_only_a_warning_where_it_was_asked_for() -> None:
    """Nothing is stored at the vendor; a request for storage gets a warning."""
    assert passthrough_request({"store": True})[0]["store"] is False
    assert passthrough_request({"store": True})[1] == ("dropped:store",)
    assert passthrough_request({"store": False})[1] == ()
    assert passthrough_request({"store": True}, stored=True) == (
        {"model": "big-1", "input": "Hello", "store": True},
        (),
    )
    assert "store" not in passthrough_request({}, stored=True)[0]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}]},
            "input[0].content[0].file_id",
        ),
        (
            {
                "input": [
                    {
                        "type": "function_call_output",
                        "call_id": "c",
                        "output": [{"type": "input_image", "file_id": "f"}],
                    }
                ]
            },
            "input[0].output[0].file_id",
        ),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}, "tools[0].vector_store_ids"),
        ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, "tools[0].container"),
        (
            {"tools": [{"type": "shell", "environment": {"type": "container_reference", "container_id": "c"}}]},
            "tools[0].environment.container_id",
        ),
    ],
)
def test_what_the_vendor_keeps_is_not_shared(fields: dict[str, Any], param: str) -> None:
    """An id behind a credential that several people share is refused, unless the operator says otherwise."""
    with pytest.raises(Unsupported) as caught:
        passthrough_request(fields)
    assert caught.value.param == param
    assert passthrough_request(fields, stored=True)[0][param.partition("[")[0].partition(".")[0]]


def test_what_only_looks_stored_passes() -> None:
    """Null ids, automatic containers, cited files and texts about files are not references."""
    cited = {"type": "output_text", "text": "a", "annotations": [{"type": "file_citation", "file_id": "file_1"}]}
    fields: dict[str, Any] = {
        "previous_response_id": None,
        "background": False,
        "input": [
            {"role": "user", "content": 'the "file_id"'},
            {"role": "user", "content": [{"type": "input_image", "image_url": "https://x", "file_id": None}]},
            {"type": "message", "role": "assistant", "content": [cited]},
        ],
        "tools": [{"type": "code_interpreter", "container": {"type": "auto"}}],
    }
    assert passthrough_request(fields)[0]["input"] == fields["input"]


def test_wrapped_state_becomes_native_or_goes() -> None:
    """State that this upstream made is its own again; another's is taken out, with the ids that would miss it."""
    own = wrap(Seal(issuer="openai", kind="encrypted", data="blob==", item_id="rs_7"))
    other = wrap(Seal(issuer="anthropic", kind="signature", data="sig"))
    call = {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"}
    given = [
        "odd",
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": own},
        {"type": "message", "id": "msg_1", "role": "assistant", "content": "a"},
        {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": other},
        call,
        {**call, "id": "fc_2"},
        {"type": "reasoning", "id": "rs_3", "summary": [], "encrypted_content": "native"},
    ]
    body, warnings = passthrough_request({"input": given})
    assert [item if isinstance(item, str) else item.get("id") for item in body["input"]] == [
        "odd",
        "rs_7",
        "msg_1",
        None,
        "fc_2",
        "rs_3",
    ]
    assert body["input"][1]["encrypted_content"] == "blob=="
    assert warnings == ("dropped:reasoning",)
    assert passthrough_request({"input": given[:3]})[1] == ()


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", STREAMS)
def test_events_pass_unchanged(name: str) -> None:
    """Numbers, obfuscation, built-in tools' and unknown events pass; the model is called as it was asked for."""
    content = wire(name)
    found = batched(OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream()), content)
    assert found.raw == content.replace(b'"big-1-2026-10-01"', b'"smart"')
    last = helped(found.raw)[-1]
    assert last.response.model == "smart"


@pytest.mark.parametrize("name", [*STREAMS, "compatible_crlf.sse", "failed.sse", "error.sse", "cut.sse"])
def test_a_passthrough_gives_the_same_at_every_split(name: str) -> None:
    """Cut anywhere, the same bytes and events come out."""
    content = wire(name)
    whole = batched(OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream()), content)
    for cut in range(1, len(content), 7):
        found = batched(
            OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream()), content[:cut], content[cut:]
        )
        assert found.raw == whole.raw, cut
        assert [type(each) for each in found.events] == [type(each) for each in whole.events], cut


def test_a_passthrough_tells_what_must_be_known() -> None:
    """Start, finish, usage and end are events; a call makes the finish one of calls."""
    found = batched(
        OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream()), wire("reasoning_and_calls.sse")
    ).events
    started, finished, usage, ended = found
    assert isinstance(started, Started)
    assert (started.id, started.model) == ("resp_calls", "smart")
    assert isinstance(finished, Finished)
    assert finished.finish.reason is FinishReason.TOOL_CALLS
    assert isinstance(usage, UsageReported)
    assert usage.usage.total == 15
    assert isinstance(ended, Ended)
    cut = batched(OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream()), wire("incomplete.sse")).events[
        1
    ]
    assert isinstance(cut, Finished)
    assert cut.finish.reason is FinishReason.LENGTH


def test_a_passthrough_without_an_end_sign_fails() -> None:
    """What just stops is a failure; so is a stream that only says `[DONE]`, which is not passed on."""
    for content in (wire("cut.sse"), CREATED + b"data: [DONE]\n\n", CREATED + event("response.x", error=None), b""):
        found = batched(OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream()), content)
        last = found.events[-1]
        assert isinstance(last, Failed)
        assert isinstance(last.error, UpstreamProtocolError)
        assert b"[DONE]" not in (found.raw or b"")


def test_the_upstreams_own_failure_reaches_its_caller() -> None:
    """`response.failed` is withheld, and encoded again with the same id and output."""
    found = batched(OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream()), wire("failed.sse"))
    assert b"response.failed" not in (found.raw or b"")
    last = found.events[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, UpstreamRateLimited)
    told = INBOUND.encoder(inbound_request(stream=True)).feed([last])
    whole = helped((found.raw or b"") + told)[-1]
    assert whole.type == "response.failed"
    assert (whole.response.id, whole.response.model) == ("resp_failed", "smart")
    assert whole.response.error.code == "rate_limit_exceeded"
    assert frames(told)[0]["sequence_number"] == frames(wire("failed.sse"))[-1]["sequence_number"]
    assert b"failed_event" not in INBOUND.problem(last.error).body


def test_an_error_event_becomes_the_failed_response() -> None:
    """A flat error becomes `response.failed` with the same response and the next sequence number."""
    found = batched(OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream()), wire("error.sse"))
    last = found.events[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, UpstreamFailed)
    told = INBOUND.encoder(inbound_request(stream=True)).feed([last])
    whole = helped((found.raw or b"") + told)[-1]
    assert whole.type == "response.failed"
    assert (whole.response.id, whole.response.model, whole.response.status) == ("resp_error", "smart", "failed")
    assert whole.sequence_number == 2
    assert b"failed_event" not in INBOUND.problem(last.error).body


def test_a_passthrough_that_breaks_off_tells_what_was_done() -> None:
    """Done items are in the failed response for any cause, and the sequence numbers continue."""
    whole = wire("text.sse")
    for cut in (whole.index(b"event: response.completed"), whole.rindex(b"event: response.output_item.done")):
        passthrough = OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream())
        begun = passthrough.feed(whole[:cut]).raw or b""
        broken = passthrough.broke(UpstreamTimeout("The upstream fell silent."))
        told = INBOUND.encoder(inbound_request(stream=True)).feed([Failed(broken)])
        last = helped(begun + told)[-1]
        done = [frame["item"] for frame in frames(begun) if frame["type"] == "response.output_item.done"]
        assert [item.to_dict()["id"] for item in last.response.output] == [item["id"] for item in done]
        assert last.sequence_number == frames(begun)[-1]["sequence_number"] + 1
        assert last.response.error.message == "The upstream fell silent."


def test_a_passthrough_keeps_no_more_items_than_one_event_could_hold() -> None:
    """What a stream's last event could not tell any more is not kept, however long the stream is."""
    item = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": []}
    done = event("response.output_item.done", item=item)
    passthrough = OUTBOUND.passthrough_stream(
        inbound_request(stream=True), msgspec.structs.replace(upstream(), max_event=10 * len(done))
    )
    passthrough.feed(event("response.created", response={"id": "resp_1", "model": "m", "created_at": 1, "output": []}))
    for _ in range(50):
        passthrough.feed(done)
    native = passthrough.broke(UpstreamTimeout("The upstream fell silent.")).native or {}
    assert 8 <= len(native["failed_event"]["response"]["output"]) <= 15


def test_a_passthrough_that_never_began_has_nothing_to_add() -> None:
    """Then the error is its caller's, as any other."""
    error = UpstreamTimeout("The upstream fell silent.")
    assert OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream()).broke(error) is error
    assert error.native is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("invalid_api_key", UpstreamAuthFailed),
        ("insufficient_quota", UpstreamQuotaExceeded),
        ("server_error", UpstreamFailed),
    ],
)
def test_what_does_not_concern_the_caller_is_never_told_in_the_vendors_words(code: str, kind: type[Exception]) -> None:
    """A failure about the operator's credential or quota, or of the upstream, has the gateway's message."""
    done = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": []}
    bad = life("response.failed", error={"code": code, "message": "sk-123 of org-7 at db.inside"}, output=[done])
    found = batched(OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream()), CREATED + bad)
    last = found.events[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, kind)
    told = INBOUND.encoder(inbound_request(stream=True)).feed([last])
    assert not {word for word in (b"sk-123", b"org-7", b"db.inside") if word in told}
    assert helped((found.raw or b"") + told)[-1].response.output[0].id == "msg_1"


def test_a_failure_that_tells_nothing_of_its_answer() -> None:
    """It becomes a failed response as well."""
    bare = b'event: response.failed\ndata: {"type":"response.failed","response":null}\n\n'
    last = batched(OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream()), CREATED + bare).events[-1]
    (told,) = frames(INBOUND.encoder(inbound_request(stream=True)).feed([last]))
    assert (told["type"], told["response"]["error"]["code"]) == ("response.failed", "server_error")


def test_a_stream_that_begins_with_an_error() -> None:
    """A stream whose first event is its failure is one."""
    found = batched(
        OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream()), event("error", message="x", code=None)
    )
    assert isinstance(found.events[-1], Failed)
    odd = b"data: {\n\n"
    assert isinstance(
        batched(OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream()), odd).events[-1], Failed
    )


def test_nothing_is_passed_through_events() -> None:
    """Unknown frames become events with their bytes."""
    decoder = OUTBOUND.decoder(upstream_request(), upstream())
    found = decoder.feed(CREATED + event("response.audio.delta", delta="x")).events[-1]
    assert isinstance(found, Passed)
    assert found.name == "response.audio.delta"
    assert decoder.feed(COMPLETED).events


# ── whole answers ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_whole_answer_passes() -> None:
    """Its bytes stay unchanged except for the model's name; its usage is reported."""
    found = OUTBOUND.passthrough_response(wire("answer.response.json"), inbound_request(), upstream())
    assert msgspec.json.decode(found.raw or b"") == {
        **msgspec.json.decode(wire("answer.response.json")),
        "model": "smart",
    }
    assert b'"a": 1.1' in (found.raw or b"")
    assert [type(each) for each in found.events] == [UsageReported]
    same = (found.raw or b"").replace(b"\n", b"\n ")
    assert OUTBOUND.passthrough_response(same, inbound_request(), upstream()).raw == same


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"output":[],"status":"queued"}', b""])
def test_a_whole_answer_that_is_none_is_an_error(body: bytes) -> None:
    """Nothing that cannot be read is passed on."""
    with pytest.raises(UpstreamProtocolError):
        OUTBOUND.passthrough_response(body, inbound_request(), upstream())


def test_a_failed_answer_is_an_error() -> None:
    """A 200 that says it failed may be tried again."""
    with pytest.raises(UpstreamFailed):
        OUTBOUND.passthrough_response(wire("failed.response.json"), inbound_request(), upstream())


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (Unsupported("no", param="tools"), openai.BadRequestError, "unsupported_by_upstream"),
        (ModelNotFound("x"), openai.NotFoundError, "model_not_found"),
        (UpstreamRateLimited("slow", retry_after=1.5), openai.RateLimitError, "rate_limit_exceeded"),
        (UpstreamQuotaExceeded("spent"), openai.RateLimitError, "insufficient_quota"),
        (UpstreamAuthFailed("no"), openai.InternalServerError, "upstream_auth"),
        (UpstreamOverloaded("busy", status=529), openai.InternalServerError, None),
        (InternalError("bug"), openai.InternalServerError, None),
    ],
)
def test_problems_are_the_official_clients_errors(
    error: Any, kind: type[openai.APIStatusError], code: str | None
) -> None:
    """Each cause has its class, code and headers."""
    problem = INBOUND.problem(error)
    headers = dict(problem.headers)
    with client(problem.body, status=problem.status, headers=headers) as reader, pytest.raises(kind) as caught:
        reader.responses.create(model="m", input="x")
    assert caught.value.code == code
    if error.retry_after:
        assert (headers["retry-after"], headers["retry-after-ms"]) == ("2", "1500")


def test_an_upstreams_refusal_keeps_its_words() -> None:
    """Status, message, parameter and code of a refusal reach the caller, from either of the vendor's protocols."""
    native = {"message": "bad", "type": "invalid_request_error", "param": "input[0]", "code": "x", "extra": 1}
    error = OUTBOUND.decode_error(422, {"x-request-id": "req_1"}, msgspec.json.encode({"error": native}))
    assert isinstance(error, UpstreamRefused)
    assert (error.status, error.param, error.code, error.upstream_request_id) == (422, "input[0]", "x", "req_1")
    assert error.protocol == "openai-responses"
    problem = INBOUND.problem(error)
    assert (problem.status, msgspec.json.decode(problem.body)["error"]) == (422, native)
    assert dict(problem.headers)["x-should-retry"] == "false"


def test_a_whole_answer_is_dated_by_its_upstream() -> None:
    """`created_at` is the upstream's own."""
    found = OUTBOUND.decode(wire("answer.response.json"), upstream_request(), upstream(), received_at=NOW)
    assert found.created_at.timestamp() == 1_795_000_000


def test_models_are_listed_as_the_vendor_does() -> None:
    """The official client lists and shows them."""
    with client(INBOUND.list_models(["a", "b"])) as reader:
        assert [model.id for model in reader.models.list()] == ["a", "b"]
    with client(INBOUND.show_model("org/a")) as reader:
        assert reader.models.retrieve("org/a").id == "org/a"


def test_the_official_helper_reads_a_passed_through_stream() -> None:
    """What is passed on is an answer to the official client."""
    found = batched(OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream()), wire("text.sse"))
    assert accumulated(found.raw or b"").output_text == "Köln liegt\u2028am Rhein."
