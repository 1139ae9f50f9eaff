"""The trace that a kernel would print that does what a random walk of the model does."""

from __future__ import annotations

from formal.conform.trace.runs import (
    Machine,
    Run,
    shows_bank,
    shows_clear,
    shows_first_run,
    shows_probe,
    shows_set_debug,
    shows_setup,
    shows_values,
)
from formal.epochs import Kernel
from formal.state import DebugOwner, Exit
from formal.system import System
from formal.transitions import OPERATIONS
from tests.walks import Walk

# What another vCPU does to this one by PSCI is left out: nothing shows which vCPU it was.
LEFT_OUT = ("PSCI CPU_OFF", "KVM_SET_MP_STATE", "kvm_reset_vcpu")
_EC = {Exit.STEP: 0x32, Exit.DEBUG: 0x3C, Exit.DEBUG_ACCESS: 0x18, Exit.OS_ACCESS: 0x18, Exit.EMULATE: 0x01}
_EC |= {Exit.FAULT: 0x24, Exit.MMIO: 0x24}
_BANKS = ("bcr", "bvr", "wcr", "wvr")
_OP2 = {"bvr": 4, "bcr": 5, "wvr": 6, "wcr": 7}


class Loop(Walk):
    """A walk that keeps to what the kernel's code does and the model leaves open: debug exits return to user space."""

    def __init__(self, kernel: Kernel, vcpus: int, cpus: int, seed: int) -> None:
        self.owes: set[int] = set()
        system = System(kernel, tuple(op for op in OPERATIONS if op.name not in LEFT_OUT))
        super().__init__(system, vcpus, cpus, seed)

    def _try(self, name, pair):
        if name in ("kvm_arm_setup_debug", "__kvm_vcpu_run enters") and pair[0] in self.owes and self.ends_setup(name):
            return None
        return super()._try(name, pair)

    def ends_setup(self, name):
        return (name == "kvm_arm_setup_debug") != self.system.kernel.tracks_debug_owner

    def _value(self, name, sort):
        return False if name == "powers_off" else super()._value(name, sort)

    def step(self):
        pair = super().step()
        done = self.steps[-1].operation
        if done == "kvm_handle_guest_debug":
            self.owes.add(pair[0])
        elif done == "kvm_arch_vcpu_ioctl_run returns":
            self.owes.discard(pair[0])
        return pair


