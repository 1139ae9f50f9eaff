"""Which accesses of its guests a guest hypervisor gets: the tables of emulate-nested.c, read as C has them.

An entry covers a range of encodings and names a control, or several: bits of a register of the guest hypervisor. What
``triage_sysreg_trap`` makes of a control is asked elsewhere (``around/triage.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from formal.arch.registers import MDCR_EL2
from formal.epochs import Kernel, Mode
from formal.kernel.belongs import INJECTS, TRAP_BANK, TRAP_MDSCR, TRAP_OSLAR
from formal.kernel.compare.tables import elements, members, table_of
from formal.kernel.errors import Gaps
from formal.kernel.lift.program import Program
from formal.kernel.model.binding import KINDS
from formal.kernel.parse import clang
from formal.kernel.parse.clang import Cursor, Kind, children
from formal.kernel.recognition.rules import Rule
from formal.kernel.source.tree import KVM
from formal.kernel.text.signs import Sign
from formal.logic import terms as t

EMULATE = f"{KVM}/emulate-nested.c"
_READ_WRITE = 0b11  # BEHAVE_FORWARD_RW
_OP2 = {"bvr": 4, "bcr": 5, "wvr": 6, "wcr": 7}  # DBGBVR<n>_EL1 and its siblings: 2, 0, c0, c<n> (Arm ARM D24.3)
_BANK = 16  # registers of a kind


@dataclass(frozen=True)
class _Register:
    """A debug or OS register, the fields of MDCR_EL2 that trap it, and what handles it."""

    name: str
    encoding: int  # as sys_reg() in asm/sysreg.h
    fields: tuple[str, str]
    operation: str
    number: int | None = None  # in a bank, as formal/state.py numbers them


def _registers() -> Iterator[_Register]:
    yield _Register("MDSCR_EL1", _encoding(0, 2, 2), ("TDE", "TDA"), TRAP_MDSCR)
    yield _Register("OSLAR_EL1", _encoding(1, 0, 4), ("TDE", "TDOSA"), TRAP_OSLAR)
    for at, kind in enumerate(KINDS):
        for n in range(_BANK):
            name, encoding = f"DBG{kind.upper()}{n}_EL1", _encoding(0, n, _OP2[kind])
            yield _Register(name, encoding, ("TDE", "TDA"), TRAP_BANK, at * _BANK + n)


def _encoding(crn: int, crm: int, op2: int) -> int:
    return 2 << 19 | crn << 12 | crm << 8 | op2 << 5


_LAST = _encoding(0, _BANK - 1, _OP2["wcr"])  # DBGWCR15_EL1


def told(program: Program, mode: Mode, signs: Iterable[Sign], gaps: Gaps) -> Iterator[Sign]:
    """Whether the last entry that releases have left out is there, in a tree with guest hypervisors."""
    if mode is Mode.VHE and any(s.behaviour == "nested_virtualization" and s.value for s in signs):
        with gaps.at(TRAP_BANK, INJECTS):
            lines = [line for first, last, _, line in _entries(program) if first <= _LAST <= last]
            yield Sign("forwards_last_watchpoint", bool(lines), EMULATE, lines[0] if lines else 0)


def rules(program: Program, k: Kernel) -> Iterator[Rule]:
    """A trapped access of a debug or OS register goes to the guest hypervisor exactly if its MDCR_EL2 asks for that.

    Of DBGWCR15_EL1, that is so from v7.0 on: a kernel that lacks it has no entry for it.

    Raises:
        NotUnderstoodError: if a table is missing, or has an unknown form.
    """
    entries, controls = _entries(program), _controls(program)
    for register in _registers():
        if register.encoding == _LAST and not k.forwards_last_watchpoint:
            continue
        of = [(group, line) for first, last, group, line in entries if first <= register.encoding <= last]
        asked = sum(MDCR_EL2.fields[field].mask for field in register.fields)
        right = len(of) == 1 and controls.get(of[0][0]) == asked
        below = max(((first, at) for first, *_, at in entries if first < register.encoding), default=(0, 0))
        line = of[0][1] if of else below[1]
        handles = None
        if not of and register.number is not None:  # then KVM handles that register itself
            handles = register.operation, frozenset((register.number,))
        says = f"{register.name} is forwarded by MDCR_EL2.{' or '.join(register.fields)}"
        yield Rule(says, EMULATE, line, t.boolean(right), of=(register.operation, INJECTS), handles=handles)


def _entries(program: Program) -> list[tuple[int, int, int, int]]:
    """The ranges of encodings, first and last; the group of controls that each has, and its line."""
    table, _ = table_of(program, EMULATE, "encoding_to_cgt")
    found = []
    for item in elements(table):
        cells = _numbers(item, ["encoding", "end", "tc"])
        group = [n for part in _initialisers(item) for n in _numbers(part, ["cgt"]).values()]
        found.append((cells["encoding"], cells["end"], group[0] if group else 0, int(item.location.line)))
    return found


def _controls(program: Program) -> Mapping[int, int]:
    """The bits of MDCR_EL2 by which a control, or a group of them, forwards reads and writes; others are left out."""
    table, enumerators = table_of(program, EMULATE, "coarse_trap_bits")
    order = [f.spelling for f in table.type.get_canonical().element_type.get_canonical().get_fields()]
    bits: dict[int, int] = {}
    for number, value in _designated(table):
        cells = _numbers(value, order)
        bits.pop(number, None)  # the last element of a number counts
        forwards = cells.get("behaviour", 0) & _READ_WRITE == _READ_WRITE
        if forwards and cells.get("index") == enumerators["MDCR_EL2"] and cells.get("value") == cells.get("mask"):
            bits[number] = cells["mask"]
    several, _ = table_of(program, EMULATE, "coarse_control_combo")
    start = enumerators["__MULTIPLE_CONTROL_BITS__"]
    for number, value in _designated(several):
        lists = [c for c in clang.preorder(value) if c.kind == Kind.INIT_LIST_EXPR]
        of = [n for c in children(lists[0]) if (n := clang.constant(c))] if lists else []  # 0 ends it
        if of and all(control in bits for control in of):
            bits[start + number] = sum({bits[control] for control in of})
    return bits


def _designated(table: Cursor) -> Iterator[tuple[int, Cursor]]:
    """The elements of an array that have a number each, and their values."""
    for item in elements(table):
        parts = children(item)
        number = clang.constant(parts[0]) if item.kind == Kind.UNEXPOSED_EXPR and len(parts) == 2 else None
        if number is not None:
            yield number, parts[1]


def _numbers(item: Cursor, order: list[str]) -> dict[str, int]:
    """The members that are initialised with numbers."""
    found = ((name, clang.constant(value)) for name, value in members(item, order))
    return {name: number for name, number in found if number is not None}


def _initialisers(item: Cursor) -> Iterator[Cursor]:
    return (c for c in clang.preorder(item) if c.kind == Kind.INIT_LIST_EXPR and c != item)
