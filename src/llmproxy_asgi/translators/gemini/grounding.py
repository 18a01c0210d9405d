"""Where an answer's words come from: Google counts UTF-8 bytes within a part, we count code points within a text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from llmproxy_asgi.conversation import (
    EMPTY,
    Citation,
    JSONObject,
    Part,
    SearchHit,
    ServerToolCall,
    ServerToolResult,
)
from llmproxy_asgi.translators.gemini.schema import PROTOCOL

_SOURCES: Mapping[str, str] = {"web": "url", "retrievedContext": "document", "maps": "place", "image": "url"}


class Found(msgspec.Struct, frozen=True):
    """A citation, and the bytes of the whole answer's text that it is about."""

    start: int
    end: int
    citation: Citation


def decode_grounding(
    grounding: JSONObject | None, recitation: JSONObject | None, starts: Mapping[int, int]
) -> Iterator[Found]:
    """All citations of one candidate; what cannot be read is passed over.

    Args:
        grounding: `groundingMetadata`.
        recitation: `citationMetadata`.
        starts: Part number to the byte of the whole text where that part begins.
    """
    chunks = _rows(grounding, "groundingChunks")
    for support in _rows(grounding, "groundingSupports"):
        segment = support.get("segment")
        if not isinstance(segment, dict):
            continue
        base = starts.get(_count(segment, "partIndex"), 0)
        words = segment.get("text")
        indices = support.get("groundingChunkIndices")
        for index in indices if isinstance(indices, list) else ():
            if type(index) is not int or not 0 <= index < len(chunks):
                continue
            citation = _source(chunks[index], words if isinstance(words, str) else None)
            if citation is not None:
                yield Found(base + _count(segment, "startIndex"), base + _count(segment, "endIndex"), citation)
    for entry in _rows(recitation, "citations") or _rows(recitation, "citationSources"):
        address = entry.get("uri")
        if isinstance(address, str) and address:
            title, licence = entry.get("title"), entry.get("license")
            citation = Citation(
                url=address,
                title=title if isinstance(title, str) and title else None,
                extras={PROTOCOL: {"license": licence}} if licence else EMPTY,
            )
            yield Found(_count(entry, "startIndex"), _count(entry, "endIndex"), citation)


def searches(grounding: JSONObject | None) -> int:
    """How often the upstream searched the web."""
    queries = grounding.get("webSearchQueries") if grounding else None
    return len(queries) if isinstance(queries, list) else 0


def searched(grounding: JSONObject | None, call_id: str) -> list[Part]:
    """The upstream's searches as calls, each with its result; which query found what is not told, so the first has all.

    Args:
        grounding: `groundingMetadata`.
        call_id: What the ids of the calls begin with.
    """
    queries = grounding.get("webSearchQueries") if grounding else None
    hits = tuple(
        SearchHit(url=source.url, title=source.title)
        for chunk in _rows(grounding, "groundingChunks")
        if (source := _source(chunk, None)) is not None and source.kind == "url" and source.url
    )
    made: list[Part] = []
    for number, query in enumerate(queries if isinstance(queries, list) else ()):
        asked = msgspec.json.encode({"query": str(query)}).decode()
        name = f"{call_id}_{number}"
        made.append(ServerToolCall(call_id=name, tool="web_search", arguments=asked))
        made.append(ServerToolResult(call_id=name, tool="web_search", hits=() if number else hits))
    return made


def placed(found: Iterable[Found], text: str, base: int) -> Iterator[Citation]:
    """The citations within one text, their spans in its code points.

    Args:
        found: Of the whole answer.
        text: One of its texts.
        base: Bytes of the whole answer's text before this one.
    """
    encoded = text.encode("utf-8", "surrogatepass")
    for entry in found:
        start, end = entry.start - base, min(entry.end - base, len(encoded))
        if 0 <= start < end:
            before = _length(encoded[:start])
            yield msgspec.structs.replace(entry.citation, start=before, end=before + _length(encoded[start:end]))


class Grounding:
    """`groundingMetadata`, made of citations."""

    def __init__(self) -> None:
        self._chunks: dict[tuple[str, str | None], int] = {}  # address and title to their place
        self._supports: dict[tuple[int, int, int], JSONObject] = {}

    def add(self, citations: Sequence[Citation], text: str, *, base: int = 0, part: int = 0) -> None:
        """The citations of one text.

        Args:
            citations: Those without an address have no place here.
            text: The whole text.
            base: Bytes before it, where offsets are counted from the answer's start.
            part: The number of the part it stands in.
        """
        for citation in citations:
            if citation.url is None:
                continue
            start = 0 if citation.start is None else citation.start
            end = len(text) if citation.end is None else citation.end
            first = base + len(text[:start].encode("utf-8", "surrogatepass"))
            last = base + len(text[:end].encode("utf-8", "surrogatepass"))
            place = self._chunks.setdefault((citation.url, citation.title or None), len(self._chunks))
            segment: JSONObject = {"startIndex": first, "endIndex": last, "text": text[start:end]}
            if part:
                segment["partIndex"] = part
            support = self._supports.setdefault((part, first, last), {"segment": segment, "groundingChunkIndices": []})
            support["groundingChunkIndices"].append(place)

    def fields(self) -> JSONObject:
        """The candidate's field; none where nothing was cited."""
        if not self._chunks:
            return {}
        chunks = [{"web": {"uri": url, **({"title": title} if title else {})}} for url, title in self._chunks]
        supports = list(self._supports.values())
        return {"groundingMetadata": {"groundingChunks": chunks, "groundingSupports": supports}}


def _source(chunk: JSONObject, words: str | None) -> Citation | None:
    for key, kind in _SOURCES.items():
        source = chunk.get(key)
        if isinstance(source, dict):
            address = next((source[name] for name in ("uri", "sourceUri") if isinstance(source.get(name), str)), None)
            title = source.get("title")
            return Citation(
                kind=kind,  # type: ignore[arg-type]  # the table holds nothing else
                url=address or None,
                title=title if isinstance(title, str) and title else None,
                cited_text=words or None,
            )
    return None


def _rows(native: Mapping[str, Any] | None, key: str) -> list[JSONObject]:
    rows = native.get(key) if native else None
    return [row if isinstance(row, dict) else {} for row in rows] if isinstance(rows, list) else []


def _count(native: Mapping[str, Any], key: str) -> int:
    value = native.get(key)
    return value if type(value) is int and value > 0 else 0


def _length(encoded: bytes) -> int:
    """Code points; of one that is cut, those before the cut."""
    return len(encoded.decode("utf-8", "ignore"))
