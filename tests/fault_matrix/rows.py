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
        "nobody listens at the upstream's port",
        "the next target at once; after five in a row the upstream cools down",
    ),
    Row(
        2,
        "its name is unknown, or the resolver hangs",
        "as if nobody listened, within the connect clock; other calls go on meanwhile",
    ),
    Row(
        3,
        "a caller names an address of the inner network as a picture's",
        "the gateway never fetches what callers name: no connection is made; a provider's own address may be private",
    ),
    Row(
        4,
        "its certificate is expired, another host's or nobody's; its handshake stalls",
        "nothing is sent, nothing is tried again there, 502 with the reason; a stall ends by the connect clock",
    ),
    Row(5, "it accepts and never answers", "the first-byte clock, then the next target; 504 where there is none"),
    Row(6, "it resets the connection before it answers", "tried again as configured, paid from the retry budget"),
    Row(
        7,
        "a kept-alive connection turns out to be closed",
        "replaced once, unseen, if no byte of an answer came on it; never after one",
    ),
    # What it says of waiting
    Row(
        8,
        "429 with a wait, in each form that vendors use",
        "this model by this key cools down exactly as long, others serve; callers are told the shortest wait of all",
    ),
    Row(9, "429 with a wait that is absurd, negative or no number", "an hour at most, and nonsense counts as none"),
    Row(
        10,
        "429 without a wait, or because the quota is spent",
        "backoff with jitter; a spent quota is not tried again, and its key cools down for ten minutes at least",
    ),
    Row(11, "500, 502, 503, 504, 529", "tried again within the budget; 501 and 505 are not"),
    Row(
        12,
        "400, 401, 403, 404, 413, 422",
        "a refusal is not tried again and keeps its status; a refused key makes room for the next one and is never "
        "the caller's fault",
    ),
    Row(13, "every upstream is down while 500 callers ask", "each upstream sees at most 1.1 times the calls"),
    Row(14, "it redirects", "not followed, its credential goes nowhere; 502"),
    # Time
    Row(15, "its first byte is late, then all is well", "served, and how long it took is told; nothing is asked twice"),
    Row(
        16,
        "it stops in the middle",
        "the idle clock: the caller's protocol's own error event, the connection closed, the usage an estimate",
    ),
    Row(17, "it drips for ever", "the total clock ends it"),
    # Streams
    Row(
        18,
        "odd event streams: comments, byte order mark, CR, CRLF, no space, several data lines, NUL in an id",
        "read by the standard; wherever it is cut, the caller reads the same",
    ),
    Row(
        19,
        "UTF-8 cut between two reads, or invalid",
        "put together again; what cannot be read is an error, or handed on as it came where both sides speak one "
        "protocol",
    ),
    Row(
        20,
        "one event of 100 MiB without an end",
        "given up at the limit (16 MiB unless configured), in bounded memory and linear time",
    ),
    Row(
        21,
        "JSON cut off within an event or a body",
        "502 or the next target before the first event, an error event after it; never skipped. Where both sides "
        "speak one protocol, a later event reaches the caller as it came",
    ),
    Row(22, "valid JSON of another shape", "read as far as it makes sense, or a 502; never a 500"),
    Row(
        23,
        "an error within a stream that began with 200",
        "the caller's protocol's error event; it counts against the upstream's health",
    ),
    Row(24, "a stream without its end sign", "an error event, and never an end that looks whole"),
    Row(
        25,
        "half-closed, no last chunk, a length that is too long or too short",
        "502, or as a stream without its end sign",
    ),
    Row(26, "bytes behind the end, a second answer", "never read as an answer; the connection is not used again"),
    Row(
        27,
        "an answer without bounds",
        "given up at the limit (64 MiB, or 1 GiB of a stream, unless configured); 502, or an error event",
    ),
    Row(
        28,
        "compressed answers: bombs, layers, unknown codings",
        "none is asked for; what comes is inflated within bounds, one layer deep, or is a 502",
    ),
    Row(
        29,
        "an HTML page with 200, JSON where a stream should be",
        "a page: 502, and nothing of it is shown; an answer in the other form is read as what it is",
    ),
    # Callers
    Row(30, "a caller sends its body slowly or stops", "408 when the body's clock has run out; nothing is left over"),
    Row(
        31,
        "a body over the limit, with a length, without one, with a false one",
        "413 before it is read; never more than the limit is held",
    ),
    Row(
        32,
        "deep JSON, a million keys, endless numbers, NaN, lone surrogates, repeated keys",
        "a 400 that costs a fraction of a second, or served; never a 500",
    ),
    Row(
        33,
        "a caller leaves: before the first byte, in the middle, while it waits for its turn",
        "the upstream's connection is closed, places and reservations are given back, the call is accounted once",
    ),
    Row(34, "a caller leaves while the upstream is silent", "the same"),
    Row(
        35,
        "a caller reads slowly or not at all",
        "its upstream is slowed down, the process holds 256 KiB of it at most, and the write clock ends it",
    ),
    Row(
        36,
        "one slow caller among two hundred",
        "the others have their answers, and [as soon as without it](#one-slow-caller-among-two-hundred)",
    ),
    # The process around it
    Row(37, "the host wraps the gateway in buffering or compressing middleware", "it still streams and still cancels"),
    Row(42, "the clock jumps, the machine sleeps", "waits and rests are measured by a clock that does not jump"),
    Row(
        45,
        "reloaded while 200 streams run, a provider is gone",
        "streams end where they began; a pool that nobody needs is closed when its last answer ends",
    ),
    Row(
        46,
        "told to stop while streams run",
        "not ready at once, new calls are refused, streams have their window and then their protocol's error event",
    ),
    Row(50, "one of four workers crashes", "the others serve on"),
    Row(51, "large requests on the event loop", "no piece of our work holds the loop for long"),
    Row(52, "the process forks after import, or after first use", "connections, threads and locks are made anew"),
    Row(
        53,
        "Flask on gunicorn's sync, gthread and gevent workers, waitress, its test client",
        "streams, ends with its caller, mixes nobody up, leaves no thread behind",
    ),
    Row(54, "two gateways, two event loops, a loop made anew", "each has what is its own"),
    Row(
        55,
        "a short request unfolds to a long one: stored conversations, items named again and again",
        "bounded as if it had been sent whole, and refused before the rest of it is read: 400, or 413 for its bytes",
    ),
    Row(
        56,
        "its error quotes what it was sent, or names the operator's organisation",
        "masked in every field, event and log; a refused key cools down whatever the status, and no caller is blamed",
    ),
    Row(
        57,
        "one JSON member in two spellings: capitals, escapes, letters that fold",
        "400 that names the right spelling, for every member that the protocol knows and for names of stored things",
    ),
)
