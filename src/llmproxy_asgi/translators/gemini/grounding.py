"""Decode and encode citations: Google counts UTF-8 bytes within a part, `Citation` counts code points within a text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.gemini.schema import PROTOCOL

_SOURCES: Mapping[str, str] = {"web": "url", "retrievedContext": "document", "maps": "place", "image": "url"}


class LocatedCitation(msgspec.Struct, frozen=True):
    """A citation and its span, in bytes of the complete response's text."""

    start: int
    end: int
    citation: ir.Citation


def decode_grounding(
    grounding: JSONObject | None, recitation: JSONObject | None, starts: Mapping[int, int]
) -> Iterator[LocatedCitation]:
    """Decode all citations of one candidate; skip unreadable ones.

    Args:
        grounding: `groundingMetadata`.
        recitation: `citationMetadata`.
        starts: Part number to the part's byte offset in the complete text.
    """
    chunks = _rows(grounding, "groundingChunks")
    for support in _rows(grounding, "groundingSupports"):
        segment = support.get("segment")
        if not isinstance(segment, dict):
            continue
        base = starts.get(_count(segment, "partIndex"), 0)
        text = segment.get("text")
        indices = support.get("groundingChunkIndices")
        for index in indices if isinstance(indices, list) else ():
            if type(index) is not int or not 0 <= index < len(chunks):
                continue
            citation = _source(chunks[index], text if isinstance(text, str) else None)
            if citation is not None:
                yield LocatedCitation(
                    base + _count(segment, "startIndex"), base + _count(segment, "endIndex"), citation
                )
    for entry in _rows(recitation, "citations") or _rows(recitation, "citationSources"):
        address = entry.get("uri")
        if isinstance(address, str) and address:
            title, licence = entry.get("title"), entry.get("license")
            citation = ir.Citation(
                url=address,
                title=title if isinstance(title, str) and title else None,
                extras={PROTOCOL: {"license": licence}} if licence else ir.EMPTY,
            )
            yield LocatedCitation(_count(entry, "startIndex"), _count(entry, "endIndex"), citation)


def count_searches(grounding: JSONObject | None) -> int:
    """Return the number of the upstream's web searches."""
    queries = grounding.get("webSearchQueries") if grounding else None
    return len(queries) if isinstance(queries, list) else 0


def search_parts(grounding: JSONObject | None, call_id: str) -> list[ir.Part]:
    """Return the upstream's searches as calls with results; the first has all hits, as Google doesn't assign them.

    Args:
        grounding: `groundingMetadata`.
        call_id: The prefix of the calls' ids.
    """
    queries = grounding.get("webSearchQueries") if grounding else None
    hits = tuple(
        ir.SearchHit(url=source.url, title=source.title)
        for chunk in _rows(grounding, "groundingChunks")
        if (source := _source(chunk, None)) is not None and source.kind == "url" and source.url
    )
    parts: list[ir.Part] = []
    for number, query in enumerate(queries if isinstance(queries, list) else ()):
        arguments = msgspec.json.encode({"query": str(query)}).decode()
        search_id = f"{call_id}_{number}"
        parts.append(ir.ServerToolCall(call_id=search_id, tool="web_search", arguments=arguments))
        parts.append(ir.ServerToolResult(call_id=search_id, tool="web_search", hits=() if number else hits))
    return parts


def citations_in_text(found: Iterable[LocatedCitation], text: str, base: int) -> Iterator[ir.Citation]:
    """Return the citations within one text, with spans in its code points.

    Args:
        found: The citations of the complete response.
        text: One of its texts.
        base: Bytes of the complete text before this one.
    """
    encoded = text.encode("utf-8", "surrogatepass")
    for entry in found:
        start, end = entry.start - base, min(entry.end - base, len(encoded))
        if 0 <= start < end:
            before = _length(encoded[:start])
            yield msgspec.structs.replace(entry.citation, start=before, end=before + _length(encoded[start:end]))


class GroundingEncoder:
    """The encoder of a candidate's citations into `groundingMetadata`."""

    def __init__(self) -> None:
        self._chunks: dict[tuple[str, str | None], int] = {}  # (URL, title) to index
        self._supports: dict[tuple[int, int, int], JSONObject] = {}

    def add(self, citations: Sequence[ir.Citation], text: str, *, base: int = 0, part: int = 0) -> None:
        """Add the citations of one text.

        Args:
            citations: Citations; those without a URL are skipped.
            text: The complete text.
            base: Bytes before the text, if offsets start at the response's start.
            part: The number of the text's part.
        """
        for citation in citations:
            if citation.url is None:
                continue
            start = 0 if citation.start is None else citation.start
            end = len(text) if citation.end is None else citation.end
            first = base + len(text[:start].encode("utf-8", "surrogatepass"))
            last = base + len(text[:end].encode("utf-8", "surrogatepass"))
            index = self._chunks.setdefault((citation.url, citation.title or None), len(self._chunks))
            segment: JSONObject = {"startIndex": first, "endIndex": last, "text": text[start:end]}
            if part:
                segment["partIndex"] = part
            support = self._supports.setdefault((part, first, last), {"segment": segment, "groundingChunkIndices": []})
            support["groundingChunkIndices"].append(index)

    def fields(self) -> JSONObject:
        """Return the candidate's field; empty without citations."""
        if not self._chunks:
            return {}
        chunks = [{"web": {"uri": url, **({"title": title} if title else {})}} for url, title in self._chunks]
        supports = list(self._supports.values())
        return {"groundingMetadata": {"groundingChunks": chunks, "groundingSupports": supports}}


def _source(chunk: JSONObject, text: str | None) -> ir.Citation | None:
    for key, kind in _SOURCES.items():
        source = chunk.get(key)
        if isinstance(source, dict):
            address = next((source[key] for key in ("uri", "sourceUri") if isinstance(source.get(key), str)), None)
            title = source.get("title")
            return ir.Citation(
                kind=kind,  # type: ignore[arg-type]  # the table holds nothing else
                url=address or None,
                title=title if isinstance(title, str) and title else None,
                cited_text=text or None,
            )
    return None


def _rows(native: Mapping[str, Any] | None, key: str) -> list[JSONObject]:
    rows = native.get(key) if native else None
    return [row if isinstance(row, dict) else {} for row in rows] if isinstance(rows, list) else []


def _count(native: Mapping[str, Any], key: str) -> int:
    value = native.get(key)
    return value if type(value) is int and value > 0 else 0


def _length(encoded: bytes) -> int:
    """Return the number of code points; an incomplete last one doesn't count."""
    return len(encoded.decode("utf-8", "ignore"))
