"""How many events of a trace are explained in a second, against how many lines are merely parsed. See ``--help``.

The trace is a recording, repeated with new vCPUs; reading, grouping, explaining and watching all count. Nothing here is
a test.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from formal.conform.trace.check import Check
from formal.conform.trace.groups import Grouping
from formal.conform.trace.text import parse
from formal.epochs import EPOCHS, Mode

GOLDEN = Path(__file__).parents[1] / "tests/conform/golden"


def repeated(text: str, times: int) -> str:
    """The scenarios of a recording, several times over: each creates its vCPUs anew."""
    lines = text.splitlines(keepends=True)
    start = next(n for n, line in enumerate(lines) if "conform: scenario" in line)
    return "".join(lines[:start]) + "".join(lines[start:]) * times


def main() -> None:
    """Prints medians of interleaved rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=5, help="rounds")
    parser.add_argument("--times", type=int, default=10, help="how often the recording is repeated")
    args = parser.parse_args()
    text = repeated((GOLDEN / "6.1-vhe.txt").read_text(encoding="utf-8"), args.times)
    rates: list[float] = []
    ratios: list[float] = []
    for _ in range(args.n):
        started = time.perf_counter()
        read = parse(text)
        parsed = time.perf_counter()
        result = Check(EPOCHS["E8"].kernel(Mode.VHE), Grouping(read)).run()
        ended = time.perf_counter()
        if not result.conforms:
            raise SystemExit(f"not explained: {result.unexplained}")
        rates.append(result.explained / (ended - started))
        ratios.append((ended - started) / (parsed - started))
    print(f"{len(read.events):,} events, medians of {args.n} rounds")
    print(f"{statistics.median(rates):,.0f} events a second (aim: at least 1,000)")
    print(f"{statistics.median(ratios):.1f} times as long as parsing alone")


if __name__ == "__main__":
    main()
