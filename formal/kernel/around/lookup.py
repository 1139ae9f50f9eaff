"""How the entry of a trapped register, of an ioctl's register and of an exit's class is found, and what it is given.

All of it is executed: the parts of the syndrome, the search's key, order and table, what user space stores, the reset
of each entry. Where a release does it another way, ``assumed`` says so (it is printed with the result).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from formal.epochs import Kernel
from formal.kernel.belongs import (
    EMULATES,
    EXITS,
    HANDLING,
    NESTING,
    REENTERS,
    RESETS,
    SET_PSTATE,
    SETTING,
    TRAPS,
)
from formal.kernel.compare import forwarding
from formal.kernel.errors import Gaps
from formal.kernel.lift.program import Lifted, Program
from formal.kernel.model.binding import Flag
from formal.kernel.model.calls import Call, Skeleton
from formal.kernel.parse import clang
from formal.kernel.parse.clang import Kind
from formal.kernel.recognition.rules import PSTATE, WATCHED, Reader, Rule, belonging, differ, succeeds
from formal.kernel.recognition.skeleton import skeleton
from formal.kernel.source.tree import KVM
from formal.kernel.text import signs
from formal.logic import terms as t
from formal.logic.evaluation import nodes, substitute
from formal.logic.terms import FALSE, TRUE, And, Eq, Ne, Not, Or, Term

SYS_REGS, HANDLE_EXIT, GUEST = (f"{KVM}/{name}.c" for name in ("sys_regs", "handle_exit", "guest"))
TRAPPED = 2  # ARM_EXCEPTION_TRAP in arch/arm64/include/asm/kvm_asm.h: a synchronous exception from a lower level
EC = (31, 26)  # of ESR_ELx (Arm ARM D24.2.40), and of a trapped MSR or MRS (ISS encoding, EC 0x18):
SYNDROME = {"Op0": (21, 20), "Op2": (19, 17), "Op1": (16, 14), "CRn": (13, 10), "CRm": (4, 1)}
RT, IS_READ = (9, 5), 0
_INDEX = {"Op0": (15, 14), "Op1": (13, 11), "CRn": (10, 7), "CRm": (6, 3), "Op2": (2, 0)}  # KVM_SET_ONE_REG's
_WIDE = 22  # bits of the number that the kernel makes of an encoding, at most
# KVM_REG_ARM_CORE_REG(regs.pstate), KVM_REG_ARM_CORE, and the size of 64 bits in an index (include/uapi)
_PSTATE_INDEX, _CORE, _U64 = 0x42, 0x10, 3
_RESETS_ALL, _TABLE = "reset_sys_reg_descs", "sys_reg_descs"  # up to v5.8
_SEARCHES = ("__inline_bsearch", "bsearch")


def assumed(program: Program) -> str:
    """What of this is taken for granted of a tree, since it is done another way there."""
    read = [("populate_nv_trap_config", f"{KVM}/emulate-nested.c", True), ("kvm_sys_reg_set_user", SYS_REGS, False),
            ("core_reg_addr", GUEST, False), ("reset_sys_reg_descs", SYS_REGS, True),
            ("get_target_table", SYS_REGS, True)]  # fmt: skip
    left = ["the order of the table's entries"]
    for name, file, given in read:
        text = signs.source(program.tree, file)
        if (text is not None and signs.body(text, name) is not None) is given:
            left.append(name if given else f"what is done without {name}")
    return f"a register's entry is found by its encoding; not read for it: {', '.join(left)}"


def rules(program: Program, k: Kernel, flags: Mapping[str, Flag], gaps: Gaps) -> Iterator[Rule]:
    """What these functions must do, each rule with the operations that it is about; what is not understood is noted."""
    for of, make in Lookup(program, k, flags).groups():
        with gaps.at(*of, untimely=True):
            yield from belonging(of, make())


class Lookup(Reader):
    """Rules of what lies between an exit, or an ioctl, and the function that its entry names."""

    def groups(self) -> Iterator[tuple[tuple[str, ...], Callable[[], Iterator[Rule]]]]:
        """All rules, with the operations that they are about."""
        yield HANDLING, self._exit
        yield (*TRAPS, EMULATES), self._trapped
        yield (*TRAPS, EMULATES, *SETTING), self._search
        yield SETTING, self._by_user
        yield (SET_PSTATE,), self._core
        yield RESETS, self._all_reset
        if self.k.nests:
            yield (*NESTING, *TRAPS, REENTERS, EXITS), lambda: forwarding.rules(self.program, self.k)

    def _exit(self) -> Iterator[Rule]:
        """A trap, and nothing else, goes to its class's handler, whose answer says whether the guest runs on."""
        inner = "handle_trap_exceptions"
        f = self.read("handle_exit", HANDLE_EXIT, (inner,))
        apart = self.program.defines(inner, self.mode, HANDLE_EXIT)  # from v4.16 on
        calls = f.named(inner) if apart else f.named("kvm_skip_instr", "*arm_exit_handlers")
        code = _only(calls, () if apart else ("kvm_condition_valid()", "vcpu->arch.fault.esr_el2", *_PRESENT))
        right: Term = FALSE
        if len(calls) == (1 if apart else 2) and code is not None:  # with an SError, some run the guest again first
            trapped, plain = (Eq(v, t.const(TRAPPED, t.width(v))) for v in (code, t.extract(code, 30, 0)))
            handled = Or(*(call.guard for call in calls))
            stops = Not(f.returns) if any(str(v.data) in _PRESENT for v in nodes((handled,))) else FALSE
            right = And(Or(Not(handled), plain), Or(Not(trapped), handled, stops))  # a class without handler stops
            yield from (self._answers(f, call) for call in calls if call.name == inner)
        yield Rule(f"{f.function}() handles a trap once, and nothing else", f.file, f.line, right)
        g, says = self.read(inner, HANDLE_EXIT) if apart else f, "the handler is that of the exception class"
        handlers = g.named("*arm_exit_handlers")
        if not handlers:
            yield Rule(says, g.file, g.line, FALSE)
        for call in handlers:
            yield self._answers(g, call)
            right = And(t.boolean(bool(call.targets)), *(_of_class(guard, name) for guard, name in call.targets))
            yield Rule(says, call.file, call.line, Or(Not(call.guard), right))

    def _answers(self, f: Skeleton, call: Call) -> Rule:
        same: Term = FALSE  # or user space is asked
        if f.result is not None and call.result is not None:
            same = Or(Eq(f.result, call.result), Eq(f.result, t.const(0, t.width(f.result))))
        right = And(t.boolean(call.arguments[:1] == (f.place("vcpu"),)), Or(Not(call.guard), same))
        return Rule(f"{f.function}() gives on what {call.name}() says of the vCPU", call.file, call.line, right)

    def _trapped(self) -> Iterator[Rule]:
        """The parts of the syndrome, and the register that the instruction names."""
        asks = ("perform_access", "emulate_sys_reg")
        f = self.read("kvm_handle_sys_reg", SYS_REGS, (*asks, "vcpu_get_reg", "vcpu_set_reg"))
        esr = t.extract(self._variable(f, "vcpu->arch.fault.esr_el2"), 31, 0)
        if not f.named(*asks):
            yield Rule(f"{f.function}() accesses the register", f.file, f.line, FALSE)
        for call in f.named(*asks):
            held = call.memory[1] if len(call.memory) > 1 else {}
            parts = [_equal(held.get(name), t.extract(esr, *bits)) for name, bits in SYNDROME.items()]
            writes = held.get("is_write")
            read = Eq(t.extract(esr, IS_READ, IS_READ), t.const(1, 1))
            parts.append(FALSE if writes is None else differ(writes, read))
            asked = f.named("vcpu_get_reg")
            value = asked[0].result if len(asked) == 1 else None
            parts.append(FALSE if value is None or "regval" not in held else Eq(held["regval"], value))
            says = f"{call.name}() gets the parts of the syndrome and the register's value"
            yield Rule(says, call.file, call.line, Or(Not(call.guard), And(*parts)))
        for call in f.named("vcpu_get_reg", "vcpu_set_reg"):
            named = _equal(call.values[1] if len(call.values) > 1 else None, t.extract(esr, *RT))
            yield Rule(f"{call.name}() is called with the register that the instruction names", call.file, call.line,
                       Or(Not(call.guard), named))  # fmt: skip
        if f.named("emulate_sys_reg"):
            f = self.read("emulate_sys_reg", SYS_REGS, ("perform_access", "find_reg"))
            yield from self._found(f, "perform_access", "sys_reg_descs", self._entries())

    def _found(self, f: Skeleton, use: str, table: str, number: int) -> Iterator[Rule]:
        """What find_reg gives is used exactly when there is something."""
        found, used = f.named("find_reg"), f.named(use)
        if len({call.arguments[1] for call in found}) > 1:
            return  # before v5.9 a CPU's own registers are looked for first
        right: Term = FALSE
        if len(found) == len(used) == 1:
            there = [v for v in nodes((used[0].guard,)) if str(v.data).startswith("find_reg()")]
            size = found[0].values[2] if len(found[0].values) > 2 else None
            right = And(
                t.boolean(found[0].arguments[:2] == (used[0].arguments[1], table)),
                t.boolean(used[0].arguments[0] == "vcpu" and used[0].arguments[2] == "find_reg()"),
                _equal(size, t.const(number, 32)),
                found[0].guard,
                Not(differ(used[0].guard, there[0])) if len(there) == 1 else FALSE,
            )
        yield Rule(f"{f.function}() calls {use}() with the entry that find_reg() finds", f.file, f.line, right)

    def _entries(self) -> int:
        """How many entries the table of System registers has."""
        for handle in self.program.resolver.unit(SYS_REGS, self.mode).handles:
            for cursor in clang.children(handle.cursor):
                named = cursor.kind == Kind.VAR_DECL and cursor.spelling == "sys_reg_descs"
                if named and (count := int(cursor.type.get_canonical().element_count)) > 0:
                    return count
        return -1

    def _search(self) -> Iterator[Rule]:
        """find_reg searches by a number that each encoding has for itself, in the order of these numbers."""
        f = self.read("find_reg", SYS_REGS, _SEARCHES)
        record = self.program.resolver.unit(SYS_REGS, self.mode).records["sys_reg_desc"]
        calls = f.named(*_SEARCHES)
        right: Term = FALSE
        if len(calls) == 1 and len(calls[0].values) == 5:
            key, _, count, size, _ = calls[0].values
            asked = _variables(key, lambda name: name.partition("->")[2])
            counts = [] if count is None else [v for v in nodes((count,)) if v.op == "var"]
            if key is not None and asked.keys() == SYNDROME.keys() and len(counts) == 1 and count is not None:
                table = f.gives == f"{calls[0].name}()" and calls[0].arguments[1] == "table"
                right = And(_one_to_one(key, asked), calls[0].guard, t.boolean(table),
                            _equal(size, t.const(record.get_size(), 32)), _equal(count, counts[0]))  # fmt: skip
                compares = self.program.lift(calls[0].arguments[4], self.mode, SYS_REGS)
                offsets = {f"+{record.get_offset(name) // 8}": name for name in SYNDROME}
                yield _order(compares, key, asked, offsets)
        yield Rule("find_reg() searches the table that it is given by the encoding", f.file, f.line, right)

    def _by_user(self) -> Iterator[Rule]:
        """KVM_SET_ONE_REG: the index's parts find the entry; its function gets the value, or its register."""
        f = self.program.lift("index_to_params", self.mode, SYS_REGS)
        taken = FALSE if f.result is None else Ne(f.result, t.const(0, t.width(f.result)))
        index = f.reads.get("id", t.var("id", 64))
        parts = [_equal(next((v for lvalue, v in f.writes.items() if lvalue.endswith(f"->{name}")), None),
                        t.extract(index, *bits)) for name, bits in _INDEX.items()]  # fmt: skip
        yield Rule(f"{f.name}() gives the parts of the index", f.file, f.line, Or(Not(taken), And(*parts)))
        if not self.program.defines("kvm_sys_reg_set_user", self.mode, SYS_REGS):
            return
        finds, register = "id_to_sys_reg_desc", "vcpu->arch.ctxt.sys_regs[MDSCR_EL1]"
        g = skeleton(self.program, "kvm_sys_reg_set_user", self.mode, {*WATCHED, finds, "*set_user"}, SYS_REGS,
                     re.compile(r"sys_regs\["), {"->reg": "MDSCR_EL1"})  # fmt: skip
        own, stored, found = g.named("*set_user"), g.named(f"= {register}"), g.named(finds)
        right: Term = FALSE
        if len(own) == len(stored) == len(found) == 1 and len(g.calls) == 3:
            has = [v for v in nodes((own[0].guard,)) if str(v.data).endswith("->set_user != NULL")]
            value, result = own[0].values[2], stored[0].result
            reached = Or(own[0].guard, stored[0].guard)
            right = And(
                t.boolean(own[0].arguments[:2] == ("vcpu", f"{finds}()")),
                FALSE if value is None or result is None else Or(Not(reached), Eq(value, result)),
                And(Or(Not(own[0].guard), has[0]), Or(Not(stored[0].guard), Not(has[0]))) if len(has) == 1 else FALSE,
                Not(And(stored[0].guard, own[0].guard)),
                Or(Not(succeeds(g)), reached, *_ignored(g)),
                t.boolean(found[0].arguments[2] == "table"),
            )
        yield Rule(f"{g.function}() gives the value to the entry's function, or to its register", g.file, g.line, right)

    def _core(self) -> Iterator[Rule]:
        """KVM_SET_ONE_REG of PSTATE: its place for its index, and for no other; what is given is stored there."""
        if not self.program.defines("core_reg_addr", self.mode, GUEST):
            yield from self._core_by_offset()
            return
        f = self.program.lift("core_reg_addr", self.mode, GUEST)
        index = f.reads.get("reg->id", t.var("reg->id", 64))
        asked = And(
            Eq(t.extract(index, 15, 0), t.const(_PSTATE_INDEX, 16)), Eq(t.extract(index, 55, 52), t.const(_U64, 4))
        )
        known = Eq(t.extract(index, 51, 16), t.const(_CORE, 36))
        given = Or(*(guard for guard, target in f.points if target == PSTATE))
        yield Rule(f"{f.name}() gives PSTATE's place for its index, and for no other", f.file, f.line,
                   Or(Not(known), Not(differ(given, asked))))  # fmt: skip
        g = self.read("set_core_reg", GUEST, ("core_reg_addr", "memcpy", "copy_from_user"))
        stored = g.named("memcpy")
        right: Term = FALSE
        if len(stored) == 1:
            target, source = stored[0].arguments[:2]
            taken = t.boolean(
                target == "core_reg_addr()" and any(c.arguments[0] == source for c in g.named("copy_from_user"))
            )
            right = And(taken, Not(differ(stored[0].guard, succeeds(g))))
        yield Rule(f"{g.function}() stores what user space gives where it belongs", g.file, g.line, right)

    def _core_by_offset(self) -> Iterator[Rule]:
        """The same before core_reg_addr (``assumed``): what user space gives is copied, once; a read copies nothing."""
        for name, copies in (("set_core_reg", 1), ("get_core_reg", 0)):
            f = self.read(name, GUEST, ("memcpy", "copy_from_user"))
            right: Term = t.boolean(
                [c.name for c in f.calls] == ["copy_from_user", "memcpy"] * copies
            )  # no other store
            if right is TRUE and copies:
                given, stored = f.calls
                taken = t.boolean(given.arguments[0] == stored.arguments[1] and not stored.arguments[1].startswith("?"))
                right = And(taken, Not(differ(stored.guard, succeeds(f))))
            yield Rule(f"{name}() stores what user space gives, and nothing else", f.file, f.line, right,
                       whole=frozenset(((name, GUEST),)))  # fmt: skip

    def _all_reset(self) -> Iterator[Rule]:
        """Each entry that has a reset is reset, the first as the last."""
        name, number = "kvm_reset_sys_regs", self._entries()
        if self.program.defines(_RESETS_ALL, self.mode, SYS_REGS):
            f = self.read(name, SYS_REGS, ("memset", _RESETS_ALL))
            every = [n for n, c in enumerate(f.calls) if c.name == _RESETS_ALL and c.arguments[1:2] == (_TABLE,)]
            junk = [n for n, c in enumerate(f.calls) if c.name == "memset" or c.name.startswith("= ")]  # before v5.3
            once = len(every) == 1 and f.calls[every[0]].guard is TRUE and max([-1, *junk]) < every[0]
            whole = frozenset({(name, SYS_REGS)} if junk else ())
            yield Rule(f"{name}() resets all, and fills none later", f.file, f.line, t.boolean(once), whole=whole)
            return
        size = self.program.resolver.unit(SYS_REGS, self.mode).records["sys_reg_desc"].get_size()
        f = skeleton(self.program, name, self.mode, {*WATCHED, "*reset"}, SYS_REGS, turn=0)
        start, after = f.named("= start"), f.named("= next")
        if len(start) == len(after) == 1 and start[0].result is not None and f.named("*reset"):
            counts = _equal(start[0].result, t.const(0, 8)), _equal(after[0].result, t.const(1, 16))
            if And(*counts) is TRUE:
                yield from self._reset_in_turns(name, number, size)
                return
        f = skeleton(self.program, name, self.mode, {*WATCHED, "*reset"}, SYS_REGS, rounds=number + 1)
        called = f.named("*reset")
        places = ["sys_reg_descs" + (f"+{n * size}" if n else "") for n in range(number)]
        each = sorted(c.arguments for c in called) == sorted(("vcpu", place) for place in places)
        right = And(t.boolean(each), *(_when_it_has_one(c) for c in called))
        yield Rule(f"{name}() resets each of {number} entries", f.file, f.line, right)

    def _reset_in_turns(self, name: str, number: int, size: int) -> Iterator[Rule]:
        for turn in dict.fromkeys((0, 1, number - 1, number)):
            f = skeleton(self.program, name, self.mode, {*WATCHED, "*reset"}, SYS_REGS, turn=turn)
            start, after, called = f.named("= start"), f.named("= next"), f.named("*reset")
            right: Term = t.boolean(not called and turn == number)
            if called and len(start) == len(after) == 1 and turn < number:
                place = "sys_reg_descs" + (f"+{turn * size}" if turn else "")
                here = [c for c in called if c.arguments[:2] == ("vcpu", place)]
                right = And(
                    t.boolean(len(here) == len(called) == 1 and called[0].loops != ()),
                    _equal(start[0].result, t.const(0, 8)), _equal(after[0].result, t.const(turn + 1, 16)),
                    _when_it_has_one(called[0]), after[0].guard,
                )  # fmt: skip
            yield Rule(f"{name}() resets entry {turn} of {number}", f.file, f.line, right)

    def _variable(self, f: Skeleton, name: str) -> Term:
        """A variable that arguments are made of, as wide as it is; one that nothing is made of if there is none."""
        terms = [v for c in f.calls for v in (*c.values, *(m for held in c.memory for m in held.values()))]
        found = [v for term in terms if term is not None for v in nodes((term,)) if str(v.data) == name]
        return found[0] if found else t.var(f"{name}, which is not read", 64)


