"""Every stored counterexample of a kernel, run on that kernel: confirmed, not reproducible, or not expressible.

A claim over what the trace events show is confirmed if the recording is a run of the model, each value compared, in
which the claim is broken. Of the others, steps are counted by the program counter, and traps from EL0 by the syndrome
that the guest is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from formal.common.places import PROOFS
from formal.conform.boot.boot import Recording, boot
from formal.conform.boot.marks import Passage, passages
from formal.conform.findings.expressible import NotExpressibleError, Plan
from formal.conform.findings.reproducers import State
from formal.conform.findings.substitutes import booted, breaks, express
from formal.conform.machine.emulator import Qemu
from formal.conform.trace.check import Check, Result
from formal.conform.trace.owner_groups import grouping
from formal.conform.trace.text import TraceFormatError, parse
from formal.conform.trace.watch import SHOWN_BY_RETURNS
from formal.epochs import Mode
from formal.evidence.runs.replay import Replay
from formal.evidence.runs.traces import Trace, TraceBook
from formal.properties import performance_monitors_trapped
from formal.scope.configuration import Configuration, checks
from formal.system import System
from formal.vocabulary import Claim

BOOKS = PROOFS / "traces"
_STEP, _SYSTEM = 0x32, 0x18  # ESR_ELx.EC
_AT_EL0, _CODE = "PMCNTENSET_EL0", "3,3,9,12,1"  # not a counter: QEMU lets EL0 read those whatever MDCR_EL2 says
_BEYOND = "performance_monitors_trapped_with_pmuv3p9"
_LOOSE = ("kvm_arm_init_debug", "kvm_arm_vcpu_init_debug", "kvm_arch_vcpu_create")  # once for all, or not seen


@dataclass(frozen=True)
class Row:
    """What became of one counterexample."""

    claim: str
    state: State
    why: str


def _base(claim: Claim) -> str:
    return claim.variant_of or claim.name


def plans(c: Configuration) -> dict[str, list[Plan | NotExpressibleError]]:
    """For every violated claim what is to be run, or why that cannot be: its stored trace first, then others that
    break it. A check that a precondition cannot be spared has its own trace only.

    Raises:
        TraceError: if the stored traces cannot be read.
    """
    book, known = TraceBook.read(BOOKS / f"{c.stem}.json"), dict(checks(c.claims()))
    replay = Replay(System(c.kernel()))
    found: dict[str, list[Plan | NotExpressibleError]] = {}
    for name, number in book.counterexamples.items():
        if name.startswith("not "):  # a non-property: nothing promises it
            continue
        others = [] if " without " in name else [n for n in dict.fromkeys(book.counterexamples.values()) if n != number]
        found[name] = [_plan(name, known[name], book.traces[number], replay)]
        for n in others:
            if breaks(replay, booted(book.traces[n]), known[name]):
                found[name].append(_plan(name, known[name], book.traces[n], replay))
    return found


def _plan(name: str, claim: Claim, trace: Trace, replay: Replay) -> Plan | NotExpressibleError:
    try:
        if name == _BEYOND and not breaks(replay, booted(trace), performance_monitors_trapped):
            raise NotExpressibleError("needs a CPU with FEAT_PMUv3p9 or FEAT_PMUv3_ICNTR; QEMU has none")
        return express(trace, claim, replay, _AT_EL0 if _base(claim) == performance_monitors_trapped.name else None)
    except NotExpressibleError as e:
        return e


def run(c: Configuration, kernel: Path, mode: Mode, qemu: Qemu, timeout: float) -> tuple[list[Row], Recording | None]:
    """Runs all that can be expressed, in one boot.

    Raises:
        EmulatorError, BuildError, MissingToolError: as ``boot``.
        TraceError: if the stored traces cannot be read.
    """
    wanted = plans(c)
    scenarios: dict[str, str] = {}  # script: name; several claims may be broken by one
    for plan in (p for several in wanted.values() for p in several if isinstance(p, Plan)):
        scenarios.setdefault(plan.script(""), f"counterexample_{len(scenarios)}")
    script = "\n".join(text.replace("scenario ", f"scenario {name}", 1) for text, name in scenarios.items())
    recording = boot(kernel, mode, script, qemu, timeout=timeout) if script else None
    found = passages(recording.trace) if recording is not None else {}
    known = dict(checks(c.claims()))
    rows = []
    for name, several in wanted.items():
        judged = [
            (State.NOT_EXPRESSIBLE, str(p))
            if isinstance(p, NotExpressibleError)
            else judge(c, known[name], p, found.get(scenarios[p.script("")]))
            for p in several
        ]
        state, why = min(judged, key=lambda j: list(State).index(j[0]))
        rows.append(Row(name, state, why if judged[0][0] is state else f"{why}; of its first trace, {judged[0][1]}"))
    return rows, recording


# ---- what a recording says


def judge(c: Configuration, claim: Claim, plan: Plan, passage: Passage | None) -> tuple[State, str]:
    """Whether the passage shows the claim broken."""
    if passage is None:
        return State.NOT_REPRODUCIBLE, "the scenario did not run"
    try:
        result = Check(c.kernel(), grouping(parse("\n".join(passage.lines) + "\n")), also=SHOWN_BY_RETURNS).run()
    except TraceFormatError as e:
        return State.NOT_REPRODUCIBLE, f"the recording is not understood: {e}"
    if result.unexplained is not None:
        event = result.unexplained.event
        return State.NOT_REPRODUCIBLE, f"the recording is no run of the model: {event.text if event else 'cut off'}"
    assert result.watch is not None
    if any(w.name == _base(claim) for w, _, _ in result.watch.claims):
        seen = f"{result.values} values compared"
        if _base(claim) in result.watch.broken:
            return State.CONFIRMED, f"broken in a run that the events show, {seen}"
        return State.NOT_REPRODUCIBLE, _missing(plan, result) or f"it holds in all of {result.watch.states} states"
    if _base(claim) == "one_step_one_instruction":
        return _steps(passage, _missing(plan, result))
    if _base(claim) == performance_monitors_trapped.name:
        return _told(passage, _missing(plan, result))
    return State.NOT_EXPRESSIBLE, "no event and no ioctl shows what the claim speaks of"


def _missing(plan: Plan, result: Result) -> str:
    """The first operation of the trace that the kernel did not take; empty if it took all."""
    wanted = Counter(s.operation for s in plan.trace.steps if s.operation not in _LOOSE)
    taken: Mapping[str, int] = result.operations + result.assumed
    absent = next((name for name, n in wanted.items() if taken[name] < n and not name.startswith("the ")), None)
    return f"the kernel did not take the step {absent}" if absent else ""


def _steps(passage: Passage, missing: str) -> tuple[State, str]:
    """Instructions between one reported step and the next, by the program counter; the programs have no branch."""
    last, stepping, counts = None, False, []
    for mark in passage.marks:
        if mark.fields.get("vcpu", "0") != "0":
            continue
        if mark.verb == "set_one_reg" and mark["reg"] == "PC":
            last = int(mark["value"], 0)
        elif mark.verb == "set_guest_debug":
            on = bool(int(mark["control"], 0) & 2)
            last = pc if on and not stepping and (pc := _pc(passage, mark.line)) is not None else last
            stepping = on
        elif mark.verb == "exit" and mark["reason"] == "DEBUG" and int(mark["esr"], 0) >> 26 == _STEP:
            pc = _pc(passage, mark.line)
            assert pc is not None and last is not None
            counts.append((pc - last) // 4)
            last = pc
    wrong = [n for n in counts if n != 1]
    if wrong:
        return State.CONFIRMED, f"a reported step is {wrong[0]} instructions"
    return State.NOT_REPRODUCIBLE, missing or f"each of {len(counts)} reported steps is one instruction"


def _pc(passage: Passage, line: int) -> int | None:
    """Where vCPU 0 was when KVM_RUN returned last."""
    seen = [m for m in passage.all("returned", vcpu="0") if m.line < line]
    return int(seen[-1]["pc"], 0) if seen else None


def _told(passage: Passage, missing: str) -> tuple[State, str]:
    """Whether the guest's EL1 took the exception that should have gone to EL2."""
    trapped = any(line.endswith(f"({_CODE}) read") for line in passage.lines)
    told = [int(m["data"], 0) >> 26 for m in passage.all("exit", reason="MMIO", write="1") if m["data"] != "0xdead"]
    if not trapped and told and told[-1] == _SYSTEM:
        return State.CONFIRMED, f"the guest's EL1 is told that {_AT_EL0} trapped (exception class {_SYSTEM:#x})"
    says = "went to EL2" if trapped else "neither went to EL2 nor to EL1"
    return State.NOT_REPRODUCIBLE, missing or f"the read of {_AT_EL0} at EL0 {says}"
