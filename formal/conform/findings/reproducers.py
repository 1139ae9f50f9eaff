"""What is run on a booted kernel to see a violated claim with one's own eyes: a sequence, a control, what is looked at.

A sequence is a script in the commands of vm/scenarios.txt. Its control is the same without the step that matters; only
if the control shows what is expected does the sequence prove anything, about the kernel and the emulator below it.
``STATES`` says of every cause in formal/scope/findings.py that applies to a kernel that can be booted what became of
it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from formal.conform.boot.marks import Passage
from formal.epochs import Mode

_CURRENT = ("6.1", "6.12")
_BOTH = (Mode.VHE, Mode.NVHE)
_SS = 1 << 21  # PSTATE.SS in SPSR_EL2 format


class ReproducerError(Exception):
    """A passage of the trace that does not have what a reproducer looks at; the message says what is missing."""


@dataclass(frozen=True)
class Reproducer:
    """One finding, as something to run.

    ``expected`` and ``defect`` are what ``observe`` returns for a right kernel and for a wrong one.
    """

    name: str
    cause: str
    claims: tuple[str, ...]
    series: tuple[str, ...]
    modes: tuple[Mode, ...]
    says: str
    sequence: str
    control: str
    observe: Callable[[Passage], str]
    expected: str
    defect: str
    also: tuple[str, ...] = ()  # the causes on later kernels

    def script(self) -> str:
        """Both as scenarios: the control, and the sequence by the finding's name."""
        return f"scenario {self.name}:control\n{self.control}\nscenario {self.name}\n{self.sequence}\n"


def _last_value(passage: Passage) -> str:
    return passage.last("get_one_reg")["value"]