def _when_it_has_one(call: Call) -> Term:
    """An entry's reset is called if it has one, unless what decides is that the register is an ID register."""
    has = [v for v in nodes((call.guard,)) if str(v.data).endswith(".reset != NULL")]
    others = [v for v in nodes((call.guard,)) if v.op == "var" and v not in has]
    ids = all(re.match(r"is_\w*id_reg\(\)", str(v.data)) for v in others)
    return Or(Not(has[0]), call.guard, *others) if len(has) == 1 and ids else FALSE


def _ignored(f: Skeleton) -> list[Term]:
    """That a write is ignored for what the entry's visibility says."""
    found = {v for v in nodes((succeeds(f),)) if v.op == "var" and str(v.data).startswith("sysreg_user_write_ignore")}
    return [v if v.sort == t.BOOL else Ne(v, t.const(0, t.width(v))) for v in found]


_PRESENT = frozenset(f"arm_exit_handlers[{number}] != NULL" for number in range(64))


def _only(calls: Iterable[Call], others: Collection[str] = ()) -> Term | None:
    """The variable that decides about calls, but for others, if it is one of 32 bits."""
    found = {v for c in calls for v in nodes((c.guard,)) if v.op == "var"}
    found = {v for v in found if str(v.data).partition("#")[0] not in others}
    return found.pop() if len(found) == 1 and all(v.sort == 32 for v in found) else None


