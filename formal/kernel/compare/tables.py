"""The kernel's tables that say which function handles what: ``sys_reg_descs`` and ``arm_exit_handlers``.

    for entry in system_registers(program):      # encoding, access, reset, reg, val, set_user, ...
    exit_handlers(program)                       # ESR_EL2.EC: the function

The C initialisers are read as C has them: positions go on after a designator, a later element replaces an earlier one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from formal.environment import OSLM_IMPLEMENTED
from formal.epochs import Kernel
from formal.kernel.belongs import (
    ACCESS_MDCR,
    EMULATES,
    ERET,
    GUEST_DEBUG,
    HANDLING,
    MMIO,
    REPAIRS,
    RESETS,
    SET_BANK,
    SET_EL2,
    SET_MDSCR,
    SET_OSLSR,
    SETTING,
    TRAP_BANK,
    TRAP_MDSCR,
    TRAP_OSLAR,
    TRAPS,
)
from formal.kernel.compare.handlers import OP2
from formal.kernel.errors import Gap, Gaps, NotUnderstoodError
from formal.kernel.lift.pointers import Mode
from formal.kernel.lift.program import Program
from formal.kernel.parse import clang
from formal.kernel.parse.clang import Cursor, Kind, children
from formal.kernel.recognition.skeleton import skeleton
from formal.kernel.source.tree import KVM, KernelTree
from formal.kernel.text.signs import Sign
from formal.logic.evaluation import nodes

SYS_REGS, HANDLE_EXIT = f"{KVM}/sys_regs.c", f"{KVM}/handle_exit.c"
_ENCODING = ("Op0", "Op1", "CRn", "CRm", "Op2")
_CLASSES = 64  # of ESR_EL2.EC
_ASKED = re.compile(r"arm_exit_handlers\[(\d+)\] != NULL")
# ESR_EL2.EC (Arm ARM D24): debug exceptions from a lower Exception level; trapped MSR, MRS and system instructions
DEBUG_CLASSES = {0x30: "breakpoint", 0x32: "software step", 0x34: "watchpoint", 0x38: "BKPT", 0x3C: "BRK"}
SYS64, _ERET = 0x18, 0x1A
_EVERY = (*TRAPS, *SETTING, *RESETS, EMULATES)
Encoding = tuple[int, int, int, int, int]
Cell = str | int | None  # a function's name, a number, NULL


@dataclass(frozen=True)
class Entry:
    """One line of ``sys_reg_descs``; a field that is not given is 0 or NULL."""

    line: int
    encoding: Encoding
    fields: Mapping[str, Cell]


def system_registers(program: Program) -> Iterator[Entry]:
    """The AArch64 registers that KVM emulates.

    Raises:
        NotUnderstoodError: at an entry that has an unknown form.
    """
    table, enumerators = table_of(program, SYS_REGS, "sys_reg_descs")
    record = table.type.get_canonical().element_type
    order = [f.spelling for f in record.get_canonical().get_fields()]
    for item in elements(table):
        line = int(item.location.line)
        if item.kind != Kind.INIT_LIST_EXPR:
            raise NotUnderstoodError(SYS_REGS, line, "an entry of sys_reg_descs is no initialiser list")
        cells = dict(_fields(item, order, enumerators))
        code = [cells.get(part, 0) for part in _ENCODING]
        numbers = [part for part in code if isinstance(part, int)]
        if len(numbers) != len(_ENCODING):
            raise NotUnderstoodError(SYS_REGS, line, "an entry of sys_reg_descs without an encoding")
        yield Entry(line, (numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]), cells)


def told(program: Program, signs: Iterable[Sign], gaps: Gaps) -> Iterator[Sign]:
    """Whether the entries of break- and watchpoint registers have their numbers, where handlers ask the table.

    That is so before v5.3; then each entry has 0, and handlers ask for the encoding from v5.13 on.
    """
    if any(s.behaviour == "indexes_trapped_banks" and not s.value for s in signs):
        with gaps.at(TRAP_BANK, SET_BANK, *RESETS):
            bank = [(e.encoding[3], e.fields.get("reg", 0), e.line) for e in system_registers(program) if _in_bank(e)]
            numbered = {n == reg for n, reg, _ in bank if n}
            if any(reg not in (0, n) for n, reg, _ in bank) or len(numbered) != 1:
                line = next((line for *_, line in bank), 0)
                raise NotUnderstoodError(SYS_REGS, line, "the entries of a bank have neither their numbers nor 0")
            yield Sign("indexes_trapped_banks", numbered.pop(), SYS_REGS, bank[0][2])


def _in_bank(e: Entry) -> bool:
    """Whether an entry is one of a break- or watchpoint register: 2, 0, c0, c<n>, 4 to 7 (Arm ARM D24.3)."""
    op0, op1, crn, _, op2 = e.encoding
    return (op0, op1, crn) == (2, 0, 0) and op2 in OP2.values()


def table_of(program: Program, file: str, name: str) -> tuple[Cursor, Mapping[str, int]]:
    """A table that a file initialises (where the tree does not have it, another one), and the enumerators seen there.

    Raises:
        NotUnderstoodError: if the file does not have it.
    """
    tree = program.tree
    if not (tree.path / file).is_file() and isinstance(tree, KernelTree):
        holds = re.compile(rf"\b{name}\[")
        file = next((f for f in tree.build.files("vhe") if holds.search(tree.read(f))), file)
    unit = program.resolver.unit(file)
    for handle in unit.handles:
        for cursor in children(handle.cursor):
            if cursor.kind == Kind.VAR_DECL and cursor.spelling == name and clang.initialiser(cursor) is not None:
                return cursor, unit.enumerators
    raise NotUnderstoodError(file, 0, f"{name} is not defined here, and the model needs it")


def elements(table: Cursor) -> list[Cursor]:
    """The elements that an initialiser lists.

    Raises:
        NotUnderstoodError: if it is no list.
    """
    start = clang.initialiser(table)
    if start is None or start.kind != Kind.INIT_LIST_EXPR:
        raise NotUnderstoodError(SYS_REGS, int(table.location.line), f"{table.spelling} has no initialiser list")
    return children(start)


def members(item: Cursor, order: list[str]) -> Iterator[tuple[str, Cursor]]:
    """The members of a record that an element initialises, and the values; positions go on after a designator.

    Args:
        order: the members in the order of the record; others, of anonymous unions and structures, are left out.

    Raises:
        NotUnderstoodError: if there are more values than members.
    """
    at = 0
    for part in children(item):
        *path, value = children(part) or [part]
        if part.kind == Kind.UNEXPOSED_EXPR and path and all(c.kind == Kind.MEMBER_REF for c in path):
            if path[-1].spelling not in order:
                continue
            at = order.index(path[-1].spelling)
        else:
            value = part
        if at >= len(order):
            raise NotUnderstoodError(SYS_REGS, int(item.location.line), "an entry with more values than fields")
        yield order[at], value
        at += 1


def _fields(item: Cursor, order: list[str], enumerators: Mapping[str, int]) -> Iterator[tuple[str, Cell]]:
    yield from ((name, _cell(value, enumerators)) for name, value in members(item, order) if name != "name")


def _cell(value: Cursor, enumerators: Mapping[str, int]) -> Cell:
    named = [c.spelling for c in clang.preorder(value) if c.kind == Kind.DECL_REF_EXPR and c.referenced is not None]
    if len(named) == 1 and named[0] not in enumerators:
        return str(named[0])
    number = clang.constant(value)
    if number is not None:
        return number if value.type.get_canonical().kind not in (clang.TypeKind.POINTER,) else None
    inner = clang.strip_casts(value)
    number = clang.constant(inner)
    if number is not None:
        return number
    return None if inner.kind in (Kind.CSTYLE_CAST_EXPR, Kind.UNEXPOSED_EXPR, Kind.PAREN_EXPR) else "?"


def exit_handlers(
    program: Program, file: str = HANDLE_EXIT, name: str = "arm_exit_handlers"
) -> dict[int, tuple[Cell, int]]:
    """Which function handles which exception class, and its line.

    Raises:
        NotUnderstoodError: at an element that has an unknown form.
    """
    table, enumerators = table_of(program, file, name)
    found: dict[int, tuple[Cell, int]] = {}
    for item in elements(table):
        parts = children(item)
        bounds = [clang.constant(part) for part in parts[:-1]]
        numbers = [bound for bound in bounds if bound is not None]
        if item.kind != Kind.UNEXPOSED_EXPR or not 1 <= len(numbers) <= 2 or len(numbers) != len(bounds):
            raise NotUnderstoodError(file, int(item.location.line), "an element without a number")
        for number in range(numbers[0], numbers[-1] + 1):
            found[number] = _cell(parts[-1], enumerators), int(item.location.line)
    return found


def check(program: Program, k: Kernel, gaps: Gaps | None = None) -> list[Gap]:
    """Where the tables are not what the specification takes them to be, with the operations that this is about.

    Raises:
        NotUnderstoodError: at a table or an entry that has an unknown form, if that is not noted.
    """
    gaps, problems = gaps or Gaps(), list[Gap]()
    with gaps.at(*_EVERY):
        entries = program.keep(
            "sys_reg_descs", lambda: tuple(system_registers(program)), lambda _: frozenset((SYS_REGS,))
        )
        problems += [_gap(SYS_REGS, line, text, of) for line, text, of in _registers(program, k, entries)]
    with gaps.at(*HANDLING):
        problems += _handlers(program, k)
    return problems


def _gap(file: str, line: int, text: str, of: Iterable[str]) -> Gap:
    return Gap(file, line, text, frozenset(of), broken=True, untimely=True)


def _handlers(program: Program, k: Kernel) -> Iterator[Gap]:
    handlers = exit_handlers(program)
    wanted = dict.fromkeys(DEBUG_CLASSES, "kvm_handle_guest_debug") | {SYS64: "kvm_handle_sys_reg"}
    wanted |= {_ERET: "kvm_handle_eret"} if k.nests else {}
    about = dict.fromkeys(DEBUG_CLASSES, (GUEST_DEBUG,)) | {SYS64: (*TRAPS, EMULATES), _ERET: (ERET,)}
    stops = _asked(program, "vhe" if k.vhe else "nvhe")
    for number in range(_CLASSES):
        handler, line = handlers.get(number, (None, 0))
        name = DEBUG_CLASSES.get(number, f"exception class {number:#x}")
        if number in wanted and handler != wanted[number]:
            text = f"{name} is handled by {handler}, expected {wanted[number]}"
            yield _gap(HANDLE_EXIT, line, text, about[number])
        elif number not in wanted and handler is None and number in stops:
            continue
        elif number not in wanted and (handler is None or handler in wanted.values()):
            yield _gap(HANDLE_EXIT, line, f"{name} is handled by {handler or 'nothing'}", (EMULATES, REPAIRS, MMIO))


def _asked(program: Program, mode: Mode) -> frozenset[int]:
    """The classes of which handle_exit asks whether they have a handler, or that are not in the table: else it stops.

    That it does is a rule of its own (``formal/kernel/around/lookup.py``).
    """
    f = skeleton(program, "handle_exit", mode, {"*arm_exit_handlers"}, HANDLE_EXIT)
    names = {str(v.data) for call in f.named("*arm_exit_handlers") for v in nodes((call.guard,)) if v.op == "var"}
    there = {int(found[1]) for name in names if (found := _ASKED.fullmatch(name))}
    return frozenset(there) | (frozenset(range(max(there) + 1, _CLASSES)) if there else frozenset())


def _expected(k: Kernel, registers: Mapping[str, int]) -> dict[Encoding, dict[str, Cell]]:
    """The entries of the registers that the specification models."""
    plain: dict[str, Cell] = {"get_user": None, "__get_user": None, "set_user": None, "visibility": None}
    found: dict[Encoding, dict[str, Cell]] = {
        (2, 0, 0, 2, 2): {"access": "trap_debug_regs", "reset": "reset_val", "reg": registers["MDSCR_EL1"], "val": 0,
                          **plain},
    }  # fmt: skip
    for number in range(16):
        for op2, kind in enumerate(("bvr", "bcr", "wvr", "wcr"), 4):
            of = "dbg_wb_reg" if k.tracks_debug_owner else kind
            getter = {"get_user": f"get_{of}", "__get_user": f"get_{of}"}
            found[2, 0, 0, number, op2] = {"access": f"trap_{of}", "reset": f"reset_{of}", "reg": 0, "val": 0,
                                           "set_user": f"set_{of}", **getter}  # fmt: skip
    if k.nests:
        found[3, 4, 1, 1, 1] = {"access": "access_mdcr", "reset": "reset_mdcr", "reg": registers["MDCR_EL2"], "val": 0,
                                **{cell: None for cell in plain if cell != "visibility"}}  # fmt: skip
    if k.emulates_os_lock:
        found[2, 0, 1, 0, 4] = {"access": "trap_oslar_el1", "reset": None, "reg": 0, "val": 0, **plain}
        found[2, 0, 1, 1, 4] = {"access": "trap_oslsr_el1", "reset": "reset_val", "reg": registers["OSLSR_EL1"],
                                "val": OSLM_IMPLEMENTED, **plain, "set_user": "set_oslsr_el1"}  # fmt: skip
    else:
        found[2, 0, 1, 0, 4] = {"access": "trap_raz_wi", "reset": None, "reg": 0, "val": 0, **plain}
    return found


def _about(cells: Mapping[str, Cell]) -> tuple[str, ...]:
    """The operations that an entry of the table decides about."""
    of = {
        "trap_debug_regs": (TRAP_MDSCR, SET_MDSCR), "access_mdcr": (ACCESS_MDCR, SET_EL2),
        "trap_oslar_el1": (TRAP_OSLAR,), "trap_oslsr_el1": (SET_OSLSR,), "trap_raz_wi": (TRAP_OSLAR,),
    }  # fmt: skip
    return (*of.get(str(cells.get("access")), (TRAP_BANK, SET_BANK)), *RESETS)


def _registers(program: Program, k: Kernel, entries: tuple[Entry, ...]) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    numbers = program.resolver.unit(SYS_REGS).enums.get("vcpu_sysreg", {})
    registers = {name: number for number, name in numbers.items()}
    expected = _expected(k, {name: registers.get(name, -1) for name in ("MDSCR_EL1", "OSLSR_EL1", "MDCR_EL2")})
    modelled = {cells["reg"] for cells in expected.values() if cells["reg"]}
    ours = {str(c) for cells in expected.values() for c in cells.values() if isinstance(c, str)} - {
        "trap_raz_wi",
        "reset_val",
    }
    seen: set[Encoding] = set()
    for entry in entries:
        name = "_".join(f"{letter}{n}" for letter, n in zip(("S", "", "C", "C", ""), entry.encoding, strict=True))
        if entry.encoding in seen:
            yield entry.line, f"{name} has two entries", _EVERY
        seen.add(entry.encoding)
        if (cells := expected.get(entry.encoding)) is not None:
            for cell, value in cells.items():
                got = entry.fields.get(cell, 0 if isinstance(value, int) else None)
                if cell == "reg" and k.indexes_trapped_banks and _in_bank(entry) and got == entry.encoding[3]:
                    continue  # its number, where a handler may look for it
                if got != value and cell in (*entry.fields, "access", "reset", "reg", "val", "set_user"):
                    text = f"{name} has {cell} = {got or 'nothing'}, expected {value or 'nothing'}"
                    yield entry.line, text, _about(cells)
            continue
        used = {c for c in entry.fields.values() if isinstance(c, str)}
        if "?" in used:
            raise NotUnderstoodError(SYS_REGS, entry.line, f"the entry of {name} has an unknown form")
        stray = used & ours - ({"trap_debug_regs"} if entry.fields.get("reg") not in modelled else set())
        if stray or entry.fields.get("reg") in modelled:
            yield entry.line, f"{name} is handled as if it were a register of the model", _EVERY
    for encoding in expected.keys() - seen:
        yield 0, f"the register with encoding {encoding} has no entry", _about(expected[encoding])
