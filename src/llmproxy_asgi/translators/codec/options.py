"""Options of requests as data: one table for each protocol, which decodes callers' requests and encodes upstreams'.

A `Rule` connects an option of the conversation (`sampling.top_k`) with its field of the wire (`generationConfig.topK`).
An option without a rule does not exist in that protocol: it becomes a warning. Functions named in a rule do what data
can't express. Tables are compiled at import; a request costs only the options that it has.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from operator import attrgetter, is_not
from typing import Annotated, Any, Final, TypeAlias

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
"""Differs from every value."""


# ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Form:
    """The form of a value on the wire."""

    decode: Decode
    encode: Callable[[Any], Any] | None = None
    """Returns None for a value that the protocol lacks; if absent, values are sent as they are."""
    bounds: tuple[float, float] | None = None
    """Other numbers are clamped to these for upstreams."""
    type: Any = None
    """The type of valid values for `msgspec`, which reads them faster than `decode`."""
    mapping: Mapping[str, Any] | None = None
    """The meaning of words."""


def number(low: float, high: float) -> Form:
    """Return the form of a number within inclusive bounds."""
    checked = Annotated[float, msgspec.Meta(ge=low, le=high)]
    return Form(lambda node, _: node.number(low, high), bounds=(float(low), float(high)), type=checked)


def integer(low: int | None = None, high: int | None = None) -> Form:
    """Return the form of a whole number within inclusive bounds, for callers only: upstreams check their own."""
    return Form(lambda node, _: node.integer(low, high), type=Annotated[int, msgspec.Meta(ge=low, le=high)])


def words(mapping: Mapping[str, Any]) -> Form:
    """One of some words; of several with one meaning, the first is sent."""
    known = tuple(mapping)
    sent: dict[Any, str] = {}
    for word, value in mapping.items():
        sent.setdefault(value, word)
    return Form(lambda node, _: mapping[node.choice(known)], sent.get, type=str, mapping=mapping)


TEXT = Form(lambda node, _: node.text() or None, type=str)
"""A string; an empty one is not set."""
BOOLEAN = Form(lambda node, _: node.boolean(), type=bool)
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
    """Instead of `form`; called once for an option with several fields, which it finds with `Decoding.get`."""
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


def within(name: str, *rules: Rule) -> Iterable[Rule]:
    """Return rules whose fields are in an object."""
    return (replace(rule, wire=tuple(f"{name}.{wire}" for wire in rule.wires)) for rule in rules)


def ELSEWHERE(_value: Any, _encoding: "Encoding") -> None:  # noqa: N802 -- a mark in tables
    """Mark an option that another rule encodes."""


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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

    def arguments(self, protocol: str) -> dict[str, Any]:
        """Return the arguments of `ir.Request`."""
        found: dict[str, Any] = {"extras": {protocol: self.extras}} if self.extras else {}
        groups: dict[str, dict[str, Any]] = {}
        for option, value in self.values.items():
            group, _, name = option.rpartition(".")
            (groups.setdefault(group, {}) if group else found)[name] = value
        for group, values in groups.items():
            if group not in found:
                found[group] = _GROUPS[group](**values)
        return found


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


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Table:
    """The options of one protocol.

    Args:
        protocol: Its name.
        rules: In the order in which they are encoded.
        beside: The top-level fields that are decoded elsewhere.
        unwarned: Options without a rule that are dropped without a warning.
        node: How values are read.
        other: Returns the other spelling of a field; `spell` returns the first one.
        spell: Returns a field in the spelling of the rules.
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
        other: Callable[[str], str] = str,
        spell: Callable[[str], str] = str,
        forgets: Collection[str] = (),
    ) -> None:
        rules = tuple(rules)
        self._protocol = protocol
        self._node = node
        self._spell = spell
        self._fields: dict[str, Any] = {}
        for name in beside:
            self._fields[name] = self._fields[other(name)] = None
        for rule, wire in ((each, wire) for each in rules for wire in each.wires if each.decode or each.form):
            parent, _, name = wire.rpartition(".")
            fields = self._fields
            if parent:
                fields = fields.setdefault(parent, _Object(parent, {}, keeps=parent not in forgets)).fields
                self._fields[other(parent)] = self._fields[parent]
            fields[name] = fields[other(name)] = _Field(rule, wire)
        self.known = frozenset(self._fields)
        """The top-level fields that this protocol's requests are decoded from."""
        has = {rule.option for rule in rules}.union(unwarned)
        lacks = [Rule(option) for option in _ALL if option not in has and option.partition(".")[0] not in has]
        encoded = [rule for rule in (*lacks, *rules) if _encodes(rule)]
        self._values = attrgetter(*(rule.option for rule in encoded))
        self._defaults = tuple(_ALWAYS if rule.always else _default(rule) for rule in encoded)
        self._encoders = [_Encoder(rule) for rule in encoded]
        self._indices = range(len(encoded))
        self._refusals = [(attrgetter(each.option), _default(each), each.refuse) for each in rules if each.refuse]

    def decode(self, raw: Raw) -> dict[str, Any]:
        """Decode a caller's options and extras: the arguments of `ir.Request`.

        Raises:
            BadRequest: A field is invalid; `param` names it.
        """
        decoding = Decoding(raw, self._node)
        fields = self._fields
        for key, found in raw.items():
            field = fields.get(key, _UNKNOWN)
            if field is None or (field.read is not None and field.take(found, decoding.values)):
                continue
            node = self._node.of(raw, key)
            if node is None:
                continue
            if type(field) is _Field:
                field.decode(node, decoding)
            elif field is _UNKNOWN:
                decoding.extras[self._spell(key)] = node.value
            else:
                self._decode_object(field, node, decoding)
        return decoding.arguments(self._protocol)

    def _decode_object(self, found: "_Object", node: Node, decoding: Decoding) -> None:
        decoding.objects[found.name] = node
        rest: JSONObject = {}
        for key, value in node.object().items():
            field = found.fields.get(key)
            if value is None:
                continue
            if field is None:
                rest[self._spell(key)] = value
            elif field.bounds is not None and type(value) is float and field.bounds[0] <= value <= field.bounds[1]:
                decoding.values[field.option] = value
            else:
                field.decode(node.need(self._spell(key)), decoding)
        if found.keeps:
            decoding.keep(found.name, rest)

    def refuse(self, request: ir.Request, capabilities: Capabilities) -> None:
        """Refuse options that can't be dropped without changing the response.

        Raises:
            Unsupported: The request has such an option; `param` names it.
        """
        refuse_missing_part(request, self._protocol)
        for get, unset, refuse in self._refusals:
            value = get(request)
            if value is not unset and (refusal := refuse(value, request, capabilities)) is not None:
                raise refusal

    def encode(self, encoding: Encoding) -> JSONObject:
        """Encode all options, and return their fields.

        Raises:
            Unsupported: As `refuse`.
        """
        fields, losses = encoding.fields, encoding.losses
        values, defaults = self._values(encoding.request), self._defaults
        for index in compress(self._indices, map(is_not, values, defaults)):  # most options are not set
            value, encoder = values[index], self._encoders[index]
            if value == defaults[index]:
                continue
            if encoder.accepts is not None and not encoder.accepts(encoding):
                losses.add(encoder.dropped)
                continue
            sent = value
            if encoder.special is not None:
                sent = encoder.special(value, encoding)
            elif encoder.convert is not None and (sent := encoder.convert(value)) is None:
                losses.add(encoder.dropped)
            elif encoder.bounds is not None and not encoder.bounds[0] <= value <= encoder.bounds[1]:
                sent = encoder.bounds[value > encoder.bounds[0]]
                losses.add(encoder.clamped)
            if sent is not None:
                (fields.setdefault(encoder.parent, {}) if encoder.parent else fields)[encoder.name] = sent
        return fields


