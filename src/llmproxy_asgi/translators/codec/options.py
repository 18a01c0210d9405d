"""Options of requests as data: one table for each protocol, which decodes callers' requests and encodes upstreams'.

A `Rule` connects an option of the conversation (`sampling.top_k`) with its field of the wire (`generationConfig.topK`).
An option without a rule does not exist in that protocol: it becomes a warning. Functions named in a rule do what data
can't express. Tables are compiled at import; a request costs only the options that it has.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, TypeAlias

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.capabilities import EFFORTS, Capabilities, Effort
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import Unsupported
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.efforts import effort_of_budget, nearest_effort
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.losses import Losses, refuse_missing_part
from llmproxy_asgi.translators.stop_sequences import emulate_stops
from llmproxy_asgi.translators.tool_choices import plain_choice

Raw: TypeAlias = Mapping[str, msgspec.Raw]
Decode: TypeAlias = Callable[[Any, "Decoding"], Any]
"""Returns the option's value for a node; None: not set."""
Encode: TypeAlias = Callable[[Any, "Encoding"], Any]
"""Returns the wire's value for the option's value; None: nothing to send, or it is in `Encoding.fields` already."""
Refuse: TypeAlias = Callable[[Any, ir.Request, Capabilities], Unsupported | None]
"""Returns the refusal of an option's value."""

_DEFAULTS: Final = ir.Request(protocol="", model="", messages=())
_BESIDE_OPTIONS = frozenset(
    {"protocol", "model", "messages", "tools", "tool_choice", "stream", "include_usage", "version", "betas", "extras"}
)
_FORMAT_DETAILS = frozenset({"output.name", "output.description", "output.schema", "output.strict"})
_GROUPS: Final = {
    name: type(value)
    for name in ir.Request.__struct_fields__
    if name not in _BESIDE_OPTIONS and isinstance(value := getattr(_DEFAULTS, name), ir.Record)
}
"""The options that consist of options."""
_ALL: Final = tuple(
    option
    for name in ir.Request.__struct_fields__
    if name not in _BESIDE_OPTIONS
    for option in ([f"{name}.{each}" for each in _GROUPS[name].__struct_fields__] if name in _GROUPS else [name])
    if option not in _FORMAT_DETAILS
)
_NAMES: Final = {"max_output_tokens": "max_tokens", "candidates": "n"}
"""Options that warnings name differently."""
_ALWAYS: Final = object()


@dataclass(frozen=True, slots=True)
class Form:
    """The form of a value on the wire."""

    decode: Decode
    encode: Callable[[Any], Any]
    """Returns the nearest value that the protocol has; None: it has none."""
    clamps: bool = False


def number(low: float, high: float) -> Form:
    """A number within inclusive bounds."""

    def decode(node: Node, _: "Decoding") -> float:
        value = node.value
        return value if type(value) is float and low <= value <= high else node.number(low, high)

    return Form(decode, lambda value: min(max(value, low), high), clamps=True)


def integer(low: int | None = None, high: int | None = None) -> Form:
    """A whole number within inclusive bounds; those of callers only, because upstreams check their own."""
    return Form(lambda node, _: node.integer(low, high), lambda value: value)


def words(mapping: Mapping[str, Any]) -> Form:
    """One of some words; of several with one meaning, the first is sent."""
    known = tuple(mapping)
    sent: dict[Any, str] = {}
    for word, value in mapping.items():
        sent.setdefault(value, word)
    return Form(lambda node, _: mapping[node.choice(known)], sent.get)


TEXT = Form(lambda node, _: node.text() or None, lambda value: value)
"""A string; an empty one is not set."""
BOOLEAN = Form(lambda node, _: node.boolean(), lambda value: value)
TEXTS = Form(lambda node, _: tuple(entry.text() for entry in node.array()), list)
EFFORT = words({effort: effort for effort in EFFORTS})
METADATA = Form(lambda node, _: {key: value.text() for key, value in node.items()}, dict)