class Recorder:
    """Writes the trace of a walk, line by line; each vCPU has a thread of its own."""

    def __init__(self, walk: Walk, kernel: Kernel) -> None:
        self.machine, self.kernel = Machine(kernel), kernel
        pick = {"v": {}, "p": {}}
        for name, value in walk.initial.items():
            tag, _, rest = name.partition(".")
            pick[tag[0]].setdefault(int(tag[1:]), {})[f"{tag[0]}0.{rest}"] = value
        self.run = Run(vcpus={(0, f"v{n}"): x for n, x in pick["v"].items()}, cpus=pick["p"])
        self.exits: dict[int, Exit] = {}
        self.lines: list[str] = []
        for step in walk.steps:
            self._take(step)

    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    def _print(self, vcpu, cpu, name, text):
        self.lines.append(f"  vcpu-{100 + vcpu} [{cpu:03}] d.... {len(self.lines) + 1}: {name}: {text}")

    def _advance(self, step, key):
        """The run before and after a step."""
        before = self.run
        after = self.machine.step(before, step.operation, key, step.cpu, 1, **step.inputs)
        assert after is not None, step
        self.run = after
        return before, after

    def _take(self, step) -> None:
        v, p, key = step.vcpu, step.cpu, (0, f"v{step.vcpu}")
        before, after = self._advance(step, key)
        match step.operation:
            case "kvm_arm_vcpu_init_debug" if self.kernel.first_run_init:
                shown = shows_first_run(self.machine, after, key)
                self._print(v, p, shown.name, shown.text)
            case "kvm_arm_setup_debug":
                self._all(v, p, shows_setup(self.machine, before, after, key, p))
            case "__kvm_vcpu_run enters":
                self._print(v, p, "kvm_entry", "PC: 0x0")
            case "kvm_arm_clear_debug":
                self._all(v, p, shows_clear(self.machine, before, after, key, p))
                self.exits[v] = kind = Exit(after.value(key, "exit"))
                self._print(v, p, "kvm_exit", self._exit(kind))
            case "trap_debug_regs":
                value = step.inputs["value"] if step.inputs["is_write"] else before.value(key, "mdscr_el1")
                self._access(v, p, (2, 0, 0, 2, 2), step.inputs["is_write"])
                self._trap(v, p, "trap_debug_regs", step.inputs["is_write"], 23, value)
            case "trap_bvr, trap_bcr, trap_wvr, trap_wcr":
                kind, number = _BANKS[step.inputs["index"] // 16], step.inputs["index"] % 16
                self._access(v, p, (2, 0, 0, number, _OP2[kind]), True)
                reg = number if self.kernel.indexes_trapped_banks else 0
                self._trap(v, p, f"trap_{kind}", True, reg, step.inputs["value"])
            case "trap_oslar_el1":
                self._access(v, p, (2, 0, 1, 0, 4), True)
            case "KVM_SET_GUEST_DEBUG":
                shown = shows_set_debug(step.inputs["control"])
                self._print(v, p, shown.name, self._text(v, shown.text))
            case "kvm_arch_vcpu_ioctl_run returns":
                self._print(v, p, "kvm_userspace_exit", self._reason(self.exits.pop(v, Exit.NONE)))

    def _all(self, v, p, shown) -> None:
        for s in shown:
            text = s.text
            if s.name == "kvm_arm_set_regset":
                text = self._regset(v, s.register)
            self._print(v, p, s.name, self._text(v, text))

    def _text(self, v, text):
        return text.replace("vcpu: ...", f"vcpu: 00000000{v:08x}")

    def _regset(self, v, register):
        values = self.run.vcpus[(0, f"v{v}")]
        bank = values["v0.external_debug_state" if values["v0.debug_ptr_external"] else "v0.vcpu_debug_state"]
        kinds = (0, 1) if register == "BKPTS" else (2, 3)
        control, value = (",".join(f"{bank[k * 16 + n]:#x}" for n in range(16)) for k in kinds)
        return f"16 {register} CTRL:{{{control}}} VALUE:{{{value}}}"

    def _exit(self, kind):
        if kind is Exit.NONE:
            return "IRQ: HSR_EC: 0x0000 (UNKNOWN), PC: 0x0"
        return f"TRAP: HSR_EC: {_EC[kind]:#06x} (X), PC: 0x0"

    def _access(self, v, p, encoding, writes):
        text = f"PC: 0 REG ({','.join(map(str, encoding))}) {'write' if writes else 'read'}"
        self._print(v, p, "kvm_sys_access", text)

    def _trap(self, v, p, function, writes, number, value):
        direction = "write to" if writes else "read from"
        self._print(v, p, "trap_reg", f"{function} {direction} reg {number} ({value:#018x})")

    def _reason(self, kind):
        if kind in (Exit.STEP, Exit.DEBUG):
            return "reason KVM_EXIT_DEBUG (4)"
        return "reason KVM_EXIT_MMIO (6)" if kind is Exit.MMIO else "reason restart (4)"


class OwnerRecorder(Recorder):
    """The same for v6.14 and later, whose dynamic events show load and put as well."""

    def _probe(self, v, p, shown, text=None) -> None:
        self._print(
            v,
            p,
            shown.name,
            f"(kvm_vcpu_load_debug+0x0 <- f) vcpu={v + 4096:#x} {shown.text if text is None else text}".rstrip(),
        )

    def _take(self, step) -> None:
        v, p, key = step.vcpu, step.cpu, (0, f"v{step.vcpu}")
        before, after = self._advance(step, key)
        writes = step.inputs.get("is_write", True)
        match step.operation:
            case "kvm_arch_vcpu_create":
                self._probe(v, p, shows_values("vcpu_create", {}))
            case "kvm_arch_vcpu_load":
                self._load(v, p, key)
            case "kvm_arch_vcpu_put" | "kvm_arch_vcpu_ioctl_run returns":
                self._probe(v, p, shows_probe("put_debug", after, key))
                if step.operation != "kvm_arch_vcpu_put":
                    self._print(v, p, "kvm_userspace_exit", self._reason(self.exits.pop(v, Exit.NONE)))
            case "__kvm_vcpu_run enters":
                self._probe(v, p, shows_probe("vcpu_enter", before, key))
                self._print(v, p, "kvm_entry", "PC: 0x0")
            case "__kvm_vcpu_run returns":
                self._leave(v, p, key, after)
            case "trap_debug_regs":
                value = step.inputs["value"] if writes else before.value(key, "mdscr_el1")
                self._access(v, p, (2, 0, 0, 2, 2), writes)
                self._own(v, p, key, "trap_debug_regs", (2, 2), writes, value)
            case "trap_bvr, trap_bcr, trap_wvr, trap_wcr":
                kind, number = _BANKS[step.inputs["index"] // 16], step.inputs["index"] % 16
                self._access(v, p, (2, 0, 0, number, _OP2[kind]), True)
                self._own(v, p, key, "trap_dbg_wb_reg", (number, _OP2[kind]), True, step.inputs["value"])
            case "trap_oslar_el1":
                put = self.machine.step(before, "kvm_arch_vcpu_put", key, p, 1)
                assert put is not None
                self._access(v, p, (2, 0, 1, 0, 4), True)
                self._probe(v, p, shows_values("handle_oslar", {"value": int(step.inputs["locks"])}))
                self._probe(v, p, shows_probe("put_debug", put, key))
                self._load(v, p, key)
            case "KVM_SET_GUEST_DEBUG":
                self._probe(v, p, shows_values("set_guest_debug", {}))
                shown = shows_set_debug(step.inputs["control"])
                self._print(v, p, shown.name, self._text(v, shown.text))

    def _load(self, v, p, key) -> None:
        self._probe(v, p, shows_values("guest_mdscr", {"value": self.run.value(key, "mdscr_el1")}))
        self._probe(v, p, shows_probe("load_debug", self.run, key))

    def _own(self, v, p, key, function, place, writes, value) -> None:
        self._probe(v, p, shows_probe("set_guest_ownership", self.run, key))
        values = {"crm": place[0], "op2": place[1], "is_write": int(writes), "value": value}
        self._probe(v, p, shows_values(function, values))

    def _leave(self, v, p, key, after) -> None:
        self._probe(v, p, shows_probe("vcpu_leave", after, key))
        owner = after.value(key, "debug_owner")
        for name, shown in (("debug_bank", "vcpu_debug_state"), ("external_bank", "external_debug_state")):
            if owner == DebugOwner.HOST or (owner == DebugOwner.GUEST and name == "debug_bank"):
                bank = after.value(key, shown)
                lists = (",".join(f"{bank[k * 16 + n]:#x}" for n in range(16)) for k in range(4))
                fields = " ".join(f"dbg_{kind}={{{x}}}" for kind, x in zip(_BANKS, lists, strict=True))
                self._probe(v, p, shows_bank(name, self.machine, bank, owner), f"debug_owner={owner} {fields}")
        self.exits[v] = kind = Exit(after.value(key, "exit"))
        self._print(v, p, "kvm_exit", self._exit(kind))
