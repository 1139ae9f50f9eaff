"""A CPU's initialisation, and a vCPU's life outside the run loop: creation, first run, load, put, reset."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from formal.kernel.belongs import RESET
from formal.kernel.lift.calls import HAS_EL2
from formal.kernel.lift.pointers import OUTLINED, Mode
from formal.kernel.lift.program import Program
from formal.kernel.model.binding import PENDING
from formal.kernel.model.calls import Call, Skeleton
from formal.kernel.model.walker import MISSING
from formal.kernel.recognition.rules import (
    ARM_C,
    FIRST_RUN,
    HOST_CONTEXT,
    INIT,
    INIT_OWNER,
    LOAD,
    LOADS,
    PSTATE,
    PUT,
    PUTS,
    RESET_PTR,
    WATCHED,
    Reader,
    Rule,
    missed,
    succeeds,
    truth,
)
from formal.kernel.recognition.skeleton import skeleton
from formal.kernel.source.tree import KernelTree
from formal.kernel.text.forms import without_comments
from formal.logic import terms as t
from formal.logic.evaluation import nodes, substitute
from formal.logic.known import known_bits
from formal.logic.terms import BOOL, FALSE, TRUE, And, Eq, If, Ne, Not, Or, Term
from formal.transitions import RESET_PSTATE, RESET_PSTATE_EL2

_WIDTH_TESTS = ("vcpu_el1_is_32bit",  # asked by kvm_reset_vcpu; bits are tested by what bitops.h makes of test_bit
                "test_bit", "generic_test_bit", "arch_test_bit", "const_test_bit", "_test_bit")  # fmt: skip
# fails where a CPU lacks what user space asks for; from v5.2 to v5.9 the reset can be left out then, and yet succeed
ENABLES = "kvm_vcpu_enable_ptrauth"
ANSWERS = "handle___kvm_get_mdcr_el2"
_NVHE_INIT = "cpu_init_hyp_mode"
_NAMES_HOST = re.compile(r"\bhost_cpu_context\s*=(?!=)|&[^;=,]*\bhost_cpu_context\b")  # stores to it, or its address
_VECTORS, _DEFAULT_VECTORS = "__hyp_get_vectors", "hyp_default_vectors"  # asked before v4.12
_REQUESTS = "check_vcpu_requests"
_ALLOCATED = re.compile(r"__percpu\s*\*\s*kvm_host_cpu_state\b")  # the host's contexts, before v4.13
_ALLOCATES = re.compile(r"\bkvm_host_cpu_state\s*=(?!=)|&\s*kvm_host_cpu_state\b")
_EL1_32BIT = "1"  # KVM_ARM_VCPU_EL1_32BIT


class Lifecycle(Reader):
    """Rules of what happens outside the run loop."""

    def initialisation(self) -> Iterator[Rule]:
        """kvm_arm_init_debug runs on each CPU, in either mode."""
        if self.k.tracks_debug_owner:
            f = self.read("cpu_hyp_init_context", ARM_C)
            yield from self.exactly(f, [INIT_OWNER])
            yield from self.when(f, INIT_OWNER, TRUE)
            f = self.read("cpu_hyp_reinit", ARM_C, ("cpu_hyp_init_context",))
            yield from self.exactly(f, ["cpu_hyp_init_context", "cpu_hyp_init_features"])
            yield from self.when(f, "cpu_hyp_init_context", TRUE)
            return
        split = self.program.defines("cpu_hyp_init_features", self.mode, ARM_C)
        only_nvhe = self.program.defines(_NVHE_INIT, self.mode, ARM_C) and not self.k.vhe_reads_boot_mdcr  # to v4.19
        outer, inner = "cpu_hyp_reinit", "cpu_hyp_init_features" if split else _NVHE_INIT if only_nvhe else ""
        f = self.read(inner or outer, ARM_C)
        yield from self.exactly(f, [INIT])
        yield from self.when(f, INIT, TRUE)
        if inner:
            f = self.read(outer, ARM_C, (inner, _VECTORS))
            if only_nvhe and self.k.vhe and not f.named(inner):
                yield missed(f, INIT, INIT)
            else:
                yield from self.exactly(f, [inner], (_VECTORS,))
                asked = [call.result for call in f.named(_VECTORS) if call.result is not None]
                anew = [Eq(found, t.var(_DEFAULT_VECTORS, t.width(found))) for found in asked]
                yield from self.when(f, inner, anew[0] if len(anew) == 1 else TRUE)
        if not self.k.vhe and self.program.defines(ANSWERS, self.mode):
            yield self._answered()

    def _answered(self) -> Rule:
        """From v5.9 on EL2 answers the host's call in the register in which the host looks: x1 (SMCCC, after x0).

        The host takes what it finds there for what the function called returns: 32 bits, up to v5.13.
        """
        f = self.program.lift(ANSWERS, self.mode)
        called = self.program.lift(ANSWERS.removeprefix("handle_"), self.mode).result
        given = [value for lvalue, value in f.writes.items() if lvalue.endswith("regs.regs[1]")]
        read = f.reads.get("hw.mdcr_el2")
        right = FALSE
        if len(given) == 1 and read is not None and called is not None:
            top = t.width(called) - 1
            right = And(f.returns, Eq(t.extract(given[0], top, 0), t.extract(read, top, 0)))
        return Rule(f"{f.name}() gives the host MDCR_EL2", f.file, f.line, right)

    def creation(self) -> Iterator[Rule]:
        """debug_ptr is valid from the creation on; mdcr_el2 is computed once, before the first load."""
        early = self.program.defines("kvm_arch_vcpu_init", self.mode, ARM_C)  # before v5.7
        f = self.read("kvm_arch_vcpu_init" if early else "kvm_arch_vcpu_create", ARM_C)
        yield from self.exactly(f, [] if self.k.tracks_debug_owner else [RESET_PTR])
        yield from self.when(f, RESET_PTR, TRUE, succeeds(f))
        if self.k.first_run_init and not self.k.tracks_debug_owner:
            modern = not self.program.defines("kvm_vcpu_first_run_init", self.mode, ARM_C)
            f = self.read("kvm_arch_vcpu_run_pid_change" if modern else "kvm_vcpu_first_run_init", ARM_C)
            yield from self.exactly(f, [FIRST_RUN])
            before = t.var("vcpu->pid != NULL" if modern else "vcpu->arch.has_run_once", BOOL)
            for call in f.named(FIRST_RUN):
                says = f"{f.function}() calls {FIRST_RUN}() before the first run, and only then"
                precedes = Or(Not(succeeds(f)), call.guard, before)
                yield Rule(says, call.file, call.line, And(precedes, Or(Not(call.guard), Not(before))))

    def noted(self) -> Iterator[Rule]:
        """vcpu->cpu is the CPU on which a vCPU is loaded, -1 if it is not: a reset asks for that."""
        for name, value in (("kvm_arch_vcpu_load", t.var("cpu", 32)), ("kvm_arch_vcpu_put", t.const(-1, 32))):
            f = skeleton(self.program, name, self.mode, WATCHED, ARM_C, re.compile("^vcpu->cpu$"))
            stores = f.named("= vcpu->cpu")
            right = [And(c.guard, Eq(c.result, value)) for c in stores if c.result is not None]
            yield Rule(f"{name}() notes where the vCPU is loaded", f.file, stores[0].line if stores else f.line,
                       right[0] if len(right) == len(stores) == 1 else FALSE)  # fmt: skip

    def host_context(self) -> Iterator[Rule]:
        """Before v5.8 a vCPU names the host's context of the CPU on which it is loaded, and only vcpu_load says so."""
        name, load = "vcpu->arch.host_cpu_context", "kvm_arch_vcpu_load"
        f = skeleton(self.program, load, self.mode, WATCHED, ARM_C, re.compile(f"^{re.escape(name)}$"))
        if not f.place(name).endswith(MISSING):
            stores, tree = f.named(f"= {name}"), self.program.tree
            files = tree.build.files(self.mode) if isinstance(tree, KernelTree) else ()
            named = sum(len(_NAMES_HOST.findall(without_comments(tree.read(file)))) for file in files)
            right = named == len(stores) == 1 and stores[0].arguments == (f.place(HOST_CONTEXT),)
            text = without_comments(tree.read(f.file))
            right &= not _ALLOCATED.search(text) or len(_ALLOCATES.findall(text)) == 1
            yield Rule(f"{load}() alone notes the CPU's context of the host", f.file, f.line,
                       And(t.boolean(right), *(store.guard for store in stores)))  # fmt: skip

    def load_and_put(self) -> Iterator[Rule]:
        """Under VHE the traps are activated with the vCPU's load, and deactivated with its put."""
        if self.k.tracks_debug_owner:
            yield from self._load_and_put_by_owner()
            return
        for name, names, inner, parts, part in (
            ("kvm_arch_vcpu_load", LOADS, "kvm_vcpu_load_vhe", "__vcpu_load_activate_traps", "activate traps"),
            ("kvm_arch_vcpu_put", PUTS, "kvm_vcpu_put_vhe", "__vcpu_put_deactivate_traps", "deactivate traps"),
        ):
            f = self.read(name, ARM_C)
            new = self.k.traps_at_load and self.program.defines(inner, self.mode)
            wanted = names[1] if new else names[0]
            idle = not self.k.traps_at_load and bool(f.named(wanted))  # before v5.8 nVHE calls it too: it does nothing
            yield from self.exactly(f, [wanted] if self.k.traps_at_load or idle else [], parts={wanted: part})
            if idle:
                nothing = self.program.lift(wanted, self.mode)
                right = And(nothing.returns, t.boolean(not nothing.writes and not nothing.events))
                says = f"{wanted}() does nothing"
                yield Rule(says, nothing.file, nothing.line, right, whole=nothing.bodies)
                continue
            yield from self.when(f, wanted, TRUE)
            if new:
                f = self.read(inner)
                yield from self.exactly(f, [parts], parts={parts: part})
                yield from self.when(f, parts, TRUE)

    def _load_and_put_by_owner(self) -> Iterator[Rule]:
        """The owner is decided first, before VHE loads the rest; put gives the state back first (``OUTLINED``)."""
        traps = {"__vcpu_load_activate_traps": "activate traps", "__vcpu_put_deactivate_traps": "deactivate traps"}
        for name, first, outer in (
            ("kvm_arch_vcpu_load", LOAD, "kvm_vcpu_load_vhe"),
            ("kvm_arch_vcpu_put", PUT, "kvm_vcpu_put_vhe"),
        ):
            parts = list(OUTLINED[name]["vhe"][1:])
            f = self.read(name, ARM_C)
            wanted = [first, outer] if self.k.vhe else [first]
            yield from self.exactly(f, wanted, parts={first: first})
            for part in wanted:
                yield from self.when(f, part, TRUE)
            for call in f.named(first):
                right = call.arguments[:1] == (f.place("vcpu"),)
                yield Rule(f"{call.name}() is called with vcpu", call.file, call.line, t.boolean(right))
            if self.k.vhe:
                f = self.read(outer, more=tuple(parts))
                yield from self.exactly(f, parts, parts=traps)
                for part in parts:
                    yield from self.when(f, part, TRUE)

    def reset(self) -> Iterator[Rule]:
        """kvm_reset_vcpu: put if loaded, PSTATE and all registers reset, load again; or it stays as it is."""
        f, overwritten = _settled(self.read("kvm_reset_vcpu", more=(*_WIDTH_TESTS, ENABLES)), f"= {PSTATE}")
        yield from overwritten
        tests = f.named(*_WIDTH_TESTS)
        stays, resets = self._stays_loaded(f), [f"= {PSTATE}", "kvm_reset_sys_regs"]
        names = resets if stays else ["kvm_arch_vcpu_put", *resets, "kvm_arch_vcpu_load"]
        yield from self.exactly(f, names, (*_WIDTH_TESTS, ENABLES))
        put, stored = f.named("kvm_arch_vcpu_put"), f.named(f"= {PSTATE}")
        if not all(map(f.named, names)):
            return
        asked = nodes(tuple(call.guard for call in put))
        cpu = [v for v in asked if v.op == "var" and str(v.data).startswith("vcpu->cpu")]
        loaded = Ne(cpu[0], t.const(-1, 32)) if len(cpu) == 1 else FALSE
        aarch32 = Or(*(truth(c) for c in tests if c.name == _WIDTH_TESTS[0] or c.arguments[:1] == (_EL1_32BIT,)))
        a_cpu = And(*(Or(Eq(v, t.const(-1, 32)), t.ult(v, t.const(1 << 31, 32))) for v in cpu))  # or none (noted)
        done = And(succeeds(f), Not(aarch32), a_cpu, *(Not(truth(c)) for c in f.named(ENABLES)))
        yield from self.when(f, "kvm_arch_vcpu_put", loaded, done)
        yield from self.when(f, "kvm_arch_vcpu_load", put[0].guard if put else FALSE)
        yield from self.when(f, "kvm_reset_sys_regs", TRUE, done)
        yield from self.when(f, f"= {PSTATE}", TRUE, done)
        value = stored[0].result
        right, says = FALSE, f"{f.function}() resets PSTATE to {RESET_PSTATE:#x}"
        if value is not None:
            at_el1, at_el2 = (t.const(number, t.width(value)) for number in (RESET_PSTATE, RESET_PSTATE_EL2))
            right = Eq(value, at_el1)
            if self.k.nests:
                right, says = Eq(value, If(t.var(HAS_EL2, BOOL), at_el2, at_el1)), f"{says}, or {RESET_PSTATE_EL2:#x}"
        holds = Or(right, aarch32, Not(stored[0].guard))
        yield Rule(says, stored[0].file, stored[0].line, holds, untimely=False)
        if self.k.defers_pc_adjustment:
            yield self._forgets_pending(f)

    def _stays_loaded(self, f: Skeleton) -> bool:
        """Whether there is neither put nor load, and no need of them: before v5.0 no vCPU is reset in its run loop."""
        if f.named("kvm_arch_vcpu_put", "kvm_arch_vcpu_load") or self.k.tracks_debug_owner:
            return False
        asks = self.program.defines(_REQUESTS, self.mode, ARM_C)
        return not (asks and self.read(_REQUESTS, ARM_C).named("kvm_reset_vcpu"))

    def _forgets_pending(self, f: Skeleton) -> Rule:
        """A vCPU that PSCI resets starts without an exception or a skip left over."""
        pending = [flag.bit for name, flag in self.flags.items() if name in PENDING]
        stores = [c for c in f.calls if re.match(r"= vcpu->arch\.i?flags$", c.name) and not _leaves(c, pending)]
        right: Term = FALSE
        if stores and len(pending) == len(PENDING) and (value := stores[-1].result) is not None:
            mask = t.const(sum(1 << bit for bit in pending), t.width(value))
            asked = And(succeeds(f), t.var("vcpu->arch.reset_state.reset", BOOL))
            right = And(Eq(value & mask, t.const(0, t.width(value))), Or(Not(asked), stores[-1].guard))
        line = stores[-1].line if stores else f.line
        keeps = None if stores else (RESET, frozenset(("adjust_pc",)))
        says = f"{f.function}() forgets what is pending"
        return Rule(says, f.file, line, right, of=(RESET,), untimely=False, keeps=keeps)


