"""`docs/protocols.md`: the pairs, and what is claimed and proved of each."""

from collections.abc import Mapping
from pathlib import Path

from fidelity_checklist.cases import CASES, LETTERS, Case
from fidelity_checklist.marks import Proofs

PAGE = Path(__file__).parents[2] / "docs" / "protocols.md"
SERVED = ("C", "M")
PROTOCOLS = ("C", "M", "R", "G")

_INTRO = """\
# Protocols

<!-- Written by `make protocols`; edit tests/fidelity_checklist instead. -->

Callers speak Chat Completions or Messages, upstreams speak Chat Completions or Messages, and any caller reaches any
upstream. Where both sides speak one protocol, bytes are passed on and only the model's name is changed. Where they
do not, requests and answers are translated; whatever is lost on the way is named in the `x-llmproxy-warnings` header
of the answer, and what would make the answer wrong is refused with a 400 that names the field.

What that means is written down as {total} claims. Each one that is called *passed* is proved by tests that run on real
sockets: the vendors' official Python SDKs, or a plain HTTP client where bytes matter, call a gateway in front of a
scripted upstream that refuses what the vendor refuses. *Not yet* means that no test proves it, mostly because a
protocol or an endpoint is still to come; *any* is any protocol that is served. Today {passed} of {total} have passed.

## Pairs

How many of the claims about a pair have passed:

{pairs}

## Claims

{claims}
"""


def page(found: Mapping[int, Proofs]) -> str:
    """The page.

    Args:
        found: What proves each number.
    """
    states = {case.number: _passed(case, found) for case in CASES}
    return _INTRO.format(total=len(CASES), passed=sum(states.values()), pairs=_pairs(states), claims=_claims(states))


def _passed(case: Case, found: Mapping[int, Proofs]) -> bool:
    return case.due and case.number in found and found[case.number].complete


def _pairs(states: Mapping[int, bool]) -> str:
    head = ["Caller", *(f"{LETTERS[letter]} upstream" for letter in PROTOCOLS)]
    rows = [[LETTERS[caller], *(_pair(caller, upstream, states) for upstream in PROTOCOLS)] for caller in PROTOCOLS]
    return _table(head, rows)


def _pair(caller: str, upstream: str, states: Mapping[int, bool]) -> str:
    if caller not in SERVED or upstream not in SERVED:
        return "not yet"
    concerned = [states[case.number] for case in CASES if case.concerns(caller, upstream)]
    way = "passed on" if caller == upstream else "translated"
    return f"{way}, {sum(concerned)} of {len(concerned)}"


def _claims(states: Mapping[int, bool]) -> str:
    rows = [[str(case.number), _between(case), case.claim, _state(case, passed=states[case.number])] for case in CASES]
    return _table(["No.", "Caller → upstream", "Claim", "State"], rows)


def _between(case: Case) -> str:
    return ", ".join(" → ".join(LETTERS[letter] for letter in pair.split("-")) for pair in case.between)


def _state(case: Case, *, passed: bool) -> str:
    if not passed:
        return "not yet"
    return f"passed; {' and '.join(case.later)} not yet" if case.later else "passed"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
