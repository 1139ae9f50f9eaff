"""``python -m formal.export DIR``: the transition systems for other model checkers, with their lemmas. See ``--help``.

For each epoch and mode, of one breakpoint and one watchpoint, two vCPUs and two CPUs
(``formal/evidence/exchange/flat.py``):
``X.btor2``, ``X.aig`` and ``X.v`` with every lemma and every PROVED claim as a property, and ``X-claims.aig`` with all
claims as one. Nothing here imports Z3.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from formal.common.options import Parser, UsageError
from formal.common.places import PROOFS
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

OK, WRONG, USAGE, UNKNOWN, INTERNAL, INTERRUPTED = 0, 1, 2, 3, 4, 130
EPILOG = """exit codes: 0 written, and no peer disagrees; 1 a peer disagrees; 2 usage; 3 a peer gave up;
4 internal error; 130 interrupted."""


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UsageError: with one line that says what is wrong.
    """
    p = Parser(
        prog="python -m formal.export",
        description="Writes the transition systems as BTOR2, AIGER and Verilog, with lemmas and claims.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("folder", metavar="DIR", type=Path, help="where to write")
    p.add_argument("--only", metavar="E8-vhe", action="append", default=[], help="one configuration; repeatable")
    p.add_argument("--peers", action="store_true", help="ask yosys-smtbmc and Berkeley ABC what they say")
    p.add_argument("--timeout", metavar="S", type=float, default=300.0, help="seconds for each peer (300)")
    p.add_argument("--proofs", metavar="DIR", type=Path, default=PROOFS, help=argparse.SUPPRESS)
    args = p.parse_args(argv)
    if args.timeout <= 0:
        raise UsageError("--timeout must be positive")
    if args.peers and not peers.installed():
        raise UsageError(f"--peers needs one of {', '.join(peers.PEERS)} (Debian: yosys, berkeley-abc)")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    try:
        return _run(arguments(sys.argv[1:] if argv is None else argv))
    except (UsageError, ManifestError, ArchiveError, CatalogueError) as error:
        print(f"formal.export: {error}", file=sys.stderr)
        return USAGE
    except OSError as error:
        print(f"formal.export: {error.filename}: {error.strerror}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("formal.export: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        print(f"formal.export: internal error: {type(error).__name__}: {error}", file=sys.stderr)
        return INTERNAL


def _run(args: argparse.Namespace) -> int:
    goals = Goals.of(args.proofs, args.only)
    index = read_index(goals.certificates)
    args.folder.mkdir(parents=True, exist_ok=True)
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
    return WRONG if wrong else UNKNOWN if unknown else OK


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
    (folder / f"{stem}.btor2").write_text(btor2(model), encoding="utf-8")
    (folder / f"{stem}.v").write_text(verilog(model), encoding="utf-8")
    (folder / f"{stem}.aig").write_bytes(aiger(model))
    (folder / f"{stem}-claims.aig").write_bytes(aiger(only(model, "claim"), together=True))


def ask(name: str, model: Flat, where: str, seconds: float) -> tuple[str, str]:
    """What a peer says of a system, and a line about it: a disagreement names both."""
    peer, _, what = peers.PEERS[name]
    with tempfile.TemporaryDirectory() as folder:
        answer = peer(model, Path(folder), seconds)
    if answer.says == peers.FAILS:
        return answer.says, f"formal.export: {where}: formal.check says that {what}, {name} says that it is not so"
    if answer.says == peers.UNKNOWN:
        return answer.says, f"{where:<10} {name}: UNKNOWN after {answer.seconds:.0f} s"
    return answer.says, f"{where:<10} {name}: {what}; {answer.seconds:.0f} s"