@dataclass(frozen=True, slots=True)
class Rule:
    """An option and its field."""

    option: str
    """Its path in `ir.Request`; a group, such as `reasoning`, stands for all options in it."""
    wire: str | tuple[str, ...] = ()
    """The field's path, at most one object deep. Of several, the first that a request has counts; the first is sent."""
    form: Form | None = None
    needs: str | Callable[["Encoding"], bool] | None = None
    """The capability without which the option is dropped with a warning."""
    decode: Decode | None = None
    """Instead of `form`."""
    encode: Encode | None = None
    """Instead of `form`."""
    refuse: Refuse | None = None
    """Refuses values before anything is encoded."""
    always: bool = False
    """Whether `encode` is called without a value too."""

    @property
    def wires(self) -> tuple[str, ...]:
        """Return the paths of its fields."""
        return (self.wire,) if isinstance(self.wire, str) else self.wire

    @property
    def name(self) -> str:
        """Return the name in warnings."""
        return _NAMES.get(self.option, self.option.rpartition(".")[2])


class Decoding:
    """The options of one caller's request."""

    __slots__ = ("_node", "extras", "objects", "raw", "values")

    def __init__(self, raw: Raw, node: type[Node]) -> None:
        self.raw = raw
        self.values: dict[str, Any] = {}
        """By option. A group wins against the options in it."""
        self.extras: JSONObject = {}
        """Fields without an option."""
        self.objects: dict[str, Any] = {}
        """The nodes of objects that hold options, by name."""
        self._node = node

    def get(self, wire: str) -> Any:
        """Return the node of a field at the top level or in the object being read; None if absent or null."""
        parent, _, name = wire.rpartition(".")
        return self.objects[parent].get(name) if parent else self._node.of(self.raw, name)

    def keep(self, parent: str, fields: JSONObject) -> None:
        """Keep fields of an object that have no option."""
        if fields:
            self.extras[parent] = {**self.extras.get(parent, {}), **fields}


class Encoding:
    """The options of one request to an upstream.

    Args:
        request: The request.
        capabilities: What its model supports.
        losses: Receives the warnings.
        messages: The encoded messages.
    """

    __slots__ = ("capabilities", "fields", "instruction", "losses", "messages", "request", "stop")

    def __init__(
        self, request: ir.Request, capabilities: Capabilities, losses: Losses, messages: Sequence[JSONObject] = ()
    ) -> None:
        self.request = request
        self.capabilities = capabilities
        self.losses = losses
        self.messages = messages
        self.fields: JSONObject = {}
        self.instruction: str | None = None
        """The response format in words, for an upstream that does not support it."""
        self.stop: tuple[str, ...] = ()
        """The stop sequences that the gateway emulates."""

    def put(self, wire: str, value: Any) -> None:
        """Set a field."""
        parent, _, name = wire.rpartition(".")
        (self.fields.setdefault(parent, {}) if parent else self.fields)[name] = value

    @property
    def supports_format(self) -> bool:
        """Return whether a response format may be requested: some models refuse that with tools."""
        return self.capabilities.format_with_tools or not self.request.tools


