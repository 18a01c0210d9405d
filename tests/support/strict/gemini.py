"""What Google refuses in a generateContent request, or one for embeddings. What a model takes is a table of its own.

Google reads protobuf's JSON: every key in either spelling, so a request is put into camel case before it is judged.
"""

import re
from base64 import b64decode
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from llmproxy_asgi.testing import Received
from support.strict.rules import (
    Asked,
    Complaints,
    JSONObject,
    Refused,
    Rule,
    decoded,
    is_base64,
    one_of,
    subschemas,
    unknown,
    within,
)

STAND_INS = ("skip_thought_signature_validator", "context_engineering_is_the_way_to_go")

_ADDRESS = re.compile(r"/v1(?:beta)?/models/([A-Za-z0-9._~/-]+):(generateContent|streamGenerateContent)")
_EMBEDDING_ADDRESS = re.compile(r"/v1(?:beta)?/models/([A-Za-z0-9._~/-]+):batchEmbedContents")
_GAP = re.compile(r"_([a-z0-9])")
_FUNCTION = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}")
_MEDIA_TYPE = re.compile(r"[a-z]+/[a-z0-9.+-]+")
_FETCHED = ("gs://", "https://generativelanguage.googleapis.com/", "https://www.youtube.com/", "https://youtu.be/")
_OPAQUE = frozenset(
    {"args", "response", "labels", "parameters", "parametersJsonSchema", "responseSchema", "responseJsonSchema"}
)
"""Fields whose keys are their sender's own."""
_KEYS = frozenset(
    {
        "contents", "systemInstruction", "tools", "toolConfig", "safetySettings", "cachedContent", "labels",
        "serviceTier", "continuationToken", "store", "generationConfig", "model",
    }
)  # fmt: skip
_OPTIONS = frozenset(
    {
        "temperature", "topP", "topK", "candidateCount", "maxOutputTokens", "stopSequences", "responseLogprobs",
        "logprobs", "presencePenalty", "frequencyPenalty", "seed", "responseMimeType", "responseSchema",
        "responseJsonSchema", "responseModalities", "mediaResolution", "speechConfig", "imageConfig",
        "audioTranscriptionConfig", "thinkingConfig", "enableEnhancedCivicAnswers",
    }
)  # fmt: skip
_PAYLOADS: dict[str, frozenset[str]] = {
    "text": frozenset(),
    "inlineData": frozenset({"mimeType", "data", "displayName"}),
    "fileData": frozenset({"fileUri", "mimeType", "displayName"}),
    "functionCall": frozenset({"id", "name", "args"}),
    "functionResponse": frozenset({"id", "name", "response", "parts", "willContinue", "scheduling"}),
    "executableCode": frozenset({"language", "code", "id"}),
    "codeExecutionResult": frozenset({"outcome", "output", "id"}),
    "toolCall": frozenset({"id", "toolType", "args"}),
    "toolResponse": frozenset({"id", "toolType", "response"}),
}
_BESIDE = frozenset({"thought", "thoughtSignature", "videoMetadata", "mediaResolution", "partMetadata"})
_OF_MODEL = frozenset({"functionCall", "executableCode", "codeExecutionResult", "toolCall", "toolResponse"})
_TOOLS = frozenset(
    {
        "functionDeclarations", "googleSearch", "urlContext", "codeExecution", "googleMaps", "fileSearch",
        "computerUse", "mcpServers", "retrieval", "googleSearchRetrieval",
    }
)  # fmt: skip
_DECLARED = frozenset(
    {"name", "description", "parameters", "parametersJsonSchema", "response", "responseJsonSchema", "behavior"}
)
_OWN_TYPES = frozenset({"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"})
_OWN_KEYWORDS = frozenset(
    {
        "type", "format", "title", "description", "nullable", "default", "example", "enum", "items", "minItems",
        "maxItems", "properties", "required", "minProperties", "maxProperties", "propertyOrdering", "minimum",
        "maximum", "minLength", "maxLength", "pattern", "anyOf", "additionalProperties", "defs", "ref",
    }
)  # fmt: skip
_JSON_TYPES = frozenset({"string", "number", "integer", "boolean", "array", "object", "null"})
_JSON_KEYWORDS = frozenset(
    {
        "$id", "$defs", "$ref", "$anchor", "type", "format", "title", "description", "enum", "items", "prefixItems",
        "minItems", "maxItems", "minimum", "maximum", "anyOf", "oneOf", "properties", "additionalProperties",
        "required", "propertyOrdering",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemini:
    """What one family takes."""

    levels: frozenset[str] = frozenset()
    budget: tuple[int, int] | None = None
    """The least and the most; beside these -1, and 0 where the least is 0."""
    signs: bool = False
    """Whether calls of the current turn must come back with their signature."""
    media_in_results: bool = False
    ceiling: int = 65_536


_ALL_LEVELS = frozenset({"MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH"})
_FAMILIES: tuple[tuple[str, Gemini], ...] = (
    ("gemini-3-pro", Gemini(levels=frozenset({"LOW", "HIGH"}), signs=True, media_in_results=True)),
    ("gemini-3", Gemini(levels=_ALL_LEVELS, signs=True, media_in_results=True)),
    ("gemini-2.5-pro", Gemini(budget=(128, 32_768))),
    ("gemini-2.5-flash-lite", Gemini(budget=(512, 24_576))),
    ("gemini-2.5-flash", Gemini(budget=(0, 24_576))),
    ("gemini-2.0-", Gemini(ceiling=8192)),
)


def check_gemini(received: Received, *, allow: Collection[str] = ()) -> None:
    """Refuse what Google refuses; a request for embeddings is held to the rules for these.

    Args:
        received: A request as the upstream got it.
        allow: Names of rules that shall not count.

    Raises:
        Refused: It breaks a rule.
    """
    asked = Asked(received, _camelled(decoded(received.body)))
    for rule in EMBEDDING_RULES if received.path.endswith("EmbedContents") else GEMINI_RULES:
        if rule.name not in allow:
            for complaint in rule.judge(asked):
                raise Refused(rule.name, complaint)


def _camelled(value: Any) -> Any:
    if isinstance(value, list):
        return [_camelled(each) for each in value]
    if not isinstance(value, dict):
        return value
    made: JSONObject = {}
    for key, below in value.items():
        name = _GAP.sub(lambda gap: gap[1].upper(), key)
        if name in made:
            raise Refused("json", f"{name} is given in both spellings")
        made[name] = below if name in _OPAQUE else _camelled(below)
    return made


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────────


def _model(asked: Asked) -> str:
    found = _ADDRESS.fullmatch(asked.received.path)
    return found[1] if found else ""


def _family(asked: Asked) -> Gemini:
    name = _model(asked).rpartition("/")[2]
    return next((found for start, found in _FAMILIES if name.startswith(start)), Gemini(levels=_ALL_LEVELS))


def _objects(found: Any) -> list[JSONObject]:
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _contents(asked: Asked) -> list[JSONObject]:
    return _objects(asked.body.get("contents"))


def _parts(content: JSONObject) -> list[JSONObject]:
    return _objects(content.get("parts"))


def _role(content: JSONObject) -> Any:
    return content.get("role", "user")


def _all_parts(asked: Asked) -> Iterator[JSONObject]:
    """Every part in reading order, those of results included."""
    for content in [asked.body.get("systemInstruction") or {}, *_contents(asked)]:
        for part in _parts(content):
            yield part
            yield from _objects((part.get("functionResponse") or {}).get("parts"))


def _options(asked: Asked) -> JSONObject:
    return asked.body.get("generationConfig") or {}


def _functions(asked: Asked) -> list[JSONObject]:
    return [each for tool in asked.tools for each in tool.get("functionDeclarations") or []]


# ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _address(asked: Asked) -> Complaints:
    received = asked.received
    found = _ADDRESS.fullmatch(received.path)
    if received.method != "POST" or found is None:
        yield f"{received.method} {received.path}"
    elif found[2] == "streamGenerateContent" and received.query != "alt=sse":
        yield f"a stream with the query {received.query!r}"
    elif found[2] == "generateContent" and received.query:
        yield f"the query {received.query!r}"


def _credential(asked: Asked) -> Complaints:
    header = asked.received.header
    if not (header("x-goog-api-key") or "").startswith("sk-upstream"):
        yield "an unknown key"
    for foreign in ("authorization", "x-api-key", "cookie"):
        if header(foreign) is not None:
            yield f"{foreign} has no business here"


def _required(asked: Asked) -> Complaints:
    if not _contents(asked):
        yield "contents"
    for number, content in enumerate(_contents(asked)):
        if not _parts(content):
            yield f"contents[{number}].parts"


def _known_keys(asked: Asked) -> Complaints:
    yield from unknown(asked.body, _KEYS, "the request")
    yield from unknown(_options(asked), _OPTIONS, "generationConfig")
    yield from unknown(_options(asked).get("thinkingConfig") or {}, _THINKING, "thinkingConfig")
    for content in _contents(asked):
        yield from unknown(content, ("role", "parts"), "a content")
    for part in _all_parts(asked):
        yield from unknown(part, _BESIDE | _PAYLOADS.keys(), "a part")
        for name in _PAYLOADS.keys() - {"text"} & part.keys():
            yield from unknown(part[name], _PAYLOADS[name], name)
    for tool in asked.tools:
        yield from unknown(tool, _TOOLS, "a tool")
    for function in _functions(asked):
        yield from unknown(function, _DECLARED, "a function")
    config = asked.body.get("toolConfig") or {}
    yield from unknown(
        config, ("functionCallingConfig", "retrievalConfig", "includeServerSideToolInvocations"), "toolConfig"
    )


_THINKING = ("thinkingLevel", "thinkingBudget", "includeThoughts")


def _roles(asked: Asked) -> Complaints:
    for number, content in enumerate(_contents(asked)):
        yield from one_of(_role(content) or "", ("user", "model"), f"contents[{number}].role")
        for part in _parts(content):
            if _role(content) == "user":
                foreign = (_OF_MODEL | {"thought"}) & part.keys()
            else:
                foreign = frozenset({"functionResponse"}) & part.keys()
            if foreign:
                yield f"contents[{number}]: {sorted(foreign)} in a content of the {_role(content)}"


def _turns(asked: Asked) -> Complaints:
    roles = [_role(content) for content in _contents(asked)]
    if roles and roles[0] != "user":
        yield f"the first content is the {roles[0]}'s"
    for number, (before, role) in enumerate(pairwise(roles), start=1):
        # Results stand in a content of their own; what the user says then may follow them.
        held = _parts(_contents(asked)[number - 1])
        if before == role and not any("functionResponse" in part for part in held):
            yield f"contents[{number}] is the {role}'s, too"


def _one_payload(asked: Asked) -> Complaints:
    for part in _all_parts(asked):
        found = sorted(_PAYLOADS.keys() & part.keys())
        if len(found) > 1 or (not found and "thoughtSignature" not in part):
            yield f"a part holds {found}"
        if part.get("thought") and found != ["text"]:
            yield f"a thought that is {found}"


def _empty_text(asked: Asked) -> Complaints:
    for part in _all_parts(asked):
        if part.get("text") == "" and "thoughtSignature" not in part:
            yield "a part holds no text"


def _system(asked: Asked) -> Complaints:
    instruction = asked.body.get("systemInstruction")
    if instruction is not None:
        yield from unknown(instruction, ("role", "parts"), "systemInstruction")
        if not _parts(instruction) or any("text" not in part for part in _parts(instruction)):
            yield "systemInstruction holds something else than texts"


def _media(asked: Asked) -> Complaints:
    for part in _all_parts(asked):
        data, file = part.get("inlineData"), part.get("fileData")
        if data is not None:
            if not _MEDIA_TYPE.fullmatch(str(data.get("mimeType"))):
                yield f"inlineData of type {data.get('mimeType')!r}"
            if not _is_bytes(data.get("data")):
                yield "inlineData that is no base64"
        if file is not None and not str(file.get("fileUri")).startswith(_FETCHED):
            yield f"fileData at {file.get('fileUri')!r}"


def _is_bytes(text: object) -> bool:
    """Whether this is base64 in either alphabet, with or without padding."""
    standard = str(text).replace("-", "+").replace("_", "/").rstrip("=")
    return is_base64(standard + "=" * (-len(standard) % 4))


def _calls(asked: Asked) -> Complaints:
    for part in _all_parts(asked):
        for key, holds in (("functionCall", "args"), ("functionResponse", "response")):
            found = part.get(key)
            if found is None:
                continue
            if not _FUNCTION.fullmatch(str(found.get("name", ""))):
                yield f"a {key} of {found.get('name')!r}"
            if not isinstance(found.get(holds, {} if holds == "args" else None), dict):
                yield f"a {key} whose {holds} are no object"
    ids = [call["id"] for content in _contents(asked) for call in _of(content, "functionCall") if "id" in call]
    if len(set(ids)) < len(ids):
        yield f"calls share an id: {ids}"


def _of(content: JSONObject, key: str) -> list[JSONObject]:
    return [part[key] for part in _parts(content) if isinstance(part.get(key), dict)]


def _pairing(asked: Asked) -> Complaints:
    """As many responses as there were calls, in the next content, by their names and ids, and nothing before them."""
    waiting: list[tuple[Any, Any]] = []
    for number, content in enumerate(_contents(asked)):
        answered = [(each.get("id"), each.get("name")) for each in _of(content, "functionResponse")]
        if sorted(answered, key=str) != sorted(waiting, key=str):
            yield f"contents[{number}] answers {answered}, not {waiting}"
        if any("functionResponse" in part for part in _parts(content)[len(answered) :]):
            yield f"contents[{number}]: responses stand behind other parts"
        waiting = [(call.get("id"), call.get("name")) for call in _of(content, "functionCall")]
    if waiting:
        yield f"nothing answers {waiting}"


def _results(asked: Asked) -> Complaints:
    for content in _contents(asked):
        for result in _of(content, "functionResponse"):
            below = _objects(result.get("parts"))
            if below and not _family(asked).media_in_results:
                yield "this model takes no media in responses"
            if any(not {"inlineData", "fileData"} & part.keys() for part in below):
                yield "a response's parts hold something else than media"
        if _of(content, "functionResponse") and any(
            {"inlineData", "fileData"} & part.keys() for part in _parts(content)
        ):
            yield "media beside responses"


def _tools(asked: Asked) -> Complaints:
    names = [function.get("name") for function in _functions(asked)]
    if len(set(names)) < len(names):
        yield f"functions share a name: {names}"
    for tool in asked.tools:
        if not tool or ("functionDeclarations" in tool and not tool["functionDeclarations"]):
            yield "a tool that is none"
    for function in _functions(asked):
        if not _FUNCTION.fullmatch(str(function.get("name", ""))):
            yield f"a function named {function.get('name')!r}"
        if {"parameters", "parametersJsonSchema"} <= function.keys():
            yield "parameters and parametersJsonSchema"


def _mixed_tools(asked: Asked) -> Complaints:
    built_in = any(tool.keys() - {"functionDeclarations"} for tool in asked.tools)
    flag = (asked.body.get("toolConfig") or {}).get("includeServerSideToolInvocations")
    if built_in and _functions(asked) and flag is not True:
        yield "functions beside built-in tools need includeServerSideToolInvocations"


def _tool_choice(asked: Asked) -> Complaints:
    calling = (asked.body.get("toolConfig") or {}).get("functionCallingConfig")
    if calling is None:
        return
    if not _functions(asked):
        yield "functionCallingConfig without functions"
    yield from unknown(calling, ("mode", "allowedFunctionNames"), "functionCallingConfig")
    yield from one_of(calling.get("mode"), ("AUTO", "ANY", "NONE", "VALIDATED"), "functionCallingConfig.mode")
    allowed = calling.get("allowedFunctionNames")
    if allowed is not None and calling.get("mode") not in {"ANY", "VALIDATED"}:
        yield f"allowedFunctionNames with mode {calling.get('mode')!r}"
    for name in allowed or []:
        if name not in {function.get("name") for function in _functions(asked)}:
            yield f"{name!r} is not declared"


def _schemas(asked: Asked) -> Complaints:
    options = _options(asked)
    for function in _functions(asked):
        for key, root in (("parameters", "OBJECT"), ("parametersJsonSchema", "object")):
            schema = function.get(key)
            if schema is not None:
                yield from _schema_faults(schema, f"{function.get('name')}.{key}", own=key == "parameters")
                if not isinstance(schema, dict) or schema.get("type") != root:
                    yield f"{function.get('name')}.{key} is no object"
    if "responseSchema" in options:
        yield from _schema_faults(options["responseSchema"], "responseSchema", own=True)
    if "responseJsonSchema" in options:
        yield from _schema_faults(options["responseJsonSchema"], "responseJsonSchema", own=False)


def _schema_faults(schema: Any, place: str, *, own: bool) -> Complaints:
    """What Google's own schemas, or the JSON Schema that it documents, do not take."""
    if isinstance(schema, bool) and place.endswith("additionalProperties"):
        return
    if not isinstance(schema, dict):
        yield f"{place} is no schema"
        return
    if own:  # a message of protobuf's like any other
        schema = {_GAP.sub(lambda gap: gap[1].upper(), key): value for key, value in schema.items()}
    yield from unknown(schema, _OWN_KEYWORDS if own else _JSON_KEYWORDS, place)
    kind = schema.get("type")
    if kind is not None and (not isinstance(kind, str) or kind not in (_OWN_TYPES if own else _JSON_TYPES)):
        yield f"{place}.type is {kind!r}"
    if str(kind).lower() == "array" and not {"items", "prefixItems"} & schema.keys():
        yield f"{place} is an array of nothing"
    for value in schema.get("enum", []):
        if not isinstance(value, str) or not value:
            yield f"{place}.enum holds {value!r}"
    if "$ref" in schema and any(not key.startswith("$") for key in schema):
        yield f"{place} has something beside $ref"
    extra = schema.get("additionalProperties")
    below = [*subschemas(schema, place), *([(f"{place}.additionalProperties", extra)] if extra is not None else [])]
    for place_below, inner in below:
        yield from _schema_faults(inner, place_below, own=own)


def _thinking(asked: Asked) -> Complaints:
    config, family = _options(asked).get("thinkingConfig"), _family(asked)
    if config is None:
        return
    level, budget = config.get("thinkingLevel"), config.get("thinkingBudget")
    if level is not None and budget is not None:
        yield "thinkingLevel and thinkingBudget"
    if level is not None and level not in family.levels:
        yield f"this model takes no level {level!r}"
    if budget is not None:
        least, most = family.budget or (1, 0)
        if budget != -1 and not (least <= budget <= most):
            yield f"this model takes no budget of {budget}"


def _signatures(asked: Asked) -> Complaints:
    """Only state that Google made may come back to it; in these tests its bytes start with `gemini-`."""
    for part in _all_parts(asked):
        signature = part.get("thoughtSignature")
        if signature is None or signature in STAND_INS:
            continue
        if not _is_bytes(signature):
            yield f"a thoughtSignature that is no base64: {signature[:40]!r}"
        elif not _bytes(signature).startswith(b"gemini-"):
            yield f"corrupted thought signature: {signature[:40]!r}"


def _bytes(text: str) -> bytes:
    standard = text.replace("-", "+").replace("_", "/").rstrip("=")
    return b64decode(standard + "=" * (-len(standard) % 4))


def _lost_signature(asked: Asked) -> Complaints:
    """The first call of each step of the current turn carries its signature."""
    if not _family(asked).signs:
        return
    current: list[JSONObject] = []
    for content in _contents(asked):
        said = _role(content) == "user" and any("functionResponse" not in part for part in _parts(content))
        current = [] if said else [*current, content]
    for content in current:
        calls = [part for part in _parts(content) if "functionCall" in part]
        if calls and "thoughtSignature" not in calls[0]:
            yield f"the call of {calls[0]['functionCall'].get('name')!r} has no thought_signature"


def _numbers(asked: Asked) -> Complaints:
    options = _options(asked)
    yield from within(options.get("temperature"), 0, 2, "temperature")
    yield from within(options.get("topP"), 0, 1, "topP")
    yield from within(options.get("topK"), 1, 1000, "topK")
    yield from within(options.get("candidateCount"), 1, 8, "candidateCount")
    yield from within(options.get("maxOutputTokens"), 1, _family(asked).ceiling, "maxOutputTokens")
    yield from within(options.get("seed"), -(2**31), 2**31 - 1, "seed")
    yield from within(options.get("presencePenalty"), -2, 2, "presencePenalty")
    yield from within(options.get("frequencyPenalty"), -2, 2, "frequencyPenalty")
    yield from within(options.get("logprobs"), 0, 20, "logprobs")
    if "logprobs" in options and options.get("responseLogprobs") is not True:
        yield "logprobs without responseLogprobs"


def _stops(asked: Asked) -> Complaints:
    stops = _options(asked).get("stopSequences")
    if stops is not None and (not isinstance(stops, list) or len(stops) > 5 or not all(stops)):
        yield f"stopSequences is {stops!r}"


def _output_format(asked: Asked) -> Complaints:
    options = _options(asked)
    given = {"responseSchema", "responseJsonSchema"} & options.keys()
    if len(given) > 1:
        yield "two schemas for the answer"
    if given and options.get("responseMimeType") not in {"application/json", "text/x.enum"}:
        yield f"a schema for {options.get('responseMimeType')!r}"
    if options.get("responseMimeType") == "application/json" and asked.tools and _model(asked).startswith("gemini-2."):
        yield "Function calling with a response mime type: 'application/json' is unsupported"
    yield from one_of(
        options.get("responseMimeType"), ("text/plain", "application/json", "text/x.enum"), "responseMimeType"
    )


def _words(asked: Asked) -> Complaints:
    yield from one_of(asked.body.get("serviceTier"), ("unspecified", "flex", "standard", "priority"), "serviceTier")
    for word in _options(asked).get("responseModalities") or []:
        yield from one_of(word, ("TEXT", "IMAGE", "AUDIO", "VIDEO"), "responseModalities")
    for part in _all_parts(asked):
        level = (part.get("mediaResolution") or {}).get("level")
        known = [f"MEDIA_RESOLUTION_{word}" for word in ("LOW", "MEDIUM", "HIGH", "ULTRA_HIGH")]
        yield from one_of(level, known, "mediaResolution.level")


# ── embeddings ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _embedding_address(asked: Asked) -> Complaints:
    received = asked.received
    if received.method != "POST" or received.query or not _EMBEDDING_ADDRESS.fullmatch(received.path):
        yield f"{received.method} {received.path}?{received.query}"


def _embedding_requests(asked: Asked) -> Complaints:
    requests = _objects(asked.body.get("requests"))
    yield from unknown(asked.body, ("requests",), "the request")
    if not 1 <= len(requests) <= 100:
        yield f"{len(requests)} requests"
    for request in requests:
        yield from unknown(request, ("model", "content", "taskType", "title", "outputDimensionality"), "a request")
        texts = [part.get("text") for part in _parts(request.get("content") or {})]
        if not texts or not all(texts):
            yield f"a request with the texts {texts}"


def _embedding_model(asked: Asked) -> Complaints:
    found = _EMBEDDING_ADDRESS.fullmatch(asked.received.path)
    for request in _objects(asked.body.get("requests")):
        if found and request.get("model") != f"models/{found[1]}":
            yield f"the model {request.get('model')!r} at the address of {found[1]!r}"


Table = tuple[tuple[str, Callable[[Asked], Complaints]], ...]
_TABLE: Table = (
    ("address", _address),
    ("credential", _credential),
    ("required", _required),
    ("unknown-keyword", _known_keys),
    ("roles", _roles),
    ("turns", _turns),
    ("one-payload", _one_payload),
    ("empty-text", _empty_text),
    ("system", _system),
    ("media", _media),
    ("calls", _calls),
    ("pairing", _pairing),
    ("results", _results),
    ("tools", _tools),
    ("mixed-tools", _mixed_tools),
    ("tool-choice", _tool_choice),
    ("schemas", _schemas),
    ("thinking", _thinking),
    ("signatures", _signatures),
    ("lost-signature", _lost_signature),
    ("numbers", _numbers),
    ("stops", _stops),
    ("output-format", _output_format),
    ("words", _words),
)
GEMINI_RULES = tuple(Rule(name, judge) for name, judge in _TABLE)
_EMBEDDING_TABLE: Table = (
    ("address", _embedding_address),
    ("credential", _credential),
    ("requests", _embedding_requests),
    ("model", _embedding_model),
)
EMBEDDING_RULES = tuple(Rule(name, judge) for name, judge in _EMBEDDING_TABLE)
