"""The CPU part: the trap table and the debug exceptions of ``formal.arch`` against emulated CPUs.

For each CPU model the probe boots twice: to read the identification registers, which decide what is probed and what is
expected, and to run every probe point in one go.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from formal.arch import features as feat
from formal.arch.aarch32 import REGISTERS32
from formal.arch.sysregs import SYSTEM_REGISTERS
from formal.common.lifetime import Scratch
from formal.common.options import UsageError
from formal.conform.cpu import compare, debug_points
from formal.conform.cpu.compare import AnyPoint, Difference
from formal.conform.cpu.deviations import DEVIATIONS, Book
from formal.conform.cpu.deviations32 import DEVIATIONS32
from formal.conform.cpu.identify import ID_REGISTERS, NOT_IDENTIFIED, Cpu, identify
from formal.conform.cpu.points import Point, points, selected
from formal.conform.cpu.points32 import FORMS, points32, spelled
from formal.conform.cpu.settings import Setting, settings
from formal.conform.machine import asm, emulator
from formal.conform.machine.blob import Blob, Run
from formal.conform.machine.build import build

DEFAULT_MODELS = ("cortex-a57", "neoverse-n1", "neoverse-v1", "max")  # those that the emulator has


@dataclass
class CpuReport:
    """What was found on one CPU model."""

    model: str
    cpu: Cpu
    settings: int
    accesses: int
    choices: int
    outcomes: dict[str, int]
    debug: int
    debug_kinds: dict[str, int]
    explained: int
    unexplained: list[Difference]
    reached: set[str]  # registers of the table that QEMU has: some access of theirs executed, or trapped
    seconds: float


@dataclass
class Report:
    """What was found on all."""

    qemu: str
    book: Book
    cpus: list[CpuReport] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether something differs that nothing explains, or an explanation has lost its object."""
        return any(c.unexplained for c in self.cpus) or bool(self.book.vanished)

    def untested(self) -> list[tuple[str, str]]:
        """Rows of the tables, or parts of them, that no CPU could test, each with the reason."""
        return [*self._untested64(), *self._untested32()]

    def _untested32(self) -> Iterator[tuple[str, str]]:
        cpus = [c for c in self.cpus if c.cpu.aarch32_el0]
        reached = {name for c in cpus for name in c.reached}
        for reg in REGISTERS32:
            name, acts = spelled(reg), reg.acts_as
            from_el0 = 0 in (acts.read.lowest_el, acts.write.lowest_el)
            capable = [c for c in cpus if from_el0 or c.cpu.aarch32_el1]
            if reg.form not in FORMS:
                yield name, "LDC and STC are not probed"
            elif not capable:
                yield name, f"no CPU has AArch32 at EL{0 if from_el0 else 1}"
            elif name not in reached and not any(feat.present(acts.features, c.cpu.features) for c in capable):
                yield name, f"no CPU with AArch32 has {feat.spelled(acts.features)}; found UNDEFINED"
            elif name not in reached:
                yield name, "QEMU leaves it UNDEFINED"
            else:
                if from_el0 and not any(c.cpu.aarch32_el1 for c in cpus):
                    yield name, "from EL1 only: no CPU has AArch32 there"
                if from_el0 and acts.read.fgt and not any("FEAT_FGT" in c.cpu.features for c in cpus):
                    yield name, "its fine-grained trap only: no CPU with AArch32 has FEAT_FGT"

    def _untested64(self) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        every = [c.cpu.features for c in self.cpus]
        for reg in SYSTEM_REGISTERS:
            unread = [f for f in NOT_IDENTIFIED if (f,) in reg.features]
            if reg.name in {name for c in self.cpus for name in c.reached}:
                fine = {r.fgt[0] for r in (reg.read, reg.write) if r.fgt}
                if fine and not any(feat.has_fgt(f, have) for f in fine for have in every):
                    found.append((reg.name, f"its fine-grained trap only: no CPU has {' or '.join(sorted(fine))}"))
                if "TDCC" in reg.traps and not any("FEAT_FGT" in have for have in every):
                    found.append((reg.name, "its trap by MDCR_EL2.TDCC only: no CPU has FEAT_FGT"))
                enables = {r.enable for r in (reg.read, reg.write)} - {None, "TDCC", "EnSPM"}
                if enables and not any("FEAT_PMUv3p9" in have for have in every):
                    found.append((reg.name, "PMUSERENR_EL0.UEN and TID only: no CPU has FEAT_PMUv3p9"))
            elif unread:
                found.append((reg.name, f"whether a CPU has {unread[0]} is not read from its identification registers"))
            elif not any(feat.present(reg.features, have) for have in every):
                found.append((reg.name, f"no CPU has {feat.spelled(reg.features)}; found UNDEFINED"))
            else:
                found.append((reg.name, "QEMU leaves it UNDEFINED"))
        return found


