"""What a value of MDCR_EL2 traps, as rows, as JSON and as tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from formal.arch import aarch32
from formal.arch import features as feat
from formal.arch.holes import HOLES, is_hole
from formal.arch.registers import MDCR_EL2
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


# ---- output


def print_json(value: int, settings: dict[str, int], features: frozenset[str], found: list[dict[str, object]]) -> None:
    """Prints every row, machine-readable."""
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


def _notes(value: int, settings: dict[str, int], features: frozenset[str]) -> Iterator[str]:
    """What is reserved about the value, and what acts otherwise than it reads."""
    field = {name: (value & f.mask) >> f.lo for name, f in MDCR_EL2.fields.items()}
    if settings.get("PMCR_EL0.N", 31) < field["HPMN"]:
        yield f"HPMN = {field['HPMN']} is above PMCR_EL0.N = {settings['PMCR_EL0.N']}, which is reserved"
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


def print_tables(value: int, settings: dict[str, int], features: frozenset[str], found: list[Row]) -> None:
    """Prints the fields of the value, and what becomes of each group of registers."""
    console = Console(highlight=False) if sys.stdout.isatty() else Console(width=120, no_color=True, highlight=False)
    console.print(f"MDCR_EL2 = {value:#x}", style="bold")
    console.print(_field_table(value, features))
    for note in _notes(value, settings, features):
        console.print(Text(note, style="bold"))
    console.print()
    console.print(_group_table(found, features))
    console.print()
    absent = [r.name for r in SYSTEM_REGISTERS if not feat.present(r.features, features)]
    if absent:
        console.print(Text("UNDEFINED, not implemented: " + " ".join(absent)))
    console.print(Text("What is missing above is UNDEFINED: no access from EL0, or none in that direction."))


def print_aarch32(found: list[dict[str, object]]) -> None:
    """Prints what becomes of the AArch32 accesses."""
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
