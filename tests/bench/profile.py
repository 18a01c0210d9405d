"""Where the time goes: requests through the app in this process, with a stand-in for the server, under cProfile.

    .venv/bin/python tests/bench/profile.py [--wire messages] [--model full-256] [--requests N] [--top N]

The upstream is a process of its own, so all that is listed is the app's, its HTTP client's and the event loop's.
A profiler makes small functions look dearer than they are: take the list for the order of things and the first line,
measured without the profiler, for their size.
"""

import argparse
import asyncio
import importlib
import os
import sys
import time
from pathlib import Path, PurePath

# Run as a script, our own folder is the first place of all imports, and this file would hide the standard `profile`.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cProfile

import uvloop

from bench import driver, processes, traffic


async def _profile(app: driver.App, options: argparse.Namespace, profiler: cProfile.Profile) -> float:
    key = traffic.KEY if options.key else ""
    player = driver.Driver(app, wire=options.wire, model=options.model, prefix=options.prefix, key=key)
    async with driver.lifespan(app):
        await player.play(10 * options.at_once, options.at_once)
        before = time.process_time()
        await player.play(options.requests, options.at_once)
        seconds = time.process_time() - before
        profiler.enable()
        await player.play(options.requests, options.at_once)
        profiler.disable()
    return seconds


def _show(profiler: cProfile.Profile, requests: int, top: int, order: str) -> None:
    profiler.create_stats()
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = vars(profiler)["stats"]
    rows = sorted(stats.items(), key=lambda row: row[1][2] if order == "tottime" else row[1][3], reverse=True)
    print(f"{'own us':>9} {'with callees us':>16} {'calls':>8}   per request")
    for (file, line, function), (_, calls, own, whole, _) in rows[:top]:
        where = f"{'/'.join(PurePath(file).parts[-3:])}:{line} " if line else ""
        print(f"{own / requests * 1e6:9.2f} {whole / requests * 1e6:16.2f} {calls / requests:8.2f}   {where}{function}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--app", default="bench.ours:app", help="bench.bare:app for the bare relay")
    parser.add_argument("--wire", choices=sorted(traffic.PATHS), default="chat", help="what the client speaks")
    parser.add_argument("--model", default="plain-1", help="plain-1, or full-256 for a stream of 256 chunks")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=16, help="requests in flight")
    parser.add_argument("--key", action="store_true", help="ask callers for a key")
    parser.add_argument("--top", type=int, default=45, help="lines to show")
    parser.add_argument("--sort", choices=("tottime", "cumtime"), default="tottime")
    options = parser.parse_args()
    options.prefix = "" if options.app == "bench.bare:app" else "/llm"
    options.requests -= options.requests % options.at_once
    return options


def main() -> None:
    """Measure without the profiler, then with it, and list the functions."""
    options = _options()
    cores = processes.cores()
    profiler = cProfile.Profile()
    with processes.server("bench.upstream", core=cores.rest) as upstream:
        processes.first_answer(upstream, traffic.request("chat", "plain-1"))
        os.sched_setaffinity(0, {cores.gateway})
        os.environ["BENCH_UPSTREAM"] = f"http://127.0.0.1:{upstream.port}"
        os.environ["BENCH_ACCESS"] = "keys" if options.key else "open"
        module, _, name = options.app.partition(":")
        try:
            app: driver.App = getattr(importlib.import_module(module), name)
        except ImportError as error:
            raise SystemExit(f"{options.app} can't be imported: {error}") from None
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            seconds = runner.run(_profile(app, options, profiler))
    print(f"{options.app}, {options.wire}, {options.model}, {options.requests} requests, {options.at_once} at once")
    print(f"without the profiler: {seconds / options.requests * 1e6:.1f} us of CPU per request\n")
    _show(profiler, options.requests, options.top, options.sort)


if __name__ == "__main__":
    main()