class Table:
    """The options of one protocol.

    Args:
        protocol: Its name.
        rules: In the order in which they are encoded.
        beside: The top-level fields that are decoded elsewhere.
        unwarned: Options without a rule that are dropped without a warning.
        node: How values are read.
        spell: Returns a key in the spelling of the rules.
        forgets: Objects whose unknown members are not kept.
    """

    def __init__(
        self,
        protocol: str,
        rules: Iterable[Rule],
        *,
        beside: Iterable[str],
        unwarned: Collection[str] = (),
        node: type[Node] = Node,
        spell: Callable[[str], str] | None = None,
        forgets: Collection[str] = (),
    ) -> None:
        rules = tuple(rules)
        self._protocol = protocol
        self._node = node
        self._spell = spell
        self._forgets = forgets
        self._readers: dict[str, Any] = dict.fromkeys(beside)
        for rule in rules:
            decode = rule.decode or (rule.form.decode if rule.form else None)
            for wire in rule.wires if decode else ():
                parent, _, name = wire.rpartition(".")
                readers = self._readers.setdefault(parent, {}) if parent else self._readers
                readers[name] = (rule.option, decode, rule.wires if len(rule.wires) > 1 else None)
        self.known = frozenset(self._readers)
        """The top-level fields that this protocol's requests are decoded from."""
        self._refusals = [
            (attrgetter(rule.option), _default(rule.option), rule.refuse) for rule in rules if rule.refuse
        ]
        has = {rule.option for rule in rules} | set(unwarned)
        lacks = [Rule(option) for option in _ALL if option not in has and option.partition(".")[0] not in has]
        encoded = [(rule, encode) for rule in (*lacks, *rules) if (encode := _encoder(rule)) is not None]
        self._values = attrgetter(*(rule.option for rule, _ in encoded))
        self._encoders = [(_ALWAYS if rule.always else _default(rule.option), encode) for rule, encode in encoded]

    def decode(self, raw: Raw) -> dict[str, Any]:
        """Decode a caller's options and extras: the arguments of `ir.Request`.

        Raises:
            BadRequest: A field is invalid; `param` names it.
        """
        decoding = Decoding(raw, self._node)
        readers, spell = self._readers, self._spell
        for key in raw:
            name = spell(key) if spell else key
            reader = readers.get(name, ())
            if reader is None:
                continue
            node = self._node.of(raw, key)
            if node is None:
                continue
            if type(reader) is dict:
                self._decode_object(name, reader, node, decoding)
            elif reader:
                _read(reader, node, decoding)
            else:
                decoding.extras[name] = node.value
        return self._assembled(decoding)

    def _decode_object(self, name: str, readers: Mapping[str, Any], node: Node, decoding: Decoding) -> None:
        spell = self._spell
        decoding.objects[name] = node
        rest: JSONObject = {}
        for key, value in node.object().items():
            if value is None:
                continue
            inner = spell(key) if spell else key
            reader = readers.get(inner)
            if reader is not None:
                _read(reader, node.need(inner), decoding)
            else:
                rest[inner] = value
        if name not in self._forgets:
            decoding.keep(name, rest)

    def _assembled(self, decoding: Decoding) -> dict[str, Any]:
        found: dict[str, Any] = {}
        groups: dict[str, dict[str, Any]] = {}
        for option, value in decoding.values.items():
            group, _, name = option.rpartition(".")
            (groups.setdefault(group, {}) if group else found)[name] = value
        for group, values in groups.items():
            if group not in found:
                found[group] = _GROUPS[group](**values)
        if decoding.extras:
            found["extras"] = {self._protocol: decoding.extras}
        return found

    def refuse(self, request: ir.Request, capabilities: Capabilities) -> None:
        """Refuse options that can't be dropped without changing the response.

        Raises:
            Unsupported: The request has such an option; `param` names it.
        """
        refuse_missing_part(request, self._protocol)
        for get, unset, refuse in self._refusals:
            value = get(request)
            if value != unset and (refusal := refuse(value, request, capabilities)) is not None:
                raise refusal

    def encode(self, encoding: Encoding) -> JSONObject:
        """Encode all options, and return their fields.

        Raises:
            Unsupported: As `refuse`.
        """
        for value, (unset, encode) in zip(self._values(encoding.request), self._encoders, strict=True):
            if value != unset:
                encode(value, encoding)
        return encoding.fields


def _read(reader: tuple[str, Decode, tuple[str, ...] | None], node: Node, decoding: Decoding) -> None:
    option, decode, wires = reader
    if wires is None:
        value = decode(node, decoding)
        if value is not None:
            decoding.values[option] = value
    elif option not in decoding.values:
        for wire in wires:
            found = decoding.get(wire)
            value = decode(found, decoding) if found is not None else None
            if value is not None:
                decoding.values[option] = value
                return


def _default(option: str) -> Any:
    return attrgetter(option)(_DEFAULTS)


def _encoder(rule: Rule) -> Callable[[Any, Encoding], None] | None:
    """Return the encoder of a rule; None for one that only decodes or refuses."""
    wire, dropped, clamped = (rule.wires or ("",))[0], f"dropped:{rule.name}", f"clamped:{rule.name}"
    parent, _, name = wire.rpartition(".")
    taken = attrgetter(f"capabilities.{rule.needs}") if isinstance(rule.needs, str) else rule.needs
    special, form = rule.encode, rule.form
    if special is ELSEWHERE or (special is None and form is None and (rule.decode or rule.refuse)):
        return None

    def encode(value: Any, encoding: Encoding) -> None:
        if taken is not None and not taken(encoding):
            encoding.losses.add(dropped)
            return
        if special is not None:
            sent = special(value, encoding)
        elif form is None or (sent := form.encode(value)) is None:
            encoding.losses.add(dropped)
            return
        elif form.clamps and sent != value:
            encoding.losses.add(clamped)
        if sent is not None:
            (encoding.fields.setdefault(parent, {}) if parent else encoding.fields)[name] = sent

    return encode


