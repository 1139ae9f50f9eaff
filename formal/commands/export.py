"""``python -m formal.export DIR``: the transition systems for other model checkers, with their lemmas. See ``--help``.

For each epoch and mode, of one breakpoint and one watchpoint, two vCPUs and two CPUs
(``formal/evidence/exchange/flat.py``):
``X.btor2``, ``X.aig`` and ``X.v`` with every lemma and every PROVED claim as a property, and ``X-claims.aig`` with all
claims as one. Nothing here imports Z3.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from formal.commands.shared import ONLY, add_configurations, chosen
from formal.common.exit_codes import ExitCode
from formal.common.files import check_folder, write_file
from formal.common.lifetime import Scratch
from formal.common.options import Parser, Rule, UsageError, seconds
from formal.common.places import PROOFS
from formal.common.runner import Failures, run
from formal.evidence.certificates.archive import ArchiveError, Entry, read_index
from formal.evidence.certificates.catalogue import Catalogue, CatalogueError, proved
from formal.evidence.check import Goals
from formal.evidence.exchange import peers
from formal.evidence.exchange.aiger import aiger
from formal.evidence.exchange.btor2 import btor2
from formal.evidence.exchange.flat import Flat, flat, only
from formal.evidence.exchange.verilog import verilog
from formal.scope.configuration import Configuration
from formal.scope.manifest import ManifestError
from formal.system import System

CODES = {
    ExitCode.OK: "written, and no peer disagrees",
    ExitCode.WRONG: "a peer disagrees",
    ExitCode.UNKNOWN: "a peer gave up",
}
RULES = (ONLY, Rule("--timeout", "is for peers", needs="--peers"))
FAILURES: Failures = dict.fromkeys((ManifestError, ArchiveError, CatalogueError), (ExitCode.USAGE, ""))


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UsageError: with one line that says what is wrong.
    """
    says = "Writes the transition systems as BTOR2, AIGER and Verilog, with lemmas and claims."
    p = Parser("export", says, CODES, RULES)
    p.add_argument("folder", metavar="DIR", type=Path, help="where to write")
    add_configurations(p)
    p.add_argument("--peers", action="store_true", help="ask yosys-smtbmc and Berkeley ABC what they say")
    p.add_argument("--timeout", metavar="S", type=seconds, default=300.0, help="seconds for each peer (300)")
    p.add_argument("--proofs", metavar="DIR", type=Path, default=PROOFS, help=argparse.SUPPRESS)
    args = p.parse(argv)
    args.only = chosen(args)
    if args.peers and not peers.installed():
        raise UsageError(f"--peers needs one of {', '.join(peers.PEERS)} (Debian: yosys, berkeley-abc)")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return run("formal.export", lambda: _run(arguments(sys.argv[1:] if argv is None else argv)), FAILURES)


def _run(args: argparse.Namespace) -> int:
    goals = Goals.of(args.proofs, args.only)
    index = read_index(goals.certificates)
    check_folder(args.folder)
    wrong, unknown = 0, 0
    for c, table in goals.proved.items():
        if c.stem not in index:
            raise ArchiveError(f"index.json: nothing about {c}")
        model = system(c, table, index[c.stem])
        write(model, args.folder, c.stem)
        print(f"{c!s:<10} {len(model.next)} state variables, {len(model.bad)} properties")
        for name in peers.installed() if args.peers else ():
            said, line = ask(name, model, str(c), args.timeout)
            print(line, file=sys.stderr if said == peers.FAILS else sys.stdout)
            wrong += said == peers.FAILS
            unknown += said == peers.UNKNOWN
    return ExitCode.WRONG if wrong else ExitCode.UNKNOWN if unknown else ExitCode.OK


def system(c: Configuration, expected: Mapping[str, str], entry: Entry) -> Flat:
    """The flat system of a configuration, with the lemmas of its certificates and the claims that are PROVED.

    Raises:
        CatalogueError: if they do not exist.
    """
    claims = proved(c, expected)
    lemmas = Catalogue(c, claims, entry.plan.lemmas).lemmas
    return flat(System(c.kernel(breakpoints=1)), lemmas, claims.values())


def write(model: Flat, folder: Path, stem: str) -> None:
    """Writes a system in every format."""
    write_file(folder / f"{stem}.btor2", btor2(model), sync=False)
    write_file(folder / f"{stem}.v", verilog(model), sync=False)
    write_file(folder / f"{stem}.aig", aiger(model), sync=False)
    write_file(folder / f"{stem}-claims.aig", aiger(only(model, "claim"), together=True), sync=False)


def ask(name: str, model: Flat, where: str, limit: float) -> tuple[str, str]:
    """What a peer says of a system, and a line about it: a disagreement names both."""
    peer, _, what = peers.PEERS[name]
    with Scratch("peer-") as folder:
        answer = peer(model, folder, limit)
    if answer.says == peers.FAILS:
        return answer.says, f"formal.export: {where}: formal.check says that {what}, {name} says that it is not so"
    if answer.says == peers.UNKNOWN:
        return answer.says, f"{where:<10} {name}: UNKNOWN after {answer.seconds:.0f} s"
    return answer.says, f"{where:<10} {name}: {what}; {answer.seconds:.0f} s"
