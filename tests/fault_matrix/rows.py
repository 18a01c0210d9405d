"""The rows, in words of the one who looks at a gateway from outside.

Numbers are never given anew: those between that are missing belong to parts that are not built (logins and their
tokens, files that are watched, a ledger that is kept). Where a row speaks of accounts, what a call cost is what
observers are told of it (`CallFinished`); the ledger will be written from that.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One fault."""

    number: int
    fault: str
    behaviour: str


ROWS = (
    # Reaching an upstream
    Row(
        1,
        "the upstream's port refuses connections",
        "failover at once; after five failures in a row the upstream cools down",
    ),
    Row(
        2,
        "the upstream's host name is unknown, or DNS hangs",
        "like a refused connection, within the connect timeout; other calls continue meanwhile",
    ),
    Row(
        3,
        "a caller passes an image URL in a private network",
        "the gateway never fetches a caller's URLs: no connection is made; a provider's own address may be private",
    ),
    Row(
        4,
        "the upstream's certificate is expired, for another host or untrusted; its TLS handshake stalls",
        "nothing is sent and nothing is retried there, 502 with the reason; a stall ends at the connect timeout",
    ),
    Row(
        5,
        "it accepts the connection and never answers",
        "the first-byte timeout, then failover; 504 if there is no other target",
    ),
    Row(
        6,
        "it resets the connection before it answers",
        "retried as configured, paid from the retry budget",
    ),
    Row(
        7,
        "a keep-alive connection turns out to be closed",
        "replaced once, invisibly, if it delivered no byte of an answer; never after one",
    ),
    # What it says of waiting
    Row(
        8,
        "429 with a wait, in each form that vendors use",
        "this model with this key cools down exactly as long, others serve; callers get the shortest wait of all",
    ),
    Row(
        9,
        "429 with a wait that is absurd, negative or not a number",
        "an hour at most; an invalid one counts as none",
    ),
    Row(
        10,
        "429 without a wait, or because the quota is exhausted",
        "backoff with jitter; an exhausted quota is not retried, and its key cools down for at least ten minutes",
    ),
    Row(
        11,
        "500, 502, 503, 504, 529",
        "retried within the budget; 501 and 505 are not",
    ),
    Row(
        12,
        "400, 401, 403, 404, 413, 422",
        "a rejection is not retried and keeps its status; after a rejected key the next one is used, and the "
        "caller is never blamed",
    ),
    Row(
        13,
        "every upstream is down while 500 callers send requests",
        "each upstream receives at most 1.1 times the calls",
    ),
    Row(
        14,
        "it redirects",
        "not followed, its credential is sent nowhere else; 502",
    ),
    # Time
    Row(
        15,
        "its first byte is late, then everything works",
        "served, and the delay is reported; no request is sent twice",
    ),
    Row(
        16,
        "it stalls in the middle of an answer",
        "the idle timeout: the caller's protocol's own error event, the connection closed, the usage an estimate",
    ),
    Row(
        17,
        "it sends very slowly and never ends",
        "the total timeout ends it",
    ),
    # Streams
    Row(
        18,
        "unusual event streams: comments, byte order mark, CR, CRLF, no space, several data lines, NUL in an id",
        "parsed by the standard; wherever the stream is split, the caller receives the same",
    ),
    Row(
        19,
        "UTF-8 split between two reads, or invalid",
        "reassembled; invalid text is an error, or passed through unchanged if both sides use the same protocol",
    ),
    Row(
        20,
        "one event of 100 MiB without an end",
        "aborted at the limit (16 MiB by default), in bounded memory and linear time",
    ),
    Row(
        21,
        "JSON cut off within an event or a body",
        "502 or failover before the first event, an error event after it; never skipped. If both sides use "
        "the same protocol, a later event is passed through unchanged",
    ),
    Row(
        22,
        "valid JSON of an unexpected shape",
        "read as far as possible, or a 502; never a 500",
    ),
    Row(
        23,
        "an error within a stream that began with 200",
        "the caller's protocol's error event; it counts against the upstream's health",
    ),
    Row(
        24,
        "a stream without its end marker",
        "an error event, and never an end that looks complete",
    ),
    Row(
        25,
        "half-closed, no last chunk, a wrong content length",
        "502, or like a stream without its end marker",
    ),
    Row(
        26,
        "bytes after the end, a second answer",
        "never read as an answer; the connection is not reused",
    ),
    Row(
        27,
        "an unbounded answer",
        "aborted at the limit (64 MiB, or 1 GiB for a stream, by default); 502, or an error event",
    ),
    Row(
        28,
        "compressed answers: bombs, layers, unknown encodings",
        "none is requested; any that comes is decompressed within bounds, one layer deep, or is a 502",
    ),
    Row(
        29,
        "an HTML page with 200, JSON instead of a stream",
        "a page: 502, and none of it is shown; an answer in the other form is read as what it is",
    ),
    # Callers
    Row(
        30,
        "a client sends its body slowly or stops",
        "408 when the body timeout expires; nothing is left behind",
    ),
    Row(
        31,
        "a body over the limit, with a length, without one, with a wrong one",
        "413 before it is read; never more than the limit is held",
    ),
    Row(
        32,
        "deep JSON, a million keys, endless numbers, NaN, lone surrogates, repeated keys",
        "a 400 within a fraction of a second, or served; never a 500",
    ),
    Row(
        33,
        "a client disconnects: before the first byte, in the middle, while queued",
        "the upstream's connection is closed, slots and reservations are released, the call is recorded once",
    ),
    Row(
        34,
        "a client disconnects while the upstream is silent",
        "the same",
    ),
    Row(
        35,
        "a client reads slowly or not at all",
        "its upstream is slowed down, the process holds at most 256 KiB of it, and the write timeout ends it",
    ),
    Row(
        36,
        "one slow client among two hundred",
        "the others get their answers, and [as soon as without it](#one-slow-client-among-two-hundred)",
    ),
    # The process around it
    Row(
        37,
        "the app wraps the gateway in buffering or compressing middleware",
        "it still streams and still cancels",
    ),
    Row(
        42,
        "the clock jumps, the machine sleeps",
        "waits and cooldowns use a monotonic clock",
    ),
    Row(
        45,
        "reloaded while 200 streams run, a provider is removed",
        "streams end on the configuration they began with; an unused connection pool is closed when its last "
        "answer ends",
    ),
    Row(
        46,
        "stopped while streams run",
        "not ready at once, new calls are rejected, streams may continue for the drain timeout and then get "
        "their protocol's error event",
    ),
    Row(
        50,
        "one of four workers crashes",
        "the others continue to serve",
    ),
    Row(
        51,
        "large requests on the event loop",
        "no step of the gateway blocks the loop for long",
    ),
    Row(
        52,
        "the process forks after import, or after first use",
        "connections, threads and locks are created anew",
    ),
    Row(
        53,
        "Flask on gunicorn's sync, gthread and gevent workers, waitress, its test client",
        "streams, ends with its client, keeps callers apart, leaves no thread behind",
    ),
    Row(
        54,
        "two gateways, two event loops, a replaced loop",
        "each has its own state",
    ),
    Row(
        55,
        "a short request expands to a long one: stored conversations, repeated item references",
        "bounded as if it had been sent whole, and rejected before the rest of it is read: 400, or 413 for its bytes",
    ),
    Row(
        56,
        "its error quotes the request, or names the operator's organization",
        "masked in every field, event and log; a rejected key cools down whatever the status, and the caller "
        "is not blamed",
    ),
    Row(
        57,
        "one JSON member in two spellings: capitals, escapes, letters that fold",
        "400 that names the right spelling, for every member of the protocol and for names of stored data",
    ),
)
