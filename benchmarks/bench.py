"""Whole-process times side by side, in turn, in one run: ratios against the import of Z3. See ``--help``.

The machine may be shared and noisy: the rounds interleave all commands, and only medians of ratios, round by round, are
worth quoting. Nothing here is a test.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROVE = [sys.executable, "-m", "formal.prove"]
# Claims about whole banks that are PROVED: stored traces, made for 16 breakpoints, play no part.
BANKS = [*PROVE, "--epoch", "E8", "--mode", "vhe"]
for _name in (
    "guest_bank_preserved",
    "external_bank_preserved",
    "untrapped_bank_is_guests_own",
    "host_breakpoints_armed",
):
    BANKS += ["--claim", _name]
UNIT = "import z3"
COMMANDS: dict[str, tuple[list[str], str]] = {
    UNIT: ([sys.executable, "-c", "import z3"], "1"),
    "one configuration (E8 vhe)": ([*PROVE, "--epoch", "E8", "--mode", "vhe"], "at most 8"),
    "claims on the banks, 16 breakpoints": ([*BANKS, "--breakpoints", "16"], ""),
    "claims on the banks, 1 breakpoint": ([*BANKS, "--breakpoints", "1"], ""),
    "built-in gate, all configurations": (PROVE, "at most 60"),
}


def seconds(command: list[str]) -> float:
    """The wall-clock time of a command, whose verdict does not matter here.

    Raises:
        SystemExit: if it gave none.
    """
    started = time.perf_counter()
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False, text=True)
    if ended.returncode > 1:
        sys.exit(f"exit code {ended.returncode}: {' '.join(command)}: {(ended.stderr.splitlines() or [''])[-1]}")
    return time.perf_counter() - started


def main() -> None:
    """Prints a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=7, help="rounds")
    parser.add_argument("--kernel", help="a kernel tree, to time --kernel on as well")
    parser.add_argument("--base", help="another tree, to time the proof diff as well")
    args = parser.parse_args()
    commands = dict(COMMANDS)
    if args.kernel:
        commands["--kernel, cold"] = ([*PROVE, "--kernel", args.kernel, "--no-cache"], "at most 15 s")
        commands["--kernel, unchanged"] = ([*PROVE, "--kernel", args.kernel], "at most 2 s")  # the first round proves
    if args.kernel and args.base:
        commands["proof diff of two trees"] = ([*PROVE, "--kernel", args.kernel, "--base", args.base], "at most 30 s")
    rounds: list[dict[str, float]] = []
    for _ in range(args.n + 1):  # the first round warms caches and does not count
        rounds.append({name: seconds(command) for name, (command, _) in commands.items()})
    print(f"{len(os.sched_getaffinity(0))} processors, load {os.getloadavg()[0]:.1f}, medians of {args.n} rounds")
    print(f"{'command':36} {'seconds':>8} {'/ import z3':>12}  aim")
    for name, (_, aim) in commands.items():
        times = [r[name] for r in rounds[1:]]
        ratios = [r[name] / r[UNIT] for r in rounds[1:]]
        print(f"{name:36} {statistics.median(times):8.2f} {statistics.median(ratios):12.1f}  {aim}")
    flat = [r["claims on the banks, 16 breakpoints"] / r["claims on the banks, 1 breakpoint"] for r in rounds[1:]]
    print(f"{'16 breakpoints / 1':36} {'':8} {statistics.median(flat):12.2f}  at most 1.5")


if __name__ == "__main__":
    main()
