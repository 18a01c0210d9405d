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
    ("*-*", "A stream that is cut in two at any byte reaches the caller as the same bytes."),
    ("*-*", "CRLF, CR and LF end lines alike, also when a write ends between CR and LF."),
    ("*-*", "Comments, pings, blank lines, `retry:` and `id:` never become content."),
    ("*-*", "`data:` without a space, data on several lines and a missing last blank line are read."),
    ("*-*", "CJK, emoji and raw U+2028 arrive whole in text, reasoning and arguments, wherever they were torn apart."),
    ("*-C", "A Chat stream may end with `[DONE]` or without it; nothing behind it counts."),
    ("G-*", "A Gemini caller reads `data:` lines and blank lines only, and is kept alive by the latter."),
    ("M-*", "Each event for a Messages caller is named as its type; a silent upstream is bridged by `ping`."),
    ("C-*", "Keep-alive comments do not disturb a Chat caller; its stream ends with `data: [DONE]`."),
    ("G-*", "Gemini's streaming path without `alt=sse` answers with a JSON array."),
    ("*-*", "The caller has each event before the upstream has made the next one."),
    ("*-*", "When the caller leaves, the upstream's connection is closed at once."),
    # One protocol on both sides
    ("C-C M-M R-R G-G", "A request keeps its bytes but for the model's name and what the gateway must ask for."),
    ("C-C M-M R-R G-G", "An answer keeps its bytes but for the model's name and usage that nobody asked for."),
    ("M-M", "`anthropic-version` and `anthropic-beta` pass; the key may come in either header."),
    ("G-G", "Both spellings of Gemini's keys, both base64 alphabets and both path versions work."),
    ("R-R", "Sequence numbers, obfuscation and events of built-in tools pass unchanged."),
    # Text and turns
    ("*-*", "A plain answer has its text, an ordinary end, usage, an id of the caller's form and the model as asked."),
    ("C-M", "Several leading instructions become as many parts of `system`, in order."),
    ("M-C C-M", "An instruction in the middle of a conversation stays there; none is lost."),
    ("C-M", "For a model that takes none in the middle it moves into the next user turn, with a warning."),
    ("C-G", "User messages that follow each other become one content, in order."),
    ("M-R R-M", "Anthropic's `system` is Responses' `instructions`, and back."),
    ("C-M", "An empty text beside tool calls is left out; a strict upstream takes the turn."),
    ("C-M M-C", "A beginning of the answer that the model cannot continue is a 400 that names `messages`."),
    ("R-R R-C", "The phase of an assistant message survives a stateful round."),
    # Media
    ("C-M M-C", "A picture as a data URL and as a base64 source are the same picture, with its true media type."),
    ("C-G G-C", "A data URL is Gemini's inline data, and back, whatever the alphabet."),
    ("C-M M-C C-G", "A picture by its address stays an address where the upstream fetches it."),
    ("R-M R-C", "A PDF by its address reaches Anthropic as a document and is refused where nobody can fetch it."),
    ("M-C C-M", "A document and a file part are the same, titled and named alike."),
    ("C-M C-G", "Sound is refused where the upstream hears none."),
    ("M-C", "Pictures in tool results follow the whole batch in a user message, with a warning."),
    ("M-R", "A picture in a tool result stays inside the result for Responses."),
    ("R-G", "A file that another vendor keeps is refused with the reason."),
    # Tools
    ("*-*", "A call keeps its arguments: the text where both sides have text, the values otherwise."),
    ("*-*", "A call without arguments is `{}` for the caller, and its result is taken in the next turn."),
    ("M-C", "Calls that an upstream streams in turns become one block after the other."),
    ("C-M", "Blocks behind a text are calls nought and one; id and name are said once."),
    ("C-G", "Parallel Gemini calls are indexed from nought, in one chunk or in several."),
    ("C-G", "A stop behind a Gemini call ends in `tool_calls`, a length stays a length."),
    ("R-M", "A call for a Responses caller is added, filled and done under one id."),
    ("C-M", "Results in any order become one user message, results first, in the order of the calls."),
    ("C-G", "The same for Gemini, with the right names and ids."),
    ("M-C M-G G-M", "A failed tool says so in the upstream's own way."),
    ("C-M M-C", "A call without its result gets one with a warning; a result without its call is a 400."),
    ("C-M M-C", "Call ids that the other side would refuse are rewritten alike in every turn, and restored."),
    ("C-G", "Calls for which Gemini gives no id get one that stays and is taken back."),
    ("C-R", "A tool that says nothing about strictness is not made strict by Responses' default."),
    ("C-M M-C", "A strict tool stays strict."),
    ("C-G", "Schemas that Gemini would refuse are rewritten without changing what they mean."),
    ("G-M G-C", "Gemini's schema words become JSON Schema."),
    ("*-*", "Auto, none, required, one by name and no parallel calls have their exact form everywhere."),
    ("C-M", "A choice that the model refuses to be forced into becomes auto with that tool alone, and a warning."),
    ("C-M C-G R-M", "Allowed tools become the upstream's own list, or the only ones that it is offered."),
    ("R-C", "A free-text tool that goes as a function comes back as free text."),
    ("C-M", "A tool's name that Anthropic would refuse is rewritten everywhere, and restored in the answer."),
    ("G-G", "Functions beside Google's own tools keep their parts and signatures."),
    ("R-M", "Tools in a namespace are flattened and found again."),
    # Reasoning
    ("M-M", "Thinking, its signature and redacted thinking pass unchanged in both directions."),
    ("C-M", "Claude's state survives a tool loop, echoed by the caller or found again by the call's id."),
    ("C-G", "Gemini's signature comes back on its own call, echoed by the caller or found by the call's id."),
    ("R-M", "Thinking is a reasoning item with encrypted content, and is thinking again in the next turn."),
    ("M-R", "A reasoning item is thinking with a signature, and the same item again in the next turn."),
    ("G-M G-R", "State for a Gemini caller is valid base64 and comes back."),
    ("C-G", "A conversation that moves to another vendor loses the first one's state, with a warning and no error."),
    ("M-M", "A refused signature is tried once more without reasoning; a second refusal is reported."),
    ("C-M", "Each effort has its form for each family of Claude, never an effort and a budget at once."),
    ("M-G", "A budget is one of Gemini's levels, or a budget within its range."),
    ("M-R", "Thinking that is signed and not shown is kept."),
    # Parameters
    ("C-M M-C", "No limit is the model's own; a limit has the upstream's name for it."),
    ("C-M", "A temperature is clamped or left out as the model needs it, with a warning."),
    ("M-C C-M C-R", "Stop sequences are carried over, and cut to what the upstream takes with a warning."),
    ("C-M C-G", "Several answers come from the upstream, the first one first, or are refused where it gives but one."),
    (
        "C-M M-C C-G G-R",
        "A schema for the answer is carried over, and each SDK's helper parses it; JSON mode is emulated.",
    ),
    ("M-C C-M M-G", "Cache marks keep their part and lifetime; the last four stay, with a warning."),
    ("C-M M-C", "The end user is named in the upstream's field; a metadata map does not reach Anthropic."),
    ("C-M M-C C-G", "Knobs that the upstream lacks are warned about, not refused."),
    # Answers
    ("*-*", "Every reason for an end is the caller's word for it."),
    ("*-*", "Totals, cache reads and writes and reasoning add up as the caller's vendor counts them."),
    ("C-*", "Usage comes last, without choices, and only where asked; the upstream is asked anyway."),
    ("M-C", "A Messages stream begins with some input tokens and ends with the true ones."),
    ("*-M", "Counts that an upstream tells twice count once."),
    ("C-M C-G R-G", "Citations become `url_citation` with offsets in characters, behind CJK, too."),
    ("C-M M-C", "A refusal keeps its words and ends as the caller's vendor says it."),
    ("C-G M-G G-C", "A blocked prompt is an answer without content, not an error."),
    ("R-C", "Previous responses are found again by their owner alone, and kept only where asked."),
    ("R-M", "One id stands in every event of a response and in what is fetched afterwards."),
    ("R-M", "An answer that was too long ends as incomplete, with its reason."),
    ("C-M", "A pause is gone on with for a caller who has no word for it, five times at most."),
    # Errors
    ("*-*", "An upstream's status is the SDK's own exception, with message, type, request id and wait."),
    ("*-*", "A refused credential of the gateway's is a 502, never a 401."),
    ("*-*", "A failure before the first event is tried again or elsewhere, unseen."),
    ("*-*", "A failure behind the first event is raised by the SDK from the protocol's own error event."),
    ("*-*", "A stream without its end sign is a failure; a half-sent call is not completed."),
    ("*-*", "Nonsense with a 200 is a 502, and none of it is shown."),
    ("M-* C-* G-*", "An unknown model is a 404 in the caller's words."),
    ("*", "Bad JSON, wrong types and missing fields are a 400 that names the field."),
    # Small endpoints
    ("C M G", "Models are listed and found in each vendor's shape, by each SDK."),
    ("M-* G-* R-*", "Tokens are counted for any upstream, and estimates say that they are."),
    (
        "C-C C-G C-M G-C G-G G-M",
        "Embeddings come in either encoding and in Gemini's batches; Anthropic has none: a 400.",
    ),
    ("C-*", "Text completions work over every upstream."),
    (
        "*",
        "One key is one caller in whichever header; two keys are nobody; no key of a caller's is passed on or logged.",
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
        "A strict schema has the form that the upstream's strictness demands, or goes without, with a warning.",
    ),
    _later(106, "C-G R-G M-G", "References to any place within a schema reach Gemini."),
    _later(
        107,
        "C-C R-R M-M G-G",
        "Tools that the vendor runs, and tiers, pass where the operator allows them, else a 400 names them.",
    ),
    _later(
        108,
        "M-R M-G",
        "A search of the web is shown with what it found, is counted, and never goes to Anthropic later.",
    ),
    _later(
        109,
        "M-C M-R M-G",
        "Tools that Anthropic defines and the caller runs are functions elsewhere, and come back under their names.",
    ),
    # Turns, media and errors again
    _later(110, "M-C M-R M-M M-G", "Anthropic's tool runner, which asks for a thread first, finishes its loop."),
    _later(
        111,
        "M-C R-C",
        "A server whose template takes one system message gets one, at the beginning, and text as one string.",
    ),
    _later(112, "C-* R-*", "A body of one OpenAI protocol on the other's path is answered in the path's words."),
    _later(113, "*-*", "An address that no upstream must fetch is a 400 that names the field."),
    _later(114, "*-*", "A refusal in no vendor's shape keeps its reason."),
    # Odd answers
    _later(115, "*-*", "An answer is read by its first bytes: whole for a stream, a stream for a whole, of any type."),
    _later(116, "C-R R-C", "Raw reasoning is `reasoning_text` in Responses and has both of its names in Chat."),
    _later(117, "R-C M-C G-C", "Models that refuse calls without their reasoning get back what the caller dropped."),
    _later(118, "C-R C-M C-G R-C R-M R-G M-C M-R M-G G-C G-R G-M", "An id that is made up is never made up twice."),
    _later(119, "R-G", "The last item of an answer is its message; state that hangs on its text still comes back."),
)