def ELSEWHERE(_value: Any, _encoding: Encoding) -> None:  # noqa: N802 -- a mark in tables
    """Mark an option that another rule encodes."""


# ── functions for rules ──────────────────────────────────────────────────────────────────────────────────────────────


def limit(wanted: int, encoding: Encoding, least: int = 1) -> int:
    """Encode the maximum of output tokens, within what the model and the vendor accept."""
    ceiling = encoding.capabilities.max_output_tokens
    sent = max(wanted, least) if ceiling is None else min(max(wanted, least), ceiling)
    if sent != wanted:
        encoding.losses.add("clamped:max_tokens")
    return sent


def stops(most: int | None = None, accepts: Callable[[str], Any] = bool) -> Encode:
    """Return the encoder of stop sequences: the upstream applies what it can, and the gateway the others.

    Args:
        most: The number that the vendor accepts; None: any.
        accepts: Whether the vendor accepts a sequence.
    """

    def encode(wanted: Sequence[str], encoding: Encoding) -> list[str] | None:
        stops = list(dict.fromkeys(filter(None, wanted)))
        native = [stop for stop in stops if accepts(stop)][:most] if encoding.capabilities.stops else []
        encoding.stop = emulate_stops([stop for stop in stops if stop not in native], encoding.losses)
        return native or None

    return encode


def requested_effort(options: ir.ReasoningOptions) -> Effort | None:
    """Return the requested effort, maybe that of a budget; None if the model decides, or if nothing is requested."""
    if options.effort is not None or options.budget_tokens is None:
        return options.effort
    return effort_of_budget(options.budget_tokens)


def effort(wanted: Effort, encoding: Encoding, levels: Sequence[Effort] = EFFORTS) -> Effort:
    """Return the effort nearest below the wanted one that the model and the vendor's field have, else their lowest."""
    offered = tuple(level for level in encoding.capabilities.efforts if level in levels)
    nearest = nearest_effort(wanted, offered or tuple(levels)) or wanted
    if nearest != wanted:
        encoding.losses.add("clamped:reasoning_effort")
    return nearest


JSON_LINE: Final = "Answer with one JSON object and nothing else."
_SCHEMA_LINE: Final = "Answer with one JSON value and nothing else. It must satisfy this JSON Schema:\n"


def describe_format(encoding: Encoding) -> None:
    """Ask for the response format in words, because the upstream does not support it."""
    output = encoding.request.output
    schema = msgspec.json.encode(output.schema or {}).decode()
    encoding.instruction = JSON_LINE if output.kind == "json" else _SCHEMA_LINE + schema
    encoding.losses.add("emulated:response_format")


def tool_choice(request: ir.Request, losses: Losses, *, can_force: bool) -> ir.ToolChoice:
    """Return the tool choice as the model supports it.

    Args:
        request: The request.
        losses: Receives the warning.
        can_force: Whether the model can be forced to call a tool.
    """
    choice = plain_choice(request)
    if choice.mode != "required" or can_force:
        return choice
    losses.add("downgraded:tool_choice")
    return msgspec.structs.replace(choice, mode="auto", given=True)


def no_tokens(wanted: int, request: ir.Request, _: Capabilities) -> Unsupported | None:
    """Refuse a response without tokens: a way to fill a cache, which only Anthropic has."""
    return refusals.empty_response(request.model) if wanted < 1 else None


def several_candidates(_: int, request: ir.Request, __: Capabilities) -> Unsupported:
    """Refuse several candidates."""
    return refusals.single_candidate(request.model)


def outputs(*accepted: str) -> Refuse:
    """Return the refusal of output of other kinds than these, and of audio where the model makes none."""

    def refuse(wanted: Sequence[str], request: ir.Request, capabilities: Capabilities) -> Unsupported | None:
        for kind in sorted(wanted):
            if kind not in accepted or (kind == "audio" and not capabilities.audio):
                return refusals.unsupported_output(request.model, kind)
        return None

    return refuse


def stored_response(_: str, __: ir.Request, ___: Capabilities) -> Unsupported:
    """Refuse the continuation of a stored response."""
    return refusals.no_stored_responses()
