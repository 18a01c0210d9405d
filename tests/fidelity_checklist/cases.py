"""The claims.

`between` names pairs as caller-upstream: C is Chat Completions, M is Messages, R is Responses, G is Gemini, * is any; a
single letter stands where only the caller's side matters.
"""

from collections.abc import Collection
from dataclasses import dataclass

LETTERS = {"C": "Chat", "R": "Responses", "M": "Messages", "G": "Gemini", "*": "any"}
PROTOCOLS = "CRMG"
PAIRS = tuple((caller, upstream) for caller in PROTOCOLS for upstream in PROTOCOLS)

FEATURES: dict[str, Collection[int]] = {
    "Framing": range(1, 13),
    "Same protocol": range(13, 18),
    "Turns": (*range(18, 27), *range(110, 113)),
    "Media": (*range(27, 36), 113),
    "Tools": (*range(36, 60), *range(104, 110)),
    "Reasoning": (*range(60, 71), 116, 117, 119),
    "Parameters": range(71, 79),
    "Answers": (*range(79, 91), 115, 118),
    "Errors": (*range(91, 99), 114),
    "Small endpoints": range(99, 104),
}
"""What the claims are about, by their numbers."""


@dataclass(frozen=True, slots=True)
class Case:
    """One claim."""

    number: int
    between: tuple[str, ...]
    """Pairs such as `C-M`; a single letter where only the caller's side matters."""
    claim: str

    @property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """Every pair that it says something about; empty where the upstream's side does not matter."""
        named = [pair.split("-") for pair in self.between if "-" in pair]
        return frozenset(
            (caller, upstream) for caller, upstream in PAIRS for one, other in named
            if one in (caller, "*") and other in (upstream, "*")
        )  # fmt: skip


def _cases(*rows: tuple[str, str]) -> tuple[Case, ...]:
    return tuple(Case(number, tuple(between.split()), claim) for number, (between, claim) in enumerate(rows, start=1))


