"""What EL2 handles itself, before KVM sees it: no debug exception of a guest, and no access of a debug register.

Its handler of trapped accesses is executed on every access with op0 = 2 at once (all of these are of debug and trace
registers), so that it does not matter how a register is spelled there, or in which function.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from formal.epochs import Kernel
from formal.kernel.around.lookup import EC, IS_READ, RT, SYNDROME
from formal.kernel.belongs import EMULATES, GUEST_DEBUG, REENTERS, TRAPS
from formal.kernel.compare.tables import DEBUG_CLASSES, SYS64, exit_handlers
from formal.kernel.errors import Gaps
from formal.kernel.lift.pointers import Mode
from formal.kernel.lift.program import Lifted, Program
from formal.kernel.model import passage
from formal.kernel.parse.clang import Kind, is_pointer, preorder
from formal.kernel.recognition.rules import AARCH64, MODELLED, PSTATE, Rule, belonging, nonzero
from formal.kernel.recognition.skeleton import skeleton
from formal.kernel.source.tree import KVM, sources
from formal.kernel.text.forms import without_comments
from formal.logic import terms as t
from formal.logic.evaluation import substitute
from formal.logic.terms import FALSE, And, Eq, Not, Or, Term

_TABLE = re.compile(r"\bexit_handler_fn\s+(\w+)\s*\[[^\]]*\]\s*=")  # hyp_exit_handlers from v5.16 on, and its like
_BEFORE = ("handle_tx2_tvm", "__vgic_v3_perform_cpuif_access")  # what fixup_guest_exit asks up to v5.15
# ESR_EL2.EC (Arm ARM D24): a copy of memory, which is begun anew so that a step ends; a watchpoint and an instruction
# abort, of both of which EL2 finds out the address, and leaves the rest to KVM
_MOPS, _COPIES = 0x27, "kvm_hyp_handle_mops"
_WATCHPOINT, _ABORT, _FINDS_ADDRESS = 0x34, 0x20, "kvm_hyp_handle_watchpt_low"
_ADDRESS, _FAR = "__populate_fault_info", re.compile(r"fault\.far_el2$")
_UNPROTECTED = {"cap.ARM64_KVM_PROTECTED_MODE": FALSE}
_ESRS = ("hw.esr_el1", "hw.esr_el2")
_ESR, _SPSR = "vcpu->arch.fault.esr_el2", ("hw.spsr_el1", "hw.spsr_el2")
# registers by their encoding, parts that are left out are any (Arm ARM, "System register encoding")
_DEBUG = "debug registers", {"Op0": 2}
_PMUSERENR = "PMUSERENR_EL0", {"Op0": 3, "Op1": 3, "CRn": 9, "CRm": 14, "Op2": 0}
_MDCR = "MDCR_EL2", {"Op0": 3, "Op1": 4, "CRn": 1, "CRm": 1, "Op2": 1}


def rules(program: Program, k: Kernel, gaps: Gaps) -> Iterator[Rule]:
    """What must hold of the handlers at EL2."""
    mode: Mode = "vhe" if k.vhe else "nvhe"
    other, ask, tables = "nvhe" if k.vhe else "vhe", set[str](), False
    for path in sources(program.tree.path / KVM / "hyp", (".c", ".h")):
        file = program.tree.relative(str(path))
        for table in () if f"/{other}/" in file else _TABLE.finditer(without_comments(program.tree.read(file))):
            tables = True
            with gaps.at(REENTERS, GUEST_DEBUG, EMULATES):
                if _for_protected_only(program, mode, file, table[1]):
                    continue
                yield from belonging((REENTERS, GUEST_DEBUG, EMULATES), _classes(program, mode, file, table[1], ask))
    ask |= set() if tables else {name for name in _BEFORE if program.defines(name, mode)}
    if not tables and not ask and passage.whole(program, mode):
        with gaps.at(REENTERS, GUEST_DEBUG, *TRAPS, EMULATES):
            yield from belonging((REENTERS, GUEST_DEBUG, *TRAPS, EMULATES), _rounds(program, mode))
    elif not tables and not ask:
        yield Rule("what EL2 handles itself is found", f"{KVM}/hyp", 0, FALSE, of=(REENTERS, GUEST_DEBUG, EMULATES))
    with gaps.at(GUEST_DEBUG):
        yield from belonging((GUEST_DEBUG,), _address(program, mode))
    registers = (_DEBUG, _PMUSERENR, *((_MDCR,) if k.nests else ()))
    for name in sorted(ask):
        for what, register in registers:
            with gaps.at(REENTERS, *TRAPS, EMULATES):
                memory = {_ESR: _access(register), **dict.fromkeys((PSTATE, *_SPSR), AARCH64)}
                f = program.lift(name, mode, unknowns=True, memory=memory)
                yield from belonging((REENTERS, *TRAPS, EMULATES), (_leaves(f, what),))


def _rounds(program: Program, mode: Mode) -> Iterator[Rule]:
    """No round of a world switch of one function goes back to a guest that has debugged, or left to do so."""
    f = passage.passage(program, mode).again
    kinds = {what: _access(register) for what, register in (_DEBUG, _PMUSERENR)}
    syndrome = t.var("the syndrome", 64) & t.const((1 << EC[1]) - 1, 64)
    kinds |= {name: syndrome | t.const(number << EC[1], 64) for number, name in DEBUG_CLASSES.items()}
    told = {name: v for name, v in f.reads.items() if name in (_ESR, *_ESRS)}
    for what, esr in kinds.items():
        given = {str(v.data): t.extract(esr, t.width(v) - 1, 0) for v in told.values()}
        yield Rule(f"{f.name}() leaves {what} to KVM", f.file, f.line, t.Not(substitute(f.when, given)))


def _for_protected_only(program: Program, mode: Mode, file: str, table: str) -> bool:
    """Whether the functions that name a table return it, and only where protected mode is on."""
    named = False
    for name in program.functions(file):
        _, function = program.resolver.find(name, mode, file)
        if any(part.kind == Kind.DECL_REF_EXPR and part.spelling == table for part in preorder(function)):
            named = True
            if not is_pointer(function.result_type):
                return False
            points = program.lift(name, mode, file, unknowns=True).points
            given = t.Or(*(guard for guard, target in points if target.startswith(f"{table}[")))
            if not points or substitute(given, _UNPROTECTED) is not FALSE:
                return False
    return named


def _classes(program: Program, mode: Mode, file: str, table: str, ask: set[str]) -> Iterator[Rule]:
    """Which exceptions a table has a handler for; that of trapped accesses is put into ``ask``."""
    handlers = exit_handlers(program, file, table)
    aborts = {_FINDS_ADDRESS, handlers.get(_ABORT, (None, 0))[0]}
    for number, (handler, line) in handlers.items():
        debug = number in DEBUG_CLASSES and not (number == _WATCHPOINT and handler in aborts)
        if handler is not None and (debug or (handler == _COPIES) != (number == _MOPS)):
            name = DEBUG_CLASSES.get(number, f"exception class {number:#x}")
            yield Rule(f"{name} is left to KVM; EL2 has {handler}() for it in {table}", file, line, FALSE)
        elif number == SYS64 and handler is not None:
            ask.add(str(handler))
        elif number == _WATCHPOINT and handler is not None:
            yield _finds(program, mode, str(handler))


def _finds(program: Program, mode: Mode, handler: str) -> Rule:
    """A watchpoint goes to KVM unless EL2 could not find out the address, for which the guest tries again."""
    f = skeleton(program, _aliased(program, handler, mode), mode, {_ADDRESS})
    found = [nonzero(c.result) for c in f.named(_ADDRESS) if c.result is not None]
    again = FALSE if f.result is None else nonzero(f.result)
    return Rule(f"{handler}() leaves watchpoints to KVM", f.file, f.line, Or(Not(again), *(Not(one) for one in found)))


def _aliased(program: Program, name: str, mode: Mode) -> str:
    """The function that a name stands for which is declared with ``__alias(it)``."""
    if program.defines(name, mode):
        return name
    declared = re.compile(rf"\b{name}\s*\([^;{{}}]*?\)\s*__alias\(\s*(\w+)\s*\)\s*;")
    texts = (
        path.read_text(encoding="utf-8", errors="replace")
        for path in sources(program.tree.path / KVM / "hyp", (".h", ".c"))
    )
    found = {of for text in texts for of in declared.findall(without_comments(text))}
    return found.pop() if len(found) == 1 else name


def _address(program: Program, mode: Mode) -> Iterator[Rule]:
    """The address that KVM tells of is FAR_ELx, whole."""
    f = skeleton(program, _ADDRESS, mode, frozenset(), None, _FAR, inside=("__get_fault_info",))
    stores = [call for call in f.calls if call.result is not None]
    right = [str(c.result.data) in ("hw.far_el1", "hw.far_el2") for c in stores if c.result is not None]
    place = stores[0] if stores else f
    yield Rule(f"{_ADDRESS}() keeps the whole address", place.file, place.line, t.boolean(bool(right) and all(right)))


def _leaves(f: Lifted, what: str) -> Rule:
    """A handler says that KVM has to see the access, and changes nothing."""
    kept = not any(MODELLED.search(lvalue) for lvalue in f.writes)
    left = Eq(f.result, t.const(0, t.width(f.result))) if f.result is not None and f.result.sort != t.BOOL else FALSE
    return Rule(f"{f.name}() leaves accesses of {what} to KVM", f.file, f.line, And(f.returns, left, t.boolean(kept)))


def _access(register: Mapping[str, int]) -> Term:
    """ESR_EL2 of a trapped access in AArch64 state, of either direction, with any general register."""
    fixed, free = SYS64 << EC[1] | 1 << 25, 1 << IS_READ | 0x1F << RT[1]  # IL is 1
    for part, (high, low) in SYNDROME.items():
        fixed |= register.get(part, 0) << low
        free |= 0 if part in register else ((2 << (high - low)) - 1) << low
    return t.var("the access", 64) & t.const(free, 64) | t.const(fixed, 64)
