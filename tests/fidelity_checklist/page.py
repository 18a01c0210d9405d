"""`docs/protocols.md`: the pairs, and what is claimed and proved of each."""

from collections.abc import Collection
from pathlib import Path

from fidelity_checklist.cases import CASES, FEATURES, LETTERS, PAIRS, Case
from fidelity_checklist.pairs import Proved

PAGE = Path(__file__).parents[2] / "docs" / "protocols.md"

_INTRO = """\
# Protocols

<!-- Written by `make protocols`; edit tests/fidelity_checklist instead. -->

Callers and upstreams use Chat Completions, Responses, Messages or Gemini, and any caller can reach any upstream. If
both sides use the same protocol, bytes pass through and only the model's name changes. Otherwise requests and answers
are translated. The answer's `x-llmproxy-warnings` header lists what was lost, and a loss that would make the answer
wrong is a 400 that names the field.

This page specifies that in {total} claims. Tests prove each claim over real sockets, with and without streaming: the
vendors' official SDKs, or a plain HTTP client where bytes matter, call a gateway in front of an upstream that rejects
what the vendor rejects. {passed} of {total} claims have passed, for {proofs} of the {concerned} pairs they cover.

## Pairs and features

Each cell shows how many of the claims about a pair have been tested for that pair; `-` if there is no claim.

{features}

## Claims

*any* is any of the four. The last column shows for how many of its pairs a claim is proved.

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