_NUMBERED = _cases(
    # Framing and transport
    ("*-*", "A stream that is split at any byte reaches the caller as the same bytes."),
    ("*-*", "CRLF, CR and LF all end a line, also when a write ends between CR and LF."),
    ("*-*", "Comments, pings, blank lines, `retry:` and `id:` never become content."),
    ("*-*", "`data:` without a space, data on several lines and a missing last blank line are accepted."),
    ("*-*", "CJK, emoji and raw U+2028 arrive intact in text, reasoning and arguments, wherever they were split."),
    ("*-C", "A Chat stream may end with or without `[DONE]`; anything after it is ignored."),
    ("G-*", "A Gemini caller receives only `data:` lines and blank lines; blank lines keep its stream alive."),
    (
        "M-*",
        "Each event for a Messages caller is named after its type; `ping` bridges a silent upstream.",
    ),
    ("C-*", "Keep-alive comments do not disturb a Chat caller; its stream ends with `data: [DONE]`."),
    ("G-*", "Gemini's streaming path without `alt=sse` answers with a JSON array."),
    ("*-*", "The caller receives each event before the upstream has sent the next one."),
    ("*-*", "When the client disconnects, the upstream's connection is closed at once."),
    # One protocol on both sides
    (
        "C-C M-M R-R G-G",
        "A request keeps its bytes, except for the model's name and what the gateway must request.",
    ),
    (
        "C-C M-M R-R G-G",
        "An answer keeps its bytes, except for the model's name and usage that the caller did not request.",
    ),
    ("M-M", "`anthropic-version` and `anthropic-beta` pass through; the key may come in either header."),
    ("G-G", "Both spellings of Gemini's keys, both base64 alphabets and both path versions work."),
    ("R-R", "Sequence numbers, obfuscation and events of built-in tools pass through unchanged."),
    # Text and turns
    (
        "*-*",
        "A plain answer has its text, finish reason, usage, an id in the caller's format and the requested model name.",
    ),
    ("C-M", "Several leading instructions become the same number of parts of `system`, in order."),
    ("M-C C-M", "An instruction in the middle of a conversation stays in place; none is lost."),
    ("C-M", "For a model that accepts no instruction in the middle, it moves into the next user turn, with a warning."),
    ("C-G", "Consecutive user messages become one content, in order."),
    ("M-R R-M", "Anthropic's `system` becomes Responses' `instructions`, and the reverse."),
    ("C-M", "An empty text beside tool calls is left out; a strict upstream accepts the turn."),
    ("C-M M-C", "A prefilled answer that the model cannot continue is a 400 that names `messages`."),
    ("R-R R-C", "The phase of an assistant message survives a stateful round trip."),
    # Media
    ("C-M M-C", "An image as a data URL and as a base64 source are equivalent, with the correct media type."),
    ("C-G G-C", "A data URL becomes Gemini's inline data, and the reverse, in either base64 alphabet."),
    ("C-M M-C C-G", "An image URL stays a URL if the upstream fetches it."),
    ("R-M R-C", "A PDF URL reaches Anthropic as a document and is refused if no one can fetch it."),
    ("M-C C-M", "A document and a file part are equivalent, including title and name."),
    ("C-M C-G", "Audio input is refused if the upstream does not support it."),
    ("M-C", "Images in tool results follow all results in a user message, with a warning."),
    ("M-R", "An image in a tool result stays inside the result for Responses."),
    ("R-G", "A file stored at another vendor is refused with the reason."),
    # Tools
    ("*-*", "A tool call keeps its arguments: the exact text if both sides use text, otherwise the values."),
    ("*-*", "A tool call without arguments is `{}` for the caller, and its result is accepted in the next turn."),
    ("M-C", "Interleaved tool calls of an upstream become consecutive blocks."),
    ("C-M", "Tool use blocks after a text become calls 0 and 1; id and name are sent once."),
    ("C-G", "Parallel Gemini calls are indexed from 0, in one chunk or in several."),
    ("C-G", "A stop after a Gemini call ends in `tool_calls`; a length stop stays one."),
    ("R-M", "A tool call for a Responses caller is added, filled and completed under one id."),
    ("C-M", "Results in any order become one user message, results first, in the order of the calls."),
    ("C-G", "The same for Gemini, with the correct names and ids."),
    ("M-C M-G G-M", "A failed tool is reported in the upstream's own form."),
    ("C-M M-C", "A call without its result gets one, with a warning; a result without its call is a 400."),
    ("C-M M-C", "Call ids that the other side would reject are rewritten consistently in every turn, and restored."),
    ("C-G", "Calls without an id from Gemini get a stable one, which is accepted in the next turn."),
    ("C-R", "A tool that does not set strictness is not made strict by Responses' default."),
    ("C-M M-C", "A strict tool stays strict."),
    ("C-G", "Schemas that Gemini would reject are rewritten without changing their meaning."),
    ("G-M G-C", "Gemini's schema keywords become JSON Schema."),
    ("*-*", "Auto, none, required, one by name and no parallel calls have their exact equivalent everywhere."),
    ("C-M", "A forced choice that the model does not support becomes auto with that tool alone, and a warning."),
    ("C-M C-G R-M", "Allowed tools become the upstream's own list, or the only tools it receives."),
    ("R-C", "A free-text tool that is sent as a function comes back as free text."),
    ("C-M", "A tool name that Anthropic would reject is rewritten everywhere, and restored in the answer."),
    ("G-G", "Functions beside Google's own tools keep their parts and signatures."),
    ("R-M", "Tools in a namespace are flattened, and restored in the answer."),
    # Reasoning
    ("M-M", "Thinking, its signature and redacted thinking pass through unchanged in both directions."),
    ("C-M", "Claude's state survives a tool loop, echoed by the caller or restored by the call's id."),
    ("C-G", "Gemini's signature returns on its own call, echoed by the caller or restored by the call's id."),
    ("R-M", "Thinking becomes a reasoning item with encrypted content, and becomes thinking again in the next turn."),
    ("M-R", "A reasoning item becomes thinking with a signature, and the same item again in the next turn."),
    ("G-M G-R", "State for a Gemini caller is valid base64 and is accepted in the next turn."),
    ("C-G", "A conversation that moves to another vendor loses the first one's state, with a warning and no error."),
    ("M-M", "A rejected signature is retried once without reasoning; a second rejection is reported."),
    ("C-M", "Each effort has the form of its Claude family, never an effort and a budget at once."),
    ("M-G", "A budget becomes one of Gemini's levels, or a budget within its range."),
    ("M-R", "Thinking that is signed but not shown is kept."),
    # Parameters
    ("C-M M-C", "Without a limit, the model's own applies; a limit has the upstream's name for it."),
    ("C-M", "A temperature is clamped or left out as the model requires, with a warning."),
    ("M-C C-M C-R", "Stop sequences are translated, and limited to what the upstream accepts, with a warning."),
    ("C-M C-G", "Several answers come from the upstream, the first one first, or are refused if it supports only one."),
    (
        "C-M M-C C-G G-R",
        "A schema for the answer is translated, and each SDK's helper parses the answer; JSON mode is emulated.",
    ),
    ("M-C C-M M-G", "Cache marks keep their part and lifetime; the last four are kept, with a warning."),
    ("C-M M-C", "The end user is sent in the upstream's field; a metadata map does not reach Anthropic."),
    ("C-M M-C C-G", "Unsupported optional parameters cause a warning, not an error."),
    # Answers
    ("*-*", "Every finish reason is translated to the caller's protocol."),
    ("*-*", "Totals, cache reads and writes and reasoning add up as the caller's vendor counts them."),
    ("C-*", "Usage comes last, without choices, and only if requested; the upstream is always asked for it."),
    ("M-C", "A Messages stream begins with estimated input tokens and ends with the actual ones."),
    ("*-M", "Token counts that an upstream reports twice count once."),
    ("C-M C-G R-G", "Citations become `url_citation` with offsets in characters, also after CJK text."),
    ("C-M M-C", "A refusal keeps its text and has the finish reason of the caller's vendor."),
    ("C-G M-G G-C", "A blocked prompt is an answer without content, not an error."),
    ("R-C", "Previous responses are available to their owner alone, and stored only if requested."),
    ("R-M", "Every event of a response, and the stored response, have the same id."),
    ("R-M", "An answer that reached its limit ends as incomplete, with its reason."),
    ("C-M", "A pause is continued for a caller whose protocol has none, at most five times."),
    # Errors
    ("*-*", "An upstream's status raises the SDK's own exception, with message, type, request id and wait."),
    ("*-*", "A rejected credential of the gateway is a 502, never a 401."),
    ("*-*", "A failure before the first event is retried or failed over, invisibly to the caller."),
    ("*-*", "A failure after the first event is raised by the SDK from the protocol's own error event."),
    ("*-*", "A stream without its end marker is a failure; an incomplete tool call is not completed."),
    ("*-*", "An invalid body with a 200 is a 502, and none of it is shown."),
    ("M-* C-* G-*", "An unknown model is a 404 in the caller's format."),
    ("*", "Bad JSON, wrong types and missing fields are a 400 that names the field."),
    # Small endpoints
    ("C M G", "Models are listed and found in each vendor's format, by each SDK."),
    ("M-* G-* R-*", "Tokens are counted for any upstream, and estimates are marked."),
    (
        "C-C C-G C-M G-C G-G G-M",
        "Embeddings come in either encoding and in Gemini's batches; Anthropic has none: a 400.",
    ),
    ("C-*", "Text completions work over every upstream."),
    (
        "*",
        "A key identifies one caller in any header; two are rejected; a caller's key is never forwarded or logged.",
    ),
)