def _of_class(guard: Term, name: str) -> Term:
    """A handler of the table is taken only for its class."""
    element = re.fullmatch(r"arm_exit_handlers\[(\d+)\]", name)
    found = {v for v in nodes((guard,)) if str(v.data).partition("#")[0] == "vcpu->arch.fault.esr_el2"}
    if element is None or len(found) != 1:
        return FALSE
    return Or(Not(guard), Eq(t.extract(found.pop(), *EC), t.const(int(element[1]), 6)))


def _equal(value: Term | None, expected: Term) -> Term:
    """Whether a value is a narrower or wider number."""
    if value is None or not isinstance(value.sort, int) or not value.sort:
        return FALSE
    width = max(t.width(value), t.width(expected))
    return Eq(t.zero_extend(value, width), t.zero_extend(expected, width))


def _variables(term: Term | None, part: Callable[[str], str | None]) -> dict[str, Term]:
    """The variables of a term by the part of an encoding that they are."""
    found = [(part(str(v.data)), v) for v in nodes((term,)) if v.op == "var"] if term is not None else []
    return {name: v for name, v in found if name is not None and name in SYNDROME}


def _fitting(variables: Mapping[str, Term]) -> Term:
    """That parts of an encoding have no more bits than there are in an instruction."""
    widths = {name: high - low + 1 for name, (high, low) in SYNDROME.items()}
    return And(*(t.ult(v, t.const(1 << widths[name], t.width(v))) for name, v in variables.items()))


