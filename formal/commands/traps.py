"""What an MDCR_EL2 value traps: ``python -m formal.traps 0x84e66``.

Decodes the value field by field, then says for each group of System registers which accesses from EL1 and EL0 are
trapped to EL2, which go to EL1, and which execute, and what decides it. The answer is the architecture's, from
``formal.arch.traps``; no kernel takes part.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from rich.console import Console
from rich.table import Table
from rich.text import Text

from formal.arch import aarch32
from formal.arch import features as feat
from formal.arch.holes import HOLES, is_hole
from formal.arch.registers import MDCR_EL2
from formal.arch.settings import check, controls
from formal.arch.sysregs import GROUPS, SYSTEM_REGISTERS, SystemRegister
from formal.arch.traps import Access, Controls, Outcome, decide

SCHEMA_VERSION = 1
_MANY = 30  # registers that the table names before it says "and more"
_SAYS = {Outcome.EL2: "trapped to EL2", Outcome.EXECUTED: "executed", Outcome.EL1: "taken to EL1"}


@dataclass(frozen=True)
class Row:
    """One access and what becomes of it."""

    register: SystemRegister
    index: int | None
    el: int
    write: bool
    outcome: Outcome
    decided_by: str

    def as_json(self) -> dict[str, object]:
        """The row with the names that ``--json`` promises."""
        op0, op1, crn, crm, op2 = self.register.encoding(self.index)
        return {
            "register": self.register.name,
            "index": self.index,
            "op0": op0,
            "op1": op1,
            "crn": crn,
            "crm": crm,
            "op2": op2,
            "el": self.el,
            "access": "write" if self.write else "read",
            "outcome": self.outcome.name.lower(),
            "decided_by": self.decided_by,
            "group": self.register.group,
        }


def rows(c: Controls) -> Iterator[Row]:
    """Every encoding, from EL1 and EL0, read and written; where two registers share one, each has its direction."""
    for reg in SYSTEM_REGISTERS:
        for index in reg.instances():
            for el in (1, 0):
                for write in (False, True):
                    if not _belongs_to_a_twin(reg, write):
                        outcome, why = decide(Access(reg.name, write, el, index), c)
                        yield Row(reg, index, el, write, outcome, why)


def rows32(c: Controls) -> Iterator[dict[str, object]]:
    """The AArch32 accesses below an AArch32 EL1, and those of an AArch32 EL0 below an AArch64 one."""
    for reg in aarch32.REGISTERS32:
        for index in reg.acts_as.instances():
            opc1, crn, crm, opc2 = reg.encoding(index)
            for el, el1 in ((1, "a32"), (0, "a32"), (0, "a64")):
                for write in (False, True):
                    if (reg.name == "DBGDTRRXint" and write) or (reg.name == "DBGDTRTXint" and not write):
                        continue
                    outcome, why = aarch32.decide(aarch32.Access32(reg, write, el, index, el1 == "a32"), c)
                    yield {
                        "state": "a32",
                        "el1": el1,
                        "register": reg.name,
                        "index": index,
                        "form": reg.form,
                        "coproc": reg.coprocessor,
                        "opc1": opc1,
                        "crn": crn,
                        "crm": crm,
                        "opc2": opc2,
                        "el": el,
                        "access": "write" if write else "read",
                        "outcome": outcome.name.lower(),
                        "decided_by": why,
                        "exception_class": reg.exception_class,
                    }


def _belongs_to_a_twin(reg: SystemRegister, write: bool) -> bool:
    """Reading the encoding of DBGDTRTX_EL0 reads DBGDTRRX_EL0, and the other way round."""
    return (reg.name, write) in {("DBGDTRRX_EL0", True), ("DBGDTRTX_EL0", False)}


# ---- the command line


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


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


def _parser() -> argparse.ArgumentParser:
    p = _Parser(
        prog="python -m formal.traps",
        description="Decode an MDCR_EL2 value and list what it traps, as the Arm architecture does.",
        epilog="Without --feature, the PE has every modelled feature that can exist without FEAT_FGT, so that MDCR_EL2 "
        "and CPTR_EL2 decide alone. Features: " + ", ".join(feat.FEATURES) + ".",
    )
    p.add_argument("value", help="the value of MDCR_EL2: 0x84e66, 544358, 0x8_4e66")
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
    """Runs the command; the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        value, settings, features = _mdcr(args.value), _settings(args.set), _features(args.feature)
        c = controls(value, settings, features)
        more = list(rows32(c)) if args.aarch32 else []
    except ValueError as e:
        parser.error(str(e))
    try:
        if args.json:
            _print_json(value, settings, features, [*(row.as_json() for row in rows(c)), *more])
        else:
            _print_tables(value, features, list(rows(c)))
            if args.aarch32:
                _print_aarch32(more)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough; keep the interpreter from flushing into nothing at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


# ---- output


def _print_json(value: int, settings: dict[str, int], features: frozenset[str], found: list[dict[str, object]]) -> None:
    fields = {name: (value & f.mask) >> f.lo for name, f in MDCR_EL2.fields.items()}
    head = {
        "schema_version": SCHEMA_VERSION,
        "mdcr_el2": f"{value:#x}",
        "fields": fields,
        "res0_bits_set": _res0(value),
        "features": sorted(features),
        "settings": settings,
    }
    sys.stdout.write(json.dumps(head, indent=1)[:-2] + ',\n "rows": [\n  ')
    sys.stdout.write(",\n  ".join(json.dumps(row) for row in found) + "\n ]\n}\n")


def _res0(value: int) -> list[int]:
    rest = value & ~MDCR_EL2.mask()
    return [n for n in range(64) if rest >> n & 1]