def _later(number: int, between: str, claim: str) -> Case:
    return Case(number, tuple(between.split()), claim)


CASES = (
    *_NUMBERED,
    # Tools again
    _later(
        104,
        "C-R C-M R-C R-M M-C M-R G-C G-R G-M",
        "A tool's schema has an object with properties at its root, and each tool is declared once.",
    ),
    _later(
        105,
        "C-M R-M M-C M-R",
        "A strict schema has the form that the upstream's strict mode requires, or is sent without it, with a warning.",
    ),
    _later(106, "C-G R-G M-G", "References to any place within a schema reach Gemini."),
    _later(
        107,
        "C-C R-R M-M G-G",
        "Tools that the vendor runs, and tiers, pass if the operator allows them; otherwise a 400 names them.",
    ),
    _later(
        108,
        "M-R M-G",
        "A web search is shown with its results, is counted, and is never sent to Anthropic later.",
    ),
    _later(
        109,
        "M-C M-R M-G",
        "Tools that Anthropic defines and the caller runs are functions elsewhere, and come back under their names.",
    ),
    # Turns, media and errors again
    _later(110, "M-C M-R M-M M-G", "Anthropic's tool runner, which requests a thread first, completes its loop."),
    _later(
        111,
        "M-C R-C",
        "A server whose template supports one system message gets one, at the beginning, and text as one string.",
    ),
    _later(112, "C-* R-*", "A body of one OpenAI protocol on the other's path is answered in the format of the path."),
    _later(113, "*-*", "A URL that no upstream may fetch is a 400 that names the field."),
    _later(114, "*-*", "A rejection in a nonstandard format keeps its reason."),
    # Odd answers
    _later(
        115,
        "*-*",
        "An answer's format is detected from its first bytes, whatever was requested and whatever its content type.",
    ),
    _later(116, "C-R R-C", "Raw reasoning is `reasoning_text` in Responses and has both of its names in Chat."),
    _later(117, "R-C M-C G-C", "Models that reject calls without their reasoning get back what the caller dropped."),
    _later(118, "C-R C-M C-G R-C R-M R-G M-C M-R M-G G-C G-R G-M", "A generated id is never generated twice."),
    _later(119, "R-G", "The last item of an answer is its message; state attached to its text still comes back."),
)