def _leaves(store: Call, bits: list[int]) -> bool:
    """Whether a word that is stored has these bits as they were, whatever else is in it."""
    word = (
        [v for v in nodes((store.result,)) if f"= {v.data}".startswith(store.name)] if store.result is not None else []
    )
    if store.result is None or len(word) != 1:
        return False
    for bit in (1 << n for n in bits):
        one = t.const(bit, t.width(word[0]))
        for given, value in ((word[0] & ~one, 0), (word[0] | one, bit)):
            mask, known = known_bits(substitute(store.result, {str(word[0].data): given}))
            if not mask & bit or known & bit != value:
                return False
    return True


def assumed(program: Program, mode: Mode) -> tuple[str, ...]:
    """What is taken for granted of a reset."""
    found = []
    if program.defines(ENABLES, mode):
        found.append(f"{ENABLES}() succeeds: user space asks for pointer authentication only where the CPUs have it")
    if mode == "nvhe" and skeleton(program, "cpu_hyp_reinit", mode, {_VECTORS}, ARM_C).named(_VECTORS):
        found.append(f"{_VECTORS}() gives {_DEFAULT_VECTORS} exactly while a CPU is not initialised")
    return tuple(found)


def _settled(f: Skeleton, store: str) -> tuple[Skeleton, list[Rule]]:
    """A function without the stores that the next call, another one to the same place, overwrites; rules say so."""
    over = [(c, d) for c, d in pairwise(f.calls) if c.name == d.name == store and c.loops == d.loops]
    left = tuple(call for call in f.calls if all(call is not c for c, _ in over))
    says = f"{f.function}() overwrites what it stores first ({store})"
    return replace(f, calls=left), [Rule(says, c.file, c.line, Or(Not(c.guard), d.guard)) for c, d in over]