def _notes(value: int, features: frozenset[str]) -> Iterator[str]:
    """What is reserved about the value, and what acts otherwise than it reads."""
    field = {name: (value & f.mask) >> f.lo for name, f in MDCR_EL2.fields.items()}
    if extra := _res0(value):
        yield f"RES0 bits that are set: {', '.join(map(str, extra))}"
    missing = [name for name, needs in feat.MDCR_EL2_FIELDS.items() if field[name] and needs not in features]
    if missing:
        yield f"set, but RES0 without the feature: {', '.join(missing)}"
    for name in ("E2PB", "E2TB"):
        if field[name] == 0b01 and name not in missing:
            yield f"{name} = 0b01 is reserved; the traps test its low bit only"
    if field["HPMN"] == 0 and "FEAT_PMUv3" in features and "FEAT_HPMN0" not in features:
        yield "HPMN = 0 is reserved without FEAT_HPMN0: the number of counters the guest may use is UNKNOWN"
    if field["TDE"]:
        yield "TDE is set: TDRA, TDOSA and TDA act as 1"


def _print_tables(value: int, features: frozenset[str], found: list[Row]) -> None:
    console = Console(highlight=False) if sys.stdout.isatty() else Console(width=120, no_color=True, highlight=False)
    console.print(f"MDCR_EL2 = {value:#x}", style="bold")
    console.print(_field_table(value, features))
    for note in _notes(value, features):
        console.print(Text(note, style="bold"))
    console.print()
    console.print(_group_table(found, features))
    console.print()
    absent = [r.name for r in SYSTEM_REGISTERS if not feat.present(r.features, features)]
    if absent:
        console.print(Text("UNDEFINED, not implemented: " + " ".join(absent)))
    console.print(Text("What is missing above is UNDEFINED: no access from EL0, or none in that direction."))


def _print_aarch32(found: list[dict[str, object]]) -> None:
    console = Console(highlight=False) if sys.stdout.isatty() else Console(width=120, no_color=True, highlight=False)
    kinds: dict[tuple[object, ...], dict[str, None]] = {}
    for row in found:
        key = (row["el1"], row["el"], row["outcome"], row["decided_by"])
        name = f"{row['register']}{' (' + str(row['form']) + ')' if row['form'] != 'mcr' else ''}"
        kinds.setdefault(key, {})[f"{name} ({row['access']}s)"] = None
    says = {o.name.lower(): text for o, text in _SAYS.items()}
    table = _table("AArch32", "EL", "outcome", "decided by", "accesses")
    for (el1, el, outcome, why), names in kinds.items():
        if outcome in says:
            where = "below AArch32 EL1" if (el1, el) == ("a32", 0) else "EL1" if el else "below AArch64 EL1"
            table.add_row(where, f"EL{el}", says[str(outcome)], Text(str(why)), Text(", ".join(names)))
    console.print()
    console.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            column, overflow="fold", no_wrap=column in ("field", "bits", "value", "group", "EL", "outcome")
        )
    return table


def _field_table(value: int, features: frozenset[str]) -> Table:
    table = _table("field", "bits", "value", "meaning")
    for name, f in MDCR_EL2.fields.items():
        part = (value & f.mask) >> f.lo
        bits = str(f.hi) if f.single else f"{f.hi}:{f.lo}"
        shown = str(part) if f.single or name == "HPMN" else f"0b{part:0{f.hi - f.lo + 1}b}"
        needs = feat.MDCR_EL2_FIELDS.get(name)
        res0 = f" [RES0 without {needs}]" if needs and needs not in features else ""
        table.add_row(name, bits, shown, Text(f.says + res0), style="" if part else "dim")
    return table


def _group_table(found: list[Row], features: frozenset[str]) -> Table:
    table = _table("group", "EL", "outcome", "decided by", "accesses")
    for group in GROUPS:
        for el in (1, 0):
            for outcome, says in _SAYS.items():
                part = [r for r in found if (r.register.group, r.el, r.outcome) == (group, el, outcome)]
                for reasons, accesses in _by_reason(part, features):
                    table.add_row(group, f"EL{el}", says, Text(reasons), Text(accesses))
    return table


def _by_reason(part: list[Row], features: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Text for the reasons, and for the registers; what executes is told apart by why nothing traps it."""
    kinds: dict[str, list[Row]] = {}
    for row in part:
        is_explained = row.outcome is Outcome.EXECUTED and is_hole(row.register, features)
        kinds.setdefault(HOLES[row.register.name].reason if is_explained else "", []).append(row)
    for reason, rows_of_kind in kinds.items():
        names = list(_names(rows_of_kind))
        more = [f"and {len(names) - _MANY} more (--json lists all)"] if len(names) > _MANY + 1 else []
        reasons = dict.fromkeys(row.decided_by for row in rows_of_kind)
        yield reason or ", ".join(reasons), ", ".join(names[: _MANY + 1 - len(more)] + more)


def _names(part: list[Row]) -> Iterator[str]:
    """The registers of the rows: with their indices if not all are there, with the direction if only one of two is."""
    for reg in dict.fromkeys(r.register for r in part):
        mine = [r for r in part if r.register is reg]
        name = reg.name
        indices = sorted({r.index for r in mine if r.index is not None})
        if len(indices) < len(reg.indices):
            name += f" (n = {_ranges(indices)})"
        directions = {r.write for r in mine}
        both = reg.read.lowest_el is not None and reg.write.lowest_el is not None
        if both and len(directions) == 1:
            name += " (writes)" if True in directions else " (reads)"
        yield name


def _ranges(numbers: list[int]) -> str:
    """1, 2, 3, 7 as 1-3, 7."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
