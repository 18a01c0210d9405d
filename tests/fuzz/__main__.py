"""Make one case again and play it, or look for more: `python -m fuzz --protocol gemini --seed 7 --case 1234`."""

import argparse
import asyncio
import sys

from fuzz.campaign import AREAS, campaign, make
from fuzz.harness import FuzzHarness


def main() -> int:
    """Play what the command line says; the number of finds is the exit status, 1 at the most."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--area", choices=AREAS, default="requests")
    parser.add_argument("--protocol", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="this one alone: print it, then play it")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--most-finds", type=int, default=20)
    told = parser.parse_args()
    if told.protocol not in AREAS[told.area][1]:
        parser.error(f"--protocol: one of {', '.join(AREAS[told.area][1])}")
    if told.case is not None:
        case = make(told.area, told.protocol, told.seed, told.case)
        print(case.show(), flush=True)
        asyncio.run(_play(told.area, told.protocol, told.seed, told.case))
        print("\nnothing is wrong with it")
        return 0
    result = campaign(
        told.area, told.protocol, seed=told.seed, count=told.count, first=told.first, most_finds=told.most_finds
    )
    print(result.told())
    print(f"{result.count} cases, {len(result.finds)} finds, {result.seconds:.1f} s")
    return bool(result.finds)


async def _play(area: str, protocol: str, seed: int, number: int) -> None:
    async with FuzzHarness() as harness:
        await make(area, protocol, seed, number).play(harness)


if __name__ == "__main__":
    sys.exit(main())