class _Field:
    """A rule, compiled for one of its fields."""

    __slots__ = ("_decode", "_first", "_mapping", "_wires", "bounds", "option", "read")

    def __init__(self, rule: Rule, wire: str) -> None:
        form = rule.form
        self.option = rule.option
        self.bounds = form.bounds if form and not rule.decode else None
        self.read = msgspec.json.Decoder(form.type).decode if form and form.type and not rule.decode else None
        self._decode: Any = rule.decode or (form.decode if form else None)
        self._mapping = form.mapping if form else None
        self._first = wire == rule.wires[0]
        self._wires = rule.wires if rule.decode and len(rule.wires) > 1 else (wire,)

    def take(self, found: msgspec.Raw, values: dict[str, Any]) -> bool:
        """Take a valid value; return False for another one."""
        assert self.read is not None
        try:
            value = self.read(found)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return False
        if self._mapping is not None:
            value = self._mapping.get(value)
        if value is None or value == "":
            return False
        if self._first or self.option not in values:
            values[self.option] = value
        return True

    def decode(self, node: Any, decoding: Decoding) -> None:
        """Decode a node; of an option with several fields and a function, only once."""
        values = decoding.values
        if self.option in values and (len(self._wires) > 1 or not self._first):
            return
        for wire in self._wires:
            found = node if len(self._wires) == 1 else decoding.get(wire)
            value = self._decode(found, decoding) if found is not None else None
            if value is not None:
                values[self.option] = value
                return


class _Object:
    """An object that holds options."""

    __slots__ = ("fields", "keeps", "name")
    read = None

    def __init__(self, name: str, fields: dict[str, _Field], *, keeps: bool) -> None:
        self.name = name
        self.fields = fields
        self.keeps = keeps


_UNKNOWN: Final = _Object("", {}, keeps=False)


class _Encoder:
    """A rule, compiled for upstreams."""

    __slots__ = ("accepts", "bounds", "clamped", "convert", "dropped", "name", "parent", "special")

    def __init__(self, rule: Rule) -> None:
        form, name = rule.form, _NAMES.get(rule.option, rule.option.rpartition(".")[2])
        self.accepts = attrgetter(f"capabilities.{rule.needs}") if isinstance(rule.needs, str) else rule.needs
        self.special = rule.encode
        self.convert = form.encode if form else _nothing
        self.bounds = form.bounds if form else None
        self.dropped, self.clamped = f"dropped:{name}", f"clamped:{name}"
        self.parent, _, self.name = (rule.wires or ("",))[0].rpartition(".")


def _encodes(rule: Rule) -> bool:
    return rule.encode is not ELSEWHERE and bool(rule.encode or rule.form or not (rule.decode or rule.refuse))


def _default(rule: Rule) -> Any:
    return attrgetter(rule.option)(_DEFAULTS)


def _nothing(_: Any) -> None:
    """Encode an option that the protocol lacks."""


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
        native = list(filter(accepts, stops))[:most] if encoding.capabilities.stops else []
        if len(native) < len(stops):
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
    if wanted in encoding.capabilities.efforts and wanted in levels:
        return wanted
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


def stored_response(wanted: str, _: ir.Request, __: Capabilities) -> Unsupported | None:
    """Refuse the continuation of a stored response."""
    return refusals.no_stored_responses() if wanted else None
