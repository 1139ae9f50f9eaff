"""The trace of a violated claim as something to run: instructions of a guest, ioctls; commands of vm/scenarios.txt.

Each step of the trace becomes an instruction of a guest of its own, an ioctl, or part of a KVM_RUN. The guest is
straight-line code without a branch, and registers have their values from the start, so that no instruction is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from formal.arch.sysregs import SYSTEM_REGISTERS, Encoding
from formal.conform.machine import asm
from formal.evidence.runs.traces import Step, Trace
from formal.logic.terms import ArrayValue
from formal.state import REGISTER_OF_BANK, Exit

HPMN = 6  # of every CPU model that is booted
BASE = 0x40000000  # where the program of vCPU 0 is
MMIO = 0x09000000
IMPLEMENTED = {"DBGB": 6, "DBGW": 4}  # of the same
NOP, SMC_0, ERET, SPIN = 0xD503201F, 0xD4000003, 0xD69F03E0, 0x14000000
CPU_SUSPEND, CPU_OFF, PSCI_VERSION = 0xC4000001, 0x84000002, 0x84000000
HANDLER = 0x800  # of the guest's exceptions; its entry for AArch64 EL0 is at 0x400
CREATE, INIT, FIRST = "kvm_arch_vcpu_create", "KVM_ARM_VCPU_INIT", "kvm_arm_vcpu_init_debug"
LOAD, PUT, RETURNS = "kvm_arch_vcpu_load", "kvm_arch_vcpu_put", "kvm_arch_vcpu_ioctl_run returns"
SETUP, ENTERS, LEAVES, CLEAR = (
    "kvm_arm_setup_debug",
    "__kvm_vcpu_run enters",
    "__kvm_vcpu_run returns",
    "kvm_arm_clear_debug",
)
EXECUTES, EMULATES, RESET = "the guest executes", "handle_exit emulates", "kvm_reset_vcpu"
PERF = "the host writes PMUSERENR_EL0"
_FLAGS = {1: "ENABLE", 2: "SINGLESTEP", 1 << 16: "USE_SW_BP", 1 << 17: "USE_HW"}
_ENCODINGS = {r.name: r.encoding() for r in SYSTEM_REGISTERS if not r.indices}
_BANK_OP2 = {"DBGBVR": 4, "DBGBCR": 5, "DBGWVR": 6, "DBGWCR": 7}
MDSCR: Encoding = (2, 0, 0, 2, 2)
OSLAR: Encoding = (2, 0, 1, 0, 4)
OSLSR: Encoding = (2, 0, 1, 1, 4)
_ENDS = {Exit.DEBUG_ACCESS: MDSCR, Exit.EMULATE: OSLSR}


class NotExpressibleError(Exception):
    """The trace cannot be made to happen; the message is the step, and why."""

    def __init__(self, why: str, step: int = 0) -> None:
        super().__init__(why)
        self.step = step


@dataclass
class Plan:
    """What is to be run, and the trace that it follows."""

    trace: Trace
    commands: list[str] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    handler: list[int] = field(default_factory=list)
    second: bool = False  # another vCPU turns this one on again

    def script(self, name: str) -> str:
        """A scenario."""
        code = _code(0, self.words) + _code(HANDLER + 0x400, self.handler)
        lines = [f"scenario {name}", self.commands[0], *(["vcpu turns_on", "select 0"] if self.second else ())]
        return "\n".join([*lines, *code, *self.commands[1:]]) + "\n"


def _code(offset: int, words: Sequence[int]) -> list[str]:
    parts = [words[n : n + 16] for n in range(0, len(words), 16)]
    return [f"code {offset + 64 * n:#x} " + " ".join(f"{w:#x}" for w in part) for n, part in enumerate(parts)]


def _place(index: int) -> tuple[str, int]:
    """Which break- or watchpoint register it is; a CPU of the emulator must have it."""
    kind, number = REGISTER_OF_BANK[index >> 4], index & 15
    if number >= IMPLEMENTED[kind[:4]]:
        raise NotExpressibleError(f"{kind}{number}_EL1: the emulator's CPUs have {IMPLEMENTED[kind[:4]]}")
    return kind, number


# ---- step by step


class Expression:
    """The commands and instructions of one trace, in the order of its steps."""

    def __init__(self, trace: Trace, reads: str | None = None) -> None:
        self.trace = trace
        self._reads = reads  # a register that EL0 reads in the end
        self.found = Plan(trace)
        self._registers: dict[int, int] = {}  # value: number of the register that holds it, from the start
        self._cpu = 0
        self._before: list[str] = []  # for registers, right before the next KVM_RUN
        self._entered = False
        self._blocks = False
        self._asleep = False  # a thread of its own runs the vCPU, since this one will be turned off

    def sequence(self) -> Plan:
        """All of it.

        Raises:
            NotExpressibleError: at the first step that cannot be made to happen.
        """
        steps, n = self.trace.steps, 0
        pmu = " pmu" if any(s.operation == PERF for s in steps) else ""
        self.found.commands.append(f"vcpu generated{pmu}")
        self._at = len(self.found.commands)
        while n < len(steps):
            if steps[n].vcpu != 0:
                raise NotExpressibleError(f"operation {steps[n].operation} on a second vCPU", n)
            n = self._step(n, steps[n])
        self._finish()
        return self.found

    def _finish(self) -> None:
        """The program's end, and the rest of the KVM_RUN that the trace ends in."""
        if self._reads is not None:
            self._read_at_el0(self._reads)
        done, address = self._holding(0xDEAD), self._holding(MMIO)
        self.found.words += [0xB9000000 | address << 5 | done, SPIN]  # STR W, [X]
        if self._asleep:
            self.found.commands.append("join")
        else:
            self._run("run 1")
        loads = [f"set X{n} {value:#x}" for value, n in self._registers.items()]
        self.found.commands[self._at : self._at] = loads

    def _holding(self, value: int) -> int:
        """A register that has the value from the start; X0 to X3 are for calls, X9 for the other vCPU."""
        if value not in self._registers:
            number = 11 + len(self._registers)
            if number > 30:
                raise NotExpressibleError("more values than registers")
            self._registers[value] = number
        return self._registers[value]

    def _run(self, command: str) -> None:
        self.found.commands += [*self._before, command]
        self._before, self._entered, self._blocks = [], False, False

    def _call(self, function: int, conduit: int, n: int) -> None:
        if any(c.startswith("set X0") for c in self._before):
            raise NotExpressibleError("two calls of PSCI in one KVM_RUN", n)
        self._before.append(f"set X0 {function:#x}")
        self.found.words.append(conduit)

    def _step(self, n: int, step: Step) -> int:
        """Takes up one step, or several that belong together; the number of the next."""
        name, inputs, steps = step.operation, step.inputs, self.trace.steps
        if name in (CREATE, INIT, FIRST, "kvm_arm_init_debug", SETUP, CLEAR, "kvm_handle_mmio_return"):
            return n + 1
        if name == ENTERS:
            self._entered = True
        elif name == LOAD:
            if step.cpu != self._cpu:
                self._cpu = step.cpu
                self.found.commands.append(f"cpu {step.cpu}")
        elif name == RETURNS:
            return self._returns(n)
        elif name == LEAVES:
            return self._leaves(n, Exit(int(inputs.get("exit", 0))))  # type: ignore[arg-type]
        elif name == EXECUTES:
            after = steps[n + 1] if n + 1 < len(steps) else None
            if after is not None and after.operation == LEAVES and not after.inputs.get("exit"):
                ends = [s.operation for s in steps[n + 2 : n + 4] if s.operation != CLEAR][:1] == [RETURNS]
                self._call(CPU_SUSPEND if ends else PSCI_VERSION, asm.hvc(0), n)
                self._blocks = ends
                return n + 2
            self.found.words.append(NOP)
        elif name == "the guest writes MDSCR_EL1":
            self._access(MDSCR, True, int(inputs.get("value", 0)))  # type: ignore[arg-type]
        elif name == "the guest writes a break- or watchpoint register":
            self._access_bank(inputs)
        elif name == PERF:
            self._counts()
        elif name.startswith("KVM_SET"):
            self._user(n, name, inputs)
        else:
            raise NotExpressibleError(f"operation {name}: nothing makes it happen at that point", n)
        return n + 1

    def _returns(self, n: int) -> int:
        last = self.trace.steps[n - 1].operation
        if not self._entered:
            self._run("immediate")
        elif self._blocks:
            self._run("interrupt 50000")
        elif last == "kvm_handle_guest_debug" or (last in (CLEAR, LEAVES) and self._mmio):
            self._run("run 1")
        else:
            raise NotExpressibleError(f"operation {RETURNS} after {last}: no signal comes just then", n)
        return n + 1

    _mmio = False

    def _leaves(self, n: int, kind: Exit) -> int:
        """An exit and its handler."""
        steps = self.trace.steps
        end = n == len(steps) - 1 or (n == len(steps) - 2 and steps[n + 1].operation == CLEAR)
        handler = next((s for s in steps[n + 1 : n + 3] if s.operation != CLEAR), None)
        self._mmio = kind is Exit.MMIO
        after = n + 1 + next((i for i, s in enumerate(steps[n + 1 : n + 3]) if s.operation != CLEAR), 2)
        if kind is Exit.MMIO:
            self.found.words.append(0xB9000000 | self._holding(MMIO) << 5 | self._holding(1))
            return n + 1
        if kind is Exit.STEP:
            return after + (handler is not None and handler.operation == "kvm_handle_guest_debug")
        if kind is Exit.DEBUG:
            self.found.words.append(asm.brk(0))
            return after + (handler is not None)
        if (handler is None or end) and kind in _ENDS:  # the trace ends before the exit is handled
            self.found.words.append(asm.mrs(_ENDS[kind]) | 3)
            return len(steps)
        if handler is None or end:
            raise NotExpressibleError(f"operation {LEAVES} with exit {kind.name}: nothing makes it happen there", n)
        if kind is Exit.DEBUG_ACCESS and handler.operation == "trap_debug_regs":
            self._access(MDSCR, bool(handler.inputs.get("is_write")), int(handler.inputs.get("value", 0)))  # type: ignore[arg-type]
        elif kind is Exit.DEBUG_ACCESS:
            self._access_bank(handler.inputs)
        elif kind is Exit.OS_ACCESS:
            self._access(OSLAR, True, int(bool(handler.inputs.get("locks"))))
        elif kind is Exit.EMULATE and handler.inputs.get("powers_off"):
            return self._turned_off(after, SMC_0)
        elif kind is Exit.EMULATE:
            self.found.words.append(asm.mrs(OSLSR) | 3)
        elif kind is Exit.FAULT:
            self.found.words.append(0xB9400003 | self._holding(BASE + 0x9000 + 0x1000 * n % 0x6000) << 5)
        elif handler.operation == "PSCI CPU_OFF":
            return self._turned_off(after, asm.hvc(0))
        else:
            raise NotExpressibleError(f"operation {LEAVES} with exit {kind.name}: nothing makes it happen there", n)
        return after + 1

    def _turned_off(self, n: int, conduit: int) -> int:
        """CPU_OFF, and CPU_ON by another vCPU, at the next instruction."""
        if n + 1 >= len(self.trace.steps) or self.trace.steps[n + 1].operation != RESET or self._asleep:
            raise NotExpressibleError("operation PSCI CPU_OFF without one CPU_ON after it", n)
        self._call(CPU_OFF, conduit, n)
        entry = BASE + 4 * len(self.found.words)
        self.found.second = self._asleep = True
        before, self._before = self._before, []
        self.found.commands += [f"select 1\nset X9 {entry:#x}\nselect 0", *before, "start", "sleep 200000"]
        self.found.commands.append(f"select 1\ncpu {1 - self._cpu}\nrun 2\nselect 0")
        return n + 2

    def _access(self, encoding: Encoding, writes: bool, value: int) -> None:
        word = asm.msr(encoding) | self._holding(value) if writes else asm.mrs(encoding) | 3
        self.found.words.append(word)

    def _access_bank(self, inputs: Mapping[str, object]) -> None:
        index, value = int(inputs.get("index", 0)), int(inputs.get("value", 0))  # type: ignore[call-overload]
        kind, number = _place(index)
        self._access((2, 0, 0, number, _BANK_OP2[kind]), True, value)

    def _counts(self) -> None:
        """The guest starts a counter; its emulation has the host's perf driver write PMUSERENR_EL0."""
        enable, clear, vectors = self._holding(1), self._holding((1 << 64) - 1), self._holding(BASE + HANDLER)
        writes = [("VBAR_EL1", vectors), ("PMCNTENCLR_EL0", clear), ("PMINTENCLR_EL1", clear), ("PMOVSCLR_EL0", clear)]
        writes += [("PMUSERENR_EL0", enable), ("PMCR_EL0", enable), ("PMCNTENSET_EL0", self._holding(1 << 31))]
        for name, register in writes:
            encoding = (3, 0, 12, 0, 0) if name == "VBAR_EL1" else _ENCODINGS[name]
            self.found.words.append(asm.msr(encoding) | register)

    def _read_at_el0(self, name: str) -> None:
        """An ERET to EL0, a read there, and a report of the syndrome of what EL1 is told."""
        words, to = self.found.words, len(self.found.words) + 3
        elr, spsr = (3, 0, 4, 0, 1), (3, 0, 4, 0, 0)
        words += [asm.msr(elr) | self._holding(BASE + 4 * to), asm.msr(spsr) | self._holding(0), ERET]
        words += [asm.mrs(_ENCODINGS[name]) | 3, asm.svc(0)]
        address = self._holding(MMIO)
        self.found.handler = [asm.mrs((3, 0, 5, 2, 0)) | 6, 0xB9000000 | address << 5 | 6, SPIN]

    def _user(self, n: int, name: str, inputs: Mapping[str, object]) -> None:
        if self._asleep:
            raise NotExpressibleError(f"operation {name} while KVM_RUN goes on", n)
        if name == "KVM_SET_GUEST_DEBUG":
            self.found.commands.append(self._debug(n, inputs))
        elif name.startswith("KVM_SET_ONE_REG DBG"):
            kind, number = _place(int(inputs.get("index", 0)))  # type: ignore[call-overload]
            self.found.commands.append(f"set {kind}{number}_EL1 {inputs.get('value', 0):#x}")
        elif name == "KVM_SET_ONE_REG OSLSR_EL1":
            self.found.commands.append(f"set OSLSR_EL1 {0xA if inputs.get('locks') else 8:#x}")
        elif name in ("KVM_SET_ONE_REG MDSCR_EL1", "KVM_SET_ONE_REG PSTATE"):
            self.found.commands.append(f"set {name.split()[1]} {inputs.get('value', 0):#x}")
        elif name == "KVM_SET_MP_STATE":
            self.found.commands.append("stop" if inputs.get("stopped") else "wake")
        else:
            raise NotExpressibleError(f"operation {name}: the driver has no command for it", n)

    def _debug(self, n: int, inputs: Mapping[str, object]) -> str:
        control = int(inputs.get("control", 0))  # type: ignore[call-overload]
        if control & ~sum(_FLAGS):
            raise NotExpressibleError(f"operation KVM_SET_GUEST_DEBUG with {control:#x}: a flag that KVM refuses", n)
        words = ["|".join(name for bit, name in _FLAGS.items() if control & bit) or "none"]
        bank = inputs.get("bank", ArrayValue(0))
        assert isinstance(bank, ArrayValue)
        for letter, control_at, value_at in (("b", 0, 16), ("w", 32, 48)):
            for i in range(16):
                if bank[control_at + i] or bank[value_at + i]:
                    words.append(f"{letter} {i} {bank[value_at + i]:#x} {bank[control_at + i]:#x}")
        return "debug " + " ".join(words)
