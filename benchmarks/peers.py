"""Ours beside yosys-smtbmc and Berkeley ABC, on the flat system with two CPUs and two vCPUs. See ``--help``.

The same claims of one configuration with one breakpoint, in turn, in one run: the whole of ``formal.prove`` (Python,
the import of Z3, and proving the lemmas); yosys-smtbmc's induction with the same lemmas (with Z3; without the time that
Yosys takes to read Verilog); and ABC's ``pdr``, which is not given the lemmas and has to find its own. Only medians of
ratios, round by round, are worth quoting; a time-out makes a ratio a lower bound.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from formal.commands.check import PROOFS, Goals  # noqa: E402
from formal.commands.export import system  # noqa: E402
from formal.evidence.certificates.archive import read_index  # noqa: E402
from formal.evidence.certificates.catalogue import proved  # noqa: E402
from formal.evidence.exchange import peers  # noqa: E402
from formal.evidence.exchange.flat import Flat  # noqa: E402

AIMS = {peers.SMTBMC: 2, peers.ABC: 50}


def ours(name: str, mode: str, claims: list[str]) -> float:
    """The wall-clock time of proving the claims.

    Raises:
        SystemExit: if they are not proved.
    """
    command = [sys.executable, "-m", "formal.prove", "--epoch", name, "--mode", mode, "--breakpoints", "1", "-j", "1"]
    command += [word for claim in claims for word in ("--claim", claim)]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    took = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"not proved: {done.stdout[-300:]}{done.stderr}")
    return took


def theirs(name: str, model: Flat, seconds: float) -> peers.Answer:
    """What a peer says within a time.

    Raises:
        SystemExit: if it disagrees.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = peers.PEERS[name][0](model, Path(folder), seconds)
    if answer.says == peers.FAILS:
        sys.exit(f"{name} disagrees: {peers.PEERS[name][2]}")
    return answer


def main() -> None:
    """Prints a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=3, help="rounds (3)")
    parser.add_argument("--only", default="E8-vhe", help="the configuration (E8-vhe)")
    args = parser.parse_args()
    goals = Goals.of(PROOFS, [args.only])
    ((c, table),) = goals.proved.items()
    model = system(c, table, read_index(goals.certificates)[c.stem])
    claims = [name for name, claim in proved(c, table).items() if not claim.given]
    names = peers.installed()
    limit = 60 * ours(c.name, c.mode, claims)  # this round warms caches and does not count
    rounds: list[tuple[float, dict[str, peers.Answer]]] = []
    for _ in range(args.n):
        mine = ours(c.name, c.mode, claims)
        rounds.append((mine, {name: theirs(name, model, limit) for name in names}))
    print(f"{len(os.sched_getaffinity(0))} processors, load {os.getloadavg()[0]:.1f}, medians of {args.n} rounds")
    print(f"{c}, {len(claims)} claims, {len(model.bad) - len(claims)} lemmas")
    print(f"{'formal.prove':14} {statistics.median(mine for mine, _ in rounds):8.2f} s")
    for name in names:
        answers = [said[name] for _, said in rounds]
        ratio = statistics.median(said[name].seconds / mine for mine, said in rounds)
        bound = "at least " if any(a.says == peers.UNKNOWN for a in answers) else ""
        seconds = statistics.median(a.seconds for a in answers)
        print(f"{name:14} {seconds:8.2f} s  {bound}{ratio:.1f} times as long (aim: at least {AIMS[name]})")


if __name__ == "__main__":
    main()
