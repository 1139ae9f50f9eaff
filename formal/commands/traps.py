"""What an MDCR_EL2 value traps: ``python -m formal.traps 0x84e66``.

Decodes the value field by field, then says for each group of System registers which accesses from EL1 and EL0 are
trapped to EL2, which go to EL1, and which execute, and what decides it. The answer is the architecture's, from
``formal.arch.traps``; no kernel takes part.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from formal.arch import features as feat
from formal.arch import names as naming
from formal.arch.settings import check, controls
from formal.common.exit_codes import ExitCode
from formal.common.options import Parser, UsageError
from formal.common.runner import run
from formal.explain import access
from formal.explain.trap_tables import SCHEMA_VERSION, print_aarch32, print_json, print_tables, rows, rows32

# ---- the command line


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"{text!r} is no number; write 0x84e66, 544358 or 0x8_4e66") from None


def _mdcr(text: str) -> int:
    value = _number(text)
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{text} does not fit in MDCR_EL2, which has 64 bits")
    return value


def _settings(texts: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set {text}: write REGISTER.FIELD=VALUE, as in CPTR_EL2.TTA=1")
        found[name] = _number(value)
        check(name, found[name])
    return found


def _features(names: Sequence[str]) -> frozenset[str]:
    wanted = set() if "none" in names else set(feat.WITHOUT_FGT)
    if "all" in names:
        wanted |= feat.ALL
    wanted |= set(names) - {"all", "none"}
    try:
        return feat.closure(wanted)
    except KeyError as e:
        raise ValueError(e.args[0]) from None


def _parser() -> Parser:
    more = (
        "Without --feature, the PE has every modelled feature that can exist without FEAT_FGT, so that MDCR_EL2 and "
        f"CPTR_EL2 decide alone. Features: {', '.join(feat.FEATURES)}."
    )
    says = "Decodes an MDCR_EL2 value and lists what it traps, or says what traps one access, as the architecture does."
    p = Parser("traps", says, {ExitCode.OK: "done"}, more=more)
    p.add_argument(
        "query",
        nargs="?",
        metavar="VALUE|ACCESS",
        help="a value of MDCR_EL2 (0x84e66, 544358, 0x8_4e66); a register (PMCR_EL0, DBGBVR3_EL1, DBGDSCRext); or an "
        "instruction ('mrs x0, pmuserenr_el0', 'mrc p14, 0, r0, c0, c2, 2')",
    )
    p.add_argument("--esr", metavar="VALUE", help="the access that this ESR_EL2 value reports")
    p.add_argument("--encoding", metavar="op0,op1,CRn,CRm,op2", help="a register by its encoding, as in 3,3,9,12,0")
    p.add_argument("--kernel", metavar="TREE", type=Path, help="with an access: the function that emulates it there")
    p.add_argument(
        "--feature",
        action="append",
        default=[],
        metavar="FEAT_X",
        help="add a feature, and those it needs, to the default set (repeatable); 'all'; 'none' begins with no feature",
    )
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="REG.FIELD=V",
        help="another control, as in CPTR_EL2.TTA=1, PMUSERENR_EL0.EN=1, HDFGRTR_EL2.nBRBDATA=1, PMCR_EL0.N=6, "
        "ID_AA64DFR0_EL1.BRPs=5 (repeatable); default 0; all counters, break- and watchpoints exist",
    )
    p.add_argument(
        "--aarch32", action="store_true", help="the AArch32 accesses too, below an AArch32 and below an AArch64 EL1"
    )
    p.add_argument("--json", action="store_true", help="one row for each access, machine-readable")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return run("formal.traps", lambda: _run(_parser().parse(sys.argv[1:] if argv is None else argv)))


def _run(args: argparse.Namespace) -> int:
    try:
        found = _access(args)
        say = _decoded(args) if found is None else partial(_say, list(_answer(args, *found)))
    except ValueError as error:
        raise UsageError(str(error)) from error
    say()
    return ExitCode.OK


def _decoded(args: argparse.Namespace) -> Callable[[], None]:
    """Prints what a value of MDCR_EL2 traps, once it is known to be one."""
    value, settings, features = _mdcr(args.query), _settings(args.set), _features(args.feature)
    c = controls(value, settings, features)
    more = list(rows32(c)) if args.aarch32 else []

    def say() -> None:
        if args.json:
            print_json(value, settings, features, [*(row.as_json() for row in rows(c)), *more])
            return
        print_tables(value, settings, features, list(rows(c)))
        if args.aarch32:
            print_aarch32(more)

    return say


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def _access(args: argparse.Namespace) -> tuple[list[naming.Named], naming.Syndrome | None] | None:
    """The access that is asked for; None if a value of MDCR_EL2 is."""
    asked = [option for option in (args.query, args.esr, args.encoding) if option is not None]
    if len(asked) != 1:
        raise ValueError("give one of: a value of MDCR_EL2, a register, an instruction, --esr, --encoding")
    if args.query is not None and re.match(r"[-+]?[0-9]", args.query):
        if args.kernel is not None:
            raise ValueError("--kernel goes with an access, not with a value of MDCR_EL2")
        return None
    if other := [o for o in ("feature", "set", "aarch32") if getattr(args, o)]:
        raise ValueError(f"--{other[0]} goes with a value of MDCR_EL2: of one access, every control is shown")
    if args.esr is not None:
        seen = naming.syndrome(_number(args.esr))
        return list(seen.names), seen
    if args.encoding is not None:
        code = naming.encoding(args.encoding)
        if not (found := naming.by_encoding(code)):
            raise ValueError(f"--encoding {args.encoding}: no debug, PMU, profiling or trace register has it")
        return found, None
    return naming.named(args.query), None


def _answer(args: argparse.Namespace, found: list[naming.Named], seen: naming.Syndrome | None) -> Iterator[str]:
    answers = access.answers(found)
    if args.json:
        head = {"schema_version": SCHEMA_VERSION, "exception_class": None if seen is None else seen.ec}
        yield json.dumps({**head, "answers": [a.as_json() for a in answers]}, indent=1)
        return
    if seen is not None:
        yield from access.explain_syndrome(seen)
    yield from access.text(answers, None if args.kernel is None else partial(_handler, args.kernel))


def _handler(tree: Path, named: naming.Named) -> str:
    """The function that emulates a trapped access in a kernel tree, with its place.

    Raises:
        UsageError: if the table of registers cannot be read.
    """
    from formal.kernel.compare.tables import SYS_REGS, system_registers
    from formal.kernel.errors import NotUnderstoodError
    from formal.kernel.lift.program import load
    from formal.kernel.source.tree import KernelTree

    if named.line32 is not None:
        return f"looked up in the AArch32 tables of {SYS_REGS}, which are not read here"
    try:
        entries = {e.encoding: e for e in system_registers(load(KernelTree(tree), (SYS_REGS,)))}
    except NotUnderstoodError as error:
        raise UsageError(f"{tree}: {error}") from error
    entry = entries.get(named.register.encoding(named.index))
    if entry is None or not entry.fields.get("access"):
        return "no handler: KVM gives the guest an UNDEFINED exception"
    access = str(entry.fields["access"])
    kinds = {"trap_raz_wi": "reads as zero, ignores writes", "undef_access": "UNDEFINED into the guest"}
    return f"{access}() at {SYS_REGS}:{entry.line}: {kinds.get(access, 'emulated')}"
