"""The benchmark's own checks: a figure is worth something only if a lost chunk could not pass for a fast one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import codec_report, codecs, instructions, load, processes, report, streams, traffic

EXPECTED = [b"0", b"1", b"2"]


def chat_stream(*indexes: int, end: bool = True) -> bytes:
    finish, done = traffic.LAST_FRAMES
    frames = [traffic.FIRST_FRAME, *(traffic.text_frame(index, 17) for index in indexes), finish]
    return b"".join([*frames, done] if end else frames)


def test_a_whole_stream_has_no_fault() -> None:
    """All chunks in order and the proper end are what is asked for."""
    assert not traffic.fault_in_stream(chat_stream(0, 1, 2), "chat", EXPECTED)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(chat_stream(0, 1), id="a chunk is missing"),
        pytest.param(chat_stream(0, 2, 1), id="two chunks changed places"),
        pytest.param(chat_stream(0, 1, 1, 2), id="a chunk came twice"),
        pytest.param(chat_stream(0, 1, 2, end=False), id="the end is missing"),
        pytest.param(b"", id="nothing came"),
    ],
)
def test_a_broken_stream_is_seen(body: bytes) -> None:
    """A stream that lost, doubled or swapped a chunk, or just stopped, counts as an error."""
    assert traffic.fault_in_stream(body, "chat", EXPECTED)


def test_bytecode_is_warm_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A measured start finds its bytecode even where the environment forbids to write any."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (tmp_path / "late.py").write_text("")
    command = [sys.executable, "-c", "import os, late; print(os.path.exists(late.__cached__))"]
    before = dict(os.environ)
    with processes.warm_bytecode():
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said == "True\n"
    assert dict(os.environ) == before


def test_an_end_in_another_protocol_is_no_end() -> None:
    """A Messages client that gets a Chat stream has not been served."""
    assert traffic.fault_in_stream(chat_stream(0, 1, 2), "messages", EXPECTED)


def test_chunk_framing_is_taken_off_wherever_it_cuts() -> None:
    """A mark that the server's chunks cut in two is found again."""
    body = chat_stream(0, 1, 2)
    framed = b"".join(b"%x\r\n%s\r\n" % (len(body[at : at + 7]), body[at : at + 7]) for at in range(0, len(body), 7))
    assert load.Answer(200, framed + b"0\r\n\r\n", chunked=True).body() == body


@pytest.mark.parametrize("wire", ["chat", "messages"])
def test_the_upstream_finds_the_model_in_what_the_load_sends(wire: traffic.Wire) -> None:
    """Both ends of the benchmark agree on what is asked for."""
    found = traffic.MODEL.search(traffic.request(wire, "paced-150", prefix="/llm", key=traffic.KEY))
    assert found is not None
    assert (found[1], found[2]) == (b"paced", b"150")


def finding(cpu: float) -> load.Finding:
    return load.Finding(done=1000, cpu=cpu, wall=1.0, p50=cpu / 1000)


@pytest.mark.parametrize(("ours", "verdict"), [(0.4, "met"), (0.6, "NOT MET")])
def test_a_goal_is_judged_by_the_median_ratio_to_the_bare_relay(ours: float, verdict: str) -> None:
    """Against a bare relay of 0.3 s per 1000 requests, 0.4 s is 0.75 of its rate and 0.6 s is half of it."""
    findings = report.Findings()
    for _ in range(3):
        findings.add("closed", "bare", finding(0.3))
        findings.add("closed", "relayed", finding(ours))
    assert verdict in _line(findings, "requests per CPU second: ours, Chat to Chat ")


def test_what_went_wrong_is_on_the_page_and_spoils_the_figure() -> None:
    """A contestant that answered nothing in a round has no figure, and its error is shown."""
    findings = report.Findings()
    findings.add("closed", "bare", finding(0.3))
    findings.add("closed", "relayed", load.Finding(done=0, errors=3, first_error="status 500"))
    assert "not measured" in _line(findings, "requests per CPU second: ours, Chat to Chat ")
    assert "3 errors, the first: status 500" in _page(findings)


def _page(findings: report.Findings) -> str:
    facts = report.Facts(quick=True, rounds=1, seconds=1.0, cores=processes.Cores(1, 0), load_before=0.0)
    return report.write(findings, facts)


def _line(findings: report.Findings, start: str) -> str:
    return next(line for line in _page(findings).splitlines() if line.startswith(f"| {start}"))


def test_callers_read_from_the_codecs_what_the_upstream_said() -> None:
    """All streams of the codecs' benchmark go through all pairs whole; else none of its figures would mean anything."""
    codecs.check(30)


def test_a_codec_that_loses_words_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that lacks a piece stops the codecs' benchmark."""
    monkeypatch.setattr(streams.Codec, "close", lambda _: b"")
    with pytest.raises(AssertionError):
        codecs.check(30)


def codec_findings(ours: float) -> codecs.Findings:
    """A run in which one pair makes so many events, and everything else goes well."""
    speeds = [
        codecs.Speed(*pair, kind, read, [400_000.0], [1_000_000.0])
        for pair in streams.PAIRS
        for kind in streams.KINDS
        for read in codecs.READS
    ]
    speeds[-1].ours = [ours]
    holds = [codecs.Hold(*pair, median=0.001, longest=0.002, lean=0.003) for pair in streams.PAIRS]
    requests = [codecs.Asking(*pair, 60_000, [0.001], [0.002]) for pair in streams.PAIRS]
    return codecs.Findings(speeds, holds, requests)


@pytest.mark.parametrize(("ours", "verdict"), [(210_000.0, "met"), (190_000.0, "NOT MET")])
def test_codecs_are_judged_by_the_pair_that_does_worst(ours: float, verdict: str) -> None:
    """One pair below a fifth of plain decoding and encoding misses the goal, and is named."""
    section = codec_report.write(codec_findings(ours))
    goals = [line for line in section.splitlines() if " x plain " in line and line.startswith("| tool arguments")]
    assert len(goals) == 1
    assert "Gemini to Gemini" in goals[0]
    assert goals[0].split("|")[-2].strip() == verdict


def test_the_codecs_alone_leave_the_rest_of_the_page() -> None:
    """Writing the section anew keeps what stands before and behind it, however often."""
    page = "# Benchmarks\n\n## Streams\n\nfast\n\n## Beginning and memory\n\nsmall\n"
    first = report.with_codecs(page.replace("## Beginning", f"{report.CODECS}\n\nold\n\n## Beginning"), "new")
    assert first == page.replace("## Beginning", f"{report.CODECS}\n\nnew\n\n## Beginning")
    assert report.with_codecs(first, "new") == first
    assert report.with_codecs(page, "new").endswith(f"small\n\n{report.CODECS}\n\nnew\n")


def test_chunks_are_told_apart_from_the_call_that_they_belong_to() -> None:
    """Two lengths of stream tell what a chunk costs, and what is left is the call's own."""
    costs = [{"plain": 900, "full": 1_000}[case.model.partition("-")[0]] for case in instructions.CASES]
    counts = [
        case.calls * (cost + (7 * int(case.model.partition("-")[2]) if case.model.startswith("full") else 0))
        for case, cost in zip(instructions.CASES, costs, strict=True)
    ]
    assert list(instructions.figures(counts).values()) == [900, 1_000, 7] * 2


def test_a_tree_that_costs_more_is_seen() -> None:
    """The last column is the ratio to the other tree."""
    assert instructions.table({"a call": 1_100.0}, {"a call": 1_000.0}).endswith("1,100       1,000   1.100")