def _belongs(point: AnyPoint, setting: Setting) -> bool:
    """Whether an access is probed under a setting: with HCR_EL2.RW as it needs it, and of the kind asked for."""
    if isinstance(point, Point):
        return setting.rw and selected(setting.accesses, point)
    return point.access.el1_is_aarch32 != setting.rw and point.selected(setting.accesses)


def probe_cpu(qemu: emulator.Qemu, probe: Path, model: str, directory: Path, timeout: float, book: Book) -> CpuReport:
    """Boots one CPU model, runs all probe points and compares.

    Raises:
        ProbeError: if the probe does not finish.
        EmulatorError: if QEMU does not.
    """
    began = time.monotonic()
    first = Blob([asm.mrs(encoding) for encoding in ID_REGISTERS.values()], [], [])
    cpu = identify(first.unpack(qemu.run(probe, model, first, directory, timeout))[0])

    text, plain = points()
    text32, narrow = points32(cpu, len(text))
    accesses: list[AnyPoint] = [*plain, *narrow]
    text += text32
    plan: list[tuple[Setting, list[AnyPoint]]] = []
    runs: list[Run] = []
    first_of: dict[tuple[str, bool], tuple[int, list[AnyPoint]]] = {}
    every = list(settings(cpu))
    for setting in every + [replace(s, rw=False) for s in every if cpu.aarch32_el1 and not s.tge]:
        key = setting.accesses, setting.rw
        if key not in first_of:
            chosen = [p for p in accesses if _belongs(p, setting)]
            first_of[key] = (len(runs), chosen)
            runs += [p.run() for p in chosen]
        plan.append((setting, first_of[key][1]))
    more, begins = debug_points.code(len(text))
    cases = list(debug_points.cases(cpu))
    after = len(runs)
    runs += [debug_points.run(case, begins[case.kind, case.el]) for case in cases]

    blob = Blob([], text + more, runs)
    for setting, chosen in plan:
        blob.add(setting.state(), first_of[setting.accesses, setting.rw][0], len(chosen))
    for i, case in enumerate(cases):
        blob.add(debug_points.state(case, begins[case.kind, case.el], blob, cpu), after + i, 1)
    results = blob.unpack(qemu.run(probe, model, blob, directory, timeout))[1]

    split = len(results) - len(cases)
    found = compare.compare(cpu, plan, results[:split])
    differences = found.differences + debug_points.compare(cases, results[split:])
    rest = book.sort_out(model, cpu, differences)
    return CpuReport(
        model,
        cpu,
        len(every),
        found.accesses,
        found.choices,
        dict(sorted(found.outcomes.items())),
        len(cases),
        dict(Counter(case.kind for case in cases)),
        len(differences) - len(rest),
        rest,
        found.reached,
        time.monotonic() - began,
    )


def choose(wanted: Sequence[str], available: Sequence[str]) -> list[str]:
    """The CPU models to probe: those asked for, or those of the default list that the emulator has.

    Raises:
        UsageError: if the emulator does not have one.
    """
    for model in wanted:
        if model not in available:
            near = get_close_matches(model, available, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(available)}"
            raise UsageError(f"this QEMU has no CPU model {model}{hint}")
    chosen = list(dict.fromkeys(wanted)) or [m for m in DEFAULT_MODELS if m in available]
    if not chosen:
        raise UsageError(f"this QEMU has none of {', '.join(DEFAULT_MODELS)}; choose with --cpu")
    return chosen


def conform(models: Sequence[str], qemu_path: str | None, timeout: float) -> Report:
    """Probes every CPU model.

    Raises:
        MissingToolError, BuildError, EmulatorError, ProbeError, UsageError: with one line that says what is the matter.
    """
    began = time.monotonic()
    qemu = emulator.find(qemu_path)
    report = Report(qemu.spelled, Book(qemu.version, DEVIATIONS + DEVIATIONS32))
    with Scratch("probe-") as directory:
        chosen = choose(models, qemu.models())
        probe = build(directory)
        for model in chosen:
            report.cpus.append(probe_cpu(qemu, probe, model, directory, timeout, report.book))
    report.seconds = time.monotonic() - began
    return report