def _after_mmio(passage: Passage) -> str:
    """Instructions from the MMIO access, itself included, to the next step that is reported."""
    returned, exits = passage.all("returned"), passage.all("exit")
    at = next((m for m in exits if m["reason"] == "MMIO"), None)
    if at is None or exits[-1]["reason"] != "DEBUG":
        raise ReproducerError("no MMIO access with a step after it")
    begin = next(r for r in reversed(returned) if r.line < at.line)
    return _count((int(returned[-1]["pc"], 0) - int(begin["pc"], 0)) // 4)


def _after_interruption(passage: Passage) -> str:
    """Instructions from the last interruption of KVM_RUN to the step that is reported next; the loop has two."""
    interrupted = [m for m in passage.all("returned") if m["error"] == "4"]
    if not interrupted or passage.last("exit")["reason"] != "DEBUG":
        raise ReproducerError("no interruption with a step after it")
    return _count(int(passage.last("returned")["pc"] != interrupted[-1]["pc"]))


def _after_call(passage: Passage) -> str:
    """Instructions from where KVM_RUN was interrupted in a PSCI call (which has run) to the step reported next."""
    interrupted = [m for m in passage.all("returned") if m["error"] == "4"]
    begin = interrupted[-1] if interrupted else passage.all("returned")[-2]
    if passage.last("exit")["reason"] != "DEBUG":
        raise ReproducerError("no step after the call")
    beyond = (int(passage.last("returned")["pc"], 0) - int(begin["pc"], 0)) // 4
    return _count(beyond + 1 if interrupted else beyond)


def _first_step_of(vcpu: str) -> Callable[[Passage], str]:
    def observe(passage: Passage) -> str:
        """Instructions at the entry point before the first step that is reported after CPU_ON."""
        entry = int(passage.last("set_one_reg", reg="X9")["value"], 0)
        if [m["data"] for m in passage.all("exit", vcpu="1", reason="MMIO")][:1] != ["0x0"]:
            raise ReproducerError("CPU_ON was refused")
        after = [m for m in passage.all("returned", vcpu=vcpu) if int(m["pc"], 0) >= entry]
        if not after:
            raise ReproducerError(f"vCPU {vcpu} was not turned on")
        return _count((int(after[0]["pc"], 0) - entry) // 4)

    return observe


def _count(n: int) -> str:
    return f"{n} instruction{'' if n == 1 else 's'}"


def _exception_at_el0(passage: Passage) -> str:
    syndrome = int(passage.all("exit", reason="MMIO")[1]["data"], 0)
    return f"exception class {syndrome >> 26:#x}"


def _pstate_ss(passage: Passage) -> str:
    return f"PSTATE.SS {int(bool(int(_last_value(passage), 0) & _SS))}"


def _spsr_ss(passage: Passage) -> str:
    """SPSR_EL1.SS as the guest's handler has reported it."""
    return f"SPSR_EL1.SS {int(bool(int(passage.all('exit', reason='MMIO')[0]['data'], 0) & _SS))}"


def _traps(passage: Passage) -> str:
    """How many of eight reads trapped; a host interrupt in between makes one or two more trap."""
    passage.last("exit", reason="MMIO")  # they have been executed
    reads = sum("SYS_MDSCR_EL1" in line and line.endswith("read") for line in passage.lines)
    return {8: "every read traps"}.get(reads, "reads do not trap" if reads <= 2 else f"{reads} of 8 reads trap")


_TDCC = 1 << 12  # MDSCR_EL1.TDCC


def _tdcc_at_entry(passage: Passage) -> str:
    """Whether the first entry after MDSCR_EL1 has TDCC loads it, from external_mdscr_el1 (v6.14 and later)."""
    has = [
        n for n, line in enumerate(passage.lines) if re.search(r"trap_debug_regs: .* is_write=1 value=0x1000$", line)
    ]
    has += [m.line for m in passage.all("set_one_reg", reg="MDSCR_EL1", value="0x1000")]
    for n, line in enumerate(passage.lines):
        if has and n > has[0] and (entry := re.search(r"vcpu_enter: .* external_mdscr_el1=(0x[0-9a-f]+)", line)):
            return "TDCC set" if int(entry[1], 0) & _TDCC else "TDCC clear"
        if has and n > has[0] and "load_debug:" in line and "trap_debug_regs" in passage.lines[has[0]]:
            raise ReproducerError("the thread was preempted before the entry")
    raise ReproducerError("no entry with TDCC in MDSCR_EL1")


REPRODUCERS: tuple[Reproducer, ...] = (
    Reproducer(
        "mdscr-upper-half",
        "u32",
        ("saved_before_modified", "guest_mdscr_preserved"),
        ("5.10", *_CURRENT),
        _BOTH,
        "Bits 63:32 of the guest's MDSCR_EL1 are gone once user space has debugged it.",
        "vcpu plain\nset MDSCR_EL1 0x100000000\ndebug ENABLE\nrun 1\ndebug none\nget MDSCR_EL1",
        "vcpu plain\nset MDSCR_EL1 0x100000000\nrun 1\nget MDSCR_EL1",
        _last_value,
        "0x100000000",
        "0x0",
    ),
    Reproducer(
        "lost-step",
        "skip",
        ("one_step_one_instruction",),
        _CURRENT,
        _BOTH,
        "KVM_RUN with immediate_exit, between an MMIO exit and the next run, costs one single-step.",
        "vcpu plain\ndebug ENABLE|SINGLESTEP\nrun 6\nimmediate\nrun 1",
        "vcpu plain\ndebug ENABLE|SINGLESTEP\nrun 6\nrun 1",
        _after_mmio,
        "1 instruction",
        "2 instructions",
    ),
    Reproducer(
        "lost-step-at-cpu-on",
        "skip",
        ("one_step_one_instruction",),
        ("6.12", "newest"),
        _BOTH,
        "The step of an SMC that turns the vCPU off is lost when CPU_ON resets it; that of an HVC is not.",
        "vcpu turns_off_by_smc\nvcpu turns_on\nselect 1\nset X9 0x40000010\nselect 0\ndebug ENABLE|SINGLESTEP\nrun 3\n"
        "start\nsleep 200000\nselect 1\ncpu 1\nrun 2\nselect 0\njoin",
        "vcpu turns_off_by_hvc\nvcpu turns_on\nselect 1\nset X9 0x40000010\nselect 0\ndebug ENABLE|SINGLESTEP\nrun 3\n"
        "start\nsleep 200000\nselect 1\ncpu 1\nrun 2\nselect 0\njoin",
        _first_step_of("0"),
        "0 instructions",
        "1 instruction",
        ("restart",),
    ),
    Reproducer(
        "step-without-instruction",
        "skip",
        ("one_step_one_instruction",),
        (*_CURRENT, "newest"),
        _BOTH,
        "A step that is pending when SINGLESTEP is switched off is reported once it is switched on again, much later.",
        "vcpu suspends_then_spins\ndebug ENABLE|SINGLESTEP\nrun 4\ninterrupt 50000\ndebug ENABLE|USE_SW_BP\n"
        "interrupt 20000\nget X3\ndebug ENABLE|SINGLESTEP\nrun 1\nget X3",
        "vcpu suspends_then_spins\ndebug ENABLE|SINGLESTEP\nrun 4\ninterrupt 50000\ndebug none\n"
        "interrupt 20000\nget X3\ndebug ENABLE|SINGLESTEP\nrun 1\nget X3",
        _after_interruption,
        "1 instruction",
        "0 instructions",
        ("restart",),
    ),
    Reproducer(
        "pmu-denied-to-el0",
        "perf",
        ("performance_monitors_trapped",),
        ("6.1",),
        (Mode.VHE,),
        "Once a guest's counter is programmed, its EL0 may no longer read counters that its EL1 allows it.",
        "vcpu counts_at_el0 pmu\nset X9 0x80000000\nrun 20",
        "vcpu counts_at_el0 pmu\nset X9 0\nrun 20",
        _exception_at_el0,
        "exception class 0x15",
        "exception class 0x18",
    ),
    Reproducer(
        "traps-despite-mde",
        "comment",
        ("debug_exceptions_enabled_means_untrapped",),
        ("5.10", *_CURRENT),
        _BOTH,
        "With MDSCR_EL1.MDE set, the guest's accesses still trap, which a comment denies; costs time, not correctness.",
        "vcpu reads_mdscr\nset MDSCR_EL1 0x8000\nrun 1",
        "vcpu writes_and_reads_mdscr\nset X9 0x8000\nrun 1",
        _traps,
        "reads do not trap",
        "every read traps",
    ),
    Reproducer(
        "mdscr-write-ignored",
        "stale",
        ("external_mdscr_follows_guest",),
        ("newest",),
        _BOTH,
        "While user space debugs, what the guest writes to MDSCR_EL1 has no effect until the vCPU is loaded again.",
        "vcpu writes_and_reads_mdscr\nset X9 0x1000\ndebug ENABLE\nrun 1",
        "vcpu plain\nset MDSCR_EL1 0x1000\ndebug ENABLE\nrun 1",
        _tdcc_at_entry,
        "TDCC set",
        "TDCC clear",
    ),
    Reproducer(
        "pstate-ss-leak",
        "B5",
        ("guest_pstate_ss_preserved",),
        ("5.10",),
        _BOTH,
        "Known, fixed in v6.1: single-stepping leaves PSTATE.SS set in the guest.",
        "vcpu plain\ndebug ENABLE|SINGLESTEP\nrun 6\ndebug none\nget PSTATE",
        "vcpu plain\nrun 1\nget PSTATE",
        _pstate_ss,
        "PSTATE.SS 0",
        "PSTATE.SS 1",
    ),
    Reproducer(
        "guest-step-repeated",
        "frozen",
        ("guest_pstate_ss_preserved", "guest_step_not_repeated", "guest_step_not_repeated_unstepped"),
        _CURRENT,
        _BOTH,
        "A guest that steps itself over an emulated store, with a debugger in between: its step is begun again.",
        "vcpu steps_over_store\nrun 1\ndebug ENABLE|USE_SW_BP\nrun 1\ndebug none\nget PSTATE",
        "vcpu steps_over_store\nrun 2\nget PSTATE",
        _pstate_ss,
        "PSTATE.SS 0",
        "PSTATE.SS 1",
    ),
    Reproducer(
        "guest-step-repeated-by-lock",
        "frozen",
        ("guest_pstate_ss_preserved_undebugged",),
        _CURRENT,
        _BOTH,
        "A guest that steps itself over the write that locks its OS lock finds SPSR_EL1.SS set in its next exception.",
        "vcpu steps_over_lock\nset X9 1\nrun 1",
        "vcpu steps_over_lock\nset X9 0\nrun 1",
        _spsr_ss,
        "SPSR_EL1.SS 0",
        "SPSR_EL1.SS 1",
    ),
    Reproducer(
        "guest-step-lent",
        "frozen",
        ("guest_pstate_ss_preserved", "guest_step_not_repeated"),
        (*_CURRENT, "newest"),
        _BOTH,
        "A guest that steps itself, and is stepped by a debugger meanwhile: its own step is begun again.",
        "vcpu steps_over_store\nrun 1\ndebug ENABLE|SINGLESTEP\nrun 1\ndebug none\nget PSTATE",
        "vcpu steps_over_store\nrun 2\nget PSTATE",
        _pstate_ss,
        "PSTATE.SS 0",
        "PSTATE.SS 1",
        ("lent",),
    ),
    Reproducer(
        "lost-step-while-pending",
        "B6",
        ("one_step_one_instruction",),
        ("5.10",),
        _BOTH,
        "Known, fixed in v6.1: a step that is pending when KVM_RUN returns is lost.",
        "vcpu suspends\ndebug ENABLE|SINGLESTEP\nrun 4\ninterrupt 50000\nrun 1",
        "vcpu suspends\ndebug ENABLE|SINGLESTEP\nrun 4",
        _after_call,
        "1 instruction",
        "2 instructions",
    ),
)


class State(StrEnum):
    """What became of a counterexample."""

    CONFIRMED = "confirmed"
    NOT_REPRODUCIBLE = "not reproducible"
    NOT_EXPRESSIBLE = "not expressible"


_UNLIKE_CPUS = "needs CPUs with different HPMN; QEMU gives all CPUs of a machine the same number of counters"
_INVISIBLE = "no trace event and no ioctl shows the host's MDCR_EL2"
# causes that cannot be run, but have a page under findings/
BY_SOURCE = {"pmuver": "counters-unread", "watchpoint15": "watchpoint-not-forwarded"}
STATES: Mapping[str, tuple[State, str]] = {
    **{cause: (State.CONFIRMED, "") for r in REPRODUCERS for cause in (r.cause, *r.also)},
    "perf": (
        State.CONFIRMED,
        "6.1; not reproducible on 5.10, whose perf driver never writes PMUSERENR_EL0, though the model lets it",
    ),
    "window": (State.NOT_EXPRESSIBLE, _UNLIKE_CPUS),
    "rebuilt": (State.NOT_EXPRESSIBLE, _UNLIKE_CPUS),
    "B10": (State.NOT_EXPRESSIBLE, _INVISIBLE),
    "B11": (State.NOT_EXPRESSIBLE, "needs a boot value of MDCR_EL2 with bits above 31; the boot code sets none here"),
    "counters": (
        State.NOT_EXPRESSIBLE,
        "needs boot code that leaves HPMN below PMCR_EL0.N; the kernel's own sets it to that",
    ),
    "pmuver": (
        State.NOT_EXPRESSIBLE,
        "needs a CPU with PMUv3p8; QEMU's end at PMUv3p5",
    ),
    "watchpoint15": (State.NOT_EXPRESSIBLE, "needs a CPU with 16 watchpoints and FEAT_NV2; QEMU has none"),
    "pmuv3p9": (State.NOT_EXPRESSIBLE, "needs a CPU with FEAT_PMUv3p9; QEMU has none"),
    "again": (State.NOT_EXPRESSIBLE, "no event shows it; needs a CPU that goes to sleep, or KVM enabled again"),
    "owned": (State.NOT_EXPRESSIBLE, "an access that does not trap shows in no event; it is meant, for the owner"),
}


def by_name(name: str) -> Reproducer | None:
    """The reproducer of this name."""
    return next((r for r in REPRODUCERS if r.name == name), None)
