"""`docs/protocols.md`: the pairs, and what is claimed and proved of each."""

from collections.abc import Collection
from pathlib import Path

from fidelity_checklist.cases import CASES, FEATURES, LETTERS, PAIRS, Case
from fidelity_checklist.pairs import Proved

PAGE = Path(__file__).parents[2] / "docs" / "protocols.md"

_INTRO = """\
# Protocols

<!-- Written by `make protocols`; edit tests/fidelity_checklist instead. -->

Callers speak Chat Completions, Responses, Messages or Gemini, and so do upstreams; any caller reaches any upstream.
Where both sides speak one protocol, bytes are passed on and only the model's name is changed. Where they do not,
requests and answers are translated; whatever is lost on the way is named in the `x-llmproxy-warnings` header of the
answer, and what would make the answer wrong is refused with a 400 that names the field.

What that means is written down as {total} claims. Each is proved by tests that run on real sockets: the vendors'
official SDKs, or a plain HTTP client where bytes matter, call a gateway in front of an upstream that refuses what the
vendor refuses, streamed and not. {passed} of {total} claims have passed, for {proofs} of the {concerned} pairs that
they are about.

## Pairs and features

For how many of the claims about a pair that very pair has been tested, of how many there are; `-` where there is
nothing to claim.

{features}

## Claims

*any* is any of the four. The last column says for how many pairs a claim is proved, of those it is about.

{claims}
"""


def page(proved: Proved) -> str:
    """The page.

    Args:
        proved: The pairs for which each claim is proved.
    """
    concerned = sum(len(case.pairs) for case in CASES)
    return _INTRO.format(
        total=len(CASES),
        passed=sum(case.number in proved for case in CASES),
        proofs=sum(len(proved.get(case.number, ())) for case in CASES),
        concerned=concerned,
        features=_features(proved),
        claims=_claims(proved),
    )


def _features(proved: Proved) -> str:
    rows = []
    for caller, upstream in PAIRS:
        way = f"{LETTERS[caller]} → {LETTERS[upstream]}"
        rows.append([way, *(_cell((caller, upstream), numbers, proved) for numbers in FEATURES.values())])
    return _table(["Caller → upstream", *FEATURES], rows)


def _cell(pair: tuple[str, str], numbers: Collection[int], proved: Proved) -> str:
    concerned = [case.number for case in CASES if case.number in numbers and pair in case.pairs]
    done = sum(pair in proved.get(number, ()) for number in concerned)
    return f"{done} of {len(concerned)}" if concerned else "-"


def _claims(proved: Proved) -> str:
    rows = [[str(case.number), _between(case), case.claim, _state(case, proved)] for case in CASES]
    return _table(["No.", "Caller → upstream", "Claim", "Proved"], rows)


def _between(case: Case) -> str:
    return ", ".join(" → ".join(LETTERS[letter] for letter in pair.split("-")) for pair in case.between)


def _state(case: Case, proved: Proved) -> str:
    if case.number not in proved:
        return "not yet"
    return f"{len(proved[case.number])} of {len(case.pairs)}" if case.pairs else "yes"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