def _one_to_one(number: Term, parts: Mapping[str, Term]) -> Term:
    """Two encodings with one number are one encoding; no number is great."""
    other = {str(v.data): t.var(f"other {name}", t.width(v)) for name, v in parts.items()}
    same = And(*(Eq(v, other[str(v.data)]) for v in parts.values()))
    twice = And(_fitting(parts), _fitting({name: other[str(v.data)] for name, v in parts.items()}))
    small = t.ult(number, t.const(1 << _WIDE, t.width(number)))
    return Or(Not(twice), And(Or(Not(Eq(number, substitute(number, other))), same), small))


def _order(f: Lifted, number: Term, parts: Mapping[str, Term], offsets: Mapping[str, str]) -> Rule:
    """The order of the table: the sign of the difference of two numbers."""
    keys = [v for v in nodes((f.result,)) if str(v.data).startswith("&")] if f.result is not None else []
    own = {name: v for lvalue, v in f.reads.items() if (name := offsets.get(f"+{lvalue.partition('+')[2] or 0}"))}
    right: Term = FALSE
    if f.result is not None and len(keys) == 1 and own.keys() == parts.keys():
        zero, key, wide = t.const(0, t.width(f.result)), keys[0], t.width(keys[0])
        here = t.zero_extend(substitute(number, {str(v.data): own[name] for name, v in parts.items()}), wide)
        known = And(_fitting(own), t.ult(key, t.const(1 << _WIDE, wide)))
        less = Not(differ(t.slt(f.result, zero), t.ult(key, here)))
        right = Or(Not(known), And(Not(differ(Eq(f.result, zero), Eq(key, here))), less))
    return Rule(f"{f.name}() orders the table by encoding", f.file, f.line, right)
