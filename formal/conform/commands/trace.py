"""The command line ``python -m formal.conform trace``: is this trace a run of the model?"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from formal import epochs
from formal.arch.registers import MDCR_EL2
from formal.common.exit_codes import ExitCode
from formal.common.files import STANDARD
from formal.common.options import Parser
from formal.common.places import PROOFS
from formal.common.runner import run
from formal.conform.trace.check import Check, Result, TooManyRunsError, Unexplained, missing
from formal.conform.trace.coverage import coverage, lines
from formal.conform.trace.groups import Grouping
from formal.conform.trace.owner_groups import by_owner, grouping
from formal.conform.trace.runs import FIELDS
from formal.conform.trace.text import REQUIRED_PROBES, NotRecordedError, TraceFormatError, TraceText, parse, read
from formal.epochs import EPOCHS, HOSTS, Mode, NoEpochError
from formal.evidence.runs.traces import TraceBook, TraceError
from formal.releases import RELEASES, Release
from formal.scope.configuration import Configuration

# No event says whether a guest has an EL2 of its own: guests that have none are those of E10 in later kernels, too.
TRACED = tuple(name for name, e in EPOCHS.items() if not e.kernel(Mode.VHE).nests)
BOOKS = PROOFS / "traces"
OPTIONAL = (
    ("kvm_arm_clear_debug", "the restored MDSCR_EL1"),
    ("kvm_entry", "entries"),
    ("kvm_exit", "which exits are possible"),
    ("kvm_arm_set_regset", "break- and watchpoint registers"),
    ("trap_reg", "values of trapped accesses"),
    ("kvm_sys_access", "which registers were accessed"),
    ("kvm_set_guest_debug", "KVM_SET_GUEST_DEBUG; it is assumed where an entry has other flags"),
    ("kvm_userspace_exit", "when user space has the vCPU; its writes are assumed wherever they are possible"),
)
PROBES_ARE = "the dynamic events that python -m formal.conform monitor --probes - prints"
OPTIONAL_BY_OWNER = ("kvm_entry", "kvm_sys_access", "kvm_set_guest_debug", "kvm_userspace_exit")


class InconclusiveError(Exception):
    """Nothing, or not all, can be said about the trace."""


CODES = {
    ExitCode.OK: "the trace is a run of the model",
    ExitCode.WRONG: "it is none",
    ExitCode.USAGE: "usage, or no readable trace",
    ExitCode.UNKNOWN: "nothing can be concluded",
}


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UsageError: with one line that says what is wrong.
    """
    p = Parser(
        "conform trace", "Says whether what the trace points of a running kernel have shown fits the model.", CODES
    )
    p.add_argument(
        "file", metavar="FILE", type=Path, help="text of ftrace's file or of trace-cmd report; - is the input"
    )
    p.add_argument(
        "--epoch", type=epoch_option, choices=TRACED, help="the release; default: every one that explains it"
    )
    p.add_argument("--mode", choices=[m.value for m in HOSTS], help="the host mode; default: both")
    p.add_argument("--verbose", action="store_true", help="how often each step was taken, and each claim met")
    return p.parse(argv)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    return run("formal.conform trace", lambda: _run(arguments(argv)), {TraceFormatError: (ExitCode.USAGE, "")})


def _run(args: argparse.Namespace) -> int:
    name = "standard input" if args.file == STANDARD else args.file.name
    try:
        report = examine(read(args.file), name, args.epoch, args.mode)
    except NotRecordedError as error:
        sys.stderr.write(f"formal.conform trace: {error}\n")
        return ExitCode.UNKNOWN
    except InconclusiveError as error:
        sys.stderr.write(f"formal.conform trace: {name if args.file == STANDARD else args.file}: {error}\n")
        return ExitCode.UNKNOWN
    for line in show(report, args.verbose):
        print(line)
    return report.code


BEFORE = 40  # lines of a recording of our own that are shown before an event that is not explained


@dataclass
class Report:
    """What there is to say about one file."""

    name: str
    text: TraceText
    grouping: Grouping
    results: dict[Configuration, Result]
    warnings: list[str]
    cut: str | None  # why the trace is not all there
    unexpected: dict[str, int]  # claims that are broken although nothing is known to break them, with the line

    @property
    def explaining(self) -> list[Configuration]:
        """The kernels that explain the whole trace."""
        return [c for c, r in self.results.items() if r.conforms]

    @property
    def code(self) -> int:
        """The exit code."""
        if not self.explaining or self.unexpected:
            return 1
        return 3 if self.cut else 0


def examine(text: TraceText, name: str, epoch: str | None = None, mode: str | None = None) -> Report:
    """Checks a trace; ``name`` is what the report calls it.

    Raises:
        InconclusiveError: if there is nothing in it that could be checked, or too much is left open.
    """
    cut = None
    if text.lost is not None:
        line, says = text.lost
        cut = f"events are lost at line {line} ({says.strip()}); what follows was not checked"
        text.events = [e for e in text.events if e.line < line]
    elif text.truncated is not None:
        cut = f"line {text.truncated} is cut off"
    _relevant(text, cut)
    groups = grouping(text)
    results: dict[Configuration, Result] = {}
    for configuration in _candidates(text, epoch, mode):
        try:
            results[configuration] = Check(configuration.kernel(), groups).run()
        except TooManyRunsError as e:
            raise InconclusiveError(f"{e}; record more trace points") from e
    if not any(r.conforms for r in results.values()) and (why := _beyond_the_model(text)):
        raise InconclusiveError(why)
    if not any(r.conforms for r in results.values()) and all(
        r.unexplained is None or r.unexplained.event is None for r in results.values()
    ):
        raise InconclusiveError("no value could be compared")
    report = Report(name, text, groups, results, list(_warnings(text)), cut, {})
    for configuration in report.explaining[:1]:
        watch = results[configuration].watch
        assert watch is not None
        known = _known_false(configuration)
        report.unexpected = {name: line for name, line in watch.broken.items() if name not in known}
    return report


def _relevant(text: TraceText, cut: str | None) -> None:
    if not text.events and not text.others:
        raise InconclusiveError(f"no event{f'; {cut}' if cut else ''}")
    if by_owner(text):
        absent = [name for name in REQUIRED_PROBES if name not in text.names]
        says = f"enable {PROBES_ARE}"
    else:
        absent, says = missing(text), f"enable the trace points of the group kvm; from v6.14 on {PROBES_ARE}"
    if absent:
        others = ", ".join(f"{n} {name}" for name, n in text.others.most_common(3))
        raise InconclusiveError(
            f"no event {' and '.join(absent)}{f', only others ({others})' if others else ''}: "
            f"nothing can be compared; {says}" + (f"; {cut}" if cut else "")
        )


_ERET = 0x1A  # ESR_EL2.EC: a guest hypervisor's ERET
_HAS_EL2 = 1 << 7  # KVM_ARM_VCPU_HAS_EL2 in the features of KVM_ARM_VCPU_INIT


def _beyond_the_model(text: TraceText) -> str:
    """Why a trace that nothing explains may be a run all the same: it shows what traces are not read for."""
    for event in text.events:
        fields = event.fields
        verb = fields.get("verb") if event.name == "marker" else ""
        if fields.get("ec") == _ERET or (verb == "vcpu_init" and int(str(fields["features"]), 0) & _HAS_EL2):
            return (
                f"line {event.line}: a guest with an EL2, which traces are not read for; record a guest without one, "
                "or prove the tree with --kernel"
            )
    values = [
        e.fields["value"] if e.name == "kvm_arm_set_dreg32" else e.fields["mdcr_el2"]
        for e in text.events
        if "mdcr_el2" in e.fields or e.fields.get("register") == "MDCR_EL2"
    ]
    if values and not any(value & MDCR_EL2.mask("HPMN") for value in values):
        return (
            "MDCR_EL2.HPMN is 0 in every value: the host has no PMUv3, which is not modelled, or KVM has lost HPMN; "
            "record on a host with a PMU, where HPMN must be what the boot code chose"
        )
    return ""


def _candidates(text: TraceText, epoch: str | None, mode: str | None) -> Iterator[Configuration]:
    """The kernels to try: those asked for; else what a marker says; else all, the newest first."""
    for event in text.events:
        if event.name == "marker" and event.fields["verb"] == "recording":
            epoch = epoch or epoch_of(str(event.fields.get("release", "")))
            mode = mode or event.fields.get("mode")
    for name in reversed(_epochs(text)):
        for m in (m for m in HOSTS if m in EPOCHS[name].modes):
            if epoch in (None, name) and mode in (None, m.value):
                yield Configuration(name, m.value)


def _epochs(text: TraceText) -> list[str]:
    """The epochs whose kernels have such events."""
    return [name for name in TRACED if EPOCHS[name].kernel(Mode.VHE).tracks_debug_owner == by_owner(text)]


def epoch_of(release: str) -> str | None:
    """The epoch that a release such as 6.1.0-56-cloud-arm64 belongs to (a stable one first), if any is modelled."""
    found = re.match(r"\d+\.\d+", release)
    if found is None:
        return None
    try:
        name = epochs.epoch_of(f"v{found[0]}.y").name
    except NoEpochError:
        newer = Release.parse(found[0])
        name = TRACED[-1] if newer is not None and newer > RELEASES[-1] else ""
        return name or None
    return name if name in TRACED else TRACED[-1]


def epoch_option(text: str) -> str:
    """The epoch that an option names, by its name or a release of it."""
    try:
        return epochs.epoch_of(text).name
    except NoEpochError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _warnings(text: TraceText) -> Iterator[str]:
    marked = "marker" in text.names
    for name, what in OPTIONAL:
        if by_owner(text) and name not in OPTIONAL_BY_OWNER:
            continue
        if name not in text.names and not (marked and name == "kvm_userspace_exit"):
            yield f"no event {name}: not seen are {what}"
    if text.overwritten:
        yield f"the ring buffer has overwritten {text.overwritten} earlier events; the trace begins inside a run"


def _known_false(configuration: Configuration) -> set[str]:
    """The claims for which a counterexample in this kernel is stored."""
    try:
        return set(TraceBook.read(BOOKS / f"{configuration.stem}.json").counterexamples)
    except TraceError as e:
        raise InconclusiveError(f"stored counterexamples: {e}") from e


def check_recording(text: str, name: str) -> tuple[int, list[str], Result | None]:
    """A recording of our own: the exit code of ``run``, what to print, and the run that explains it if one does.

    Raises:
        TraceFormatError: if the text is no trace.
    """
    try:
        report = examine(parse(text), name)
    except InconclusiveError as e:
        return 3, [f"not compared with the model: {e}"], None
    if not report.explaining:
        return report.code, [*_failure(report), *_before(text, report)], None
    result = report.results[report.explaining[0]]
    says = f"a run of {report.explaining[0]}: {result.explained} events explained, {result.values} values compared"
    broken = [f"BROKEN at line {line}: {claim}" for claim, line in report.unexpected.items()]
    return report.code, [says, *broken], result


def _before(text: str, report: Report) -> list[str]:
    """The recording up to the event that is not explained: it may be kept nowhere, and not come again."""
    found = max(report.results.values(), key=lambda result: result.explained).unexplained
    if found is None or found.event is None:
        return []
    return ["the recording up to there:", *text.split("\n")[max(found.event.line - BEFORE, 0) : found.event.line]]


# ---- as text


def _counts(counter: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counter.items(), key=lambda item: -item[1]))


def show(report: Report, verbose: bool) -> Iterator[str]:
    """The report, line by line."""
    text = report.text
    tasks = {e.task for e in text.events}
    cpus = ", ".join(map(str, sorted({e.cpu for e in text.events})))
    markers = sum(e.name == "marker" for e in text.events)
    yield (
        f"{report.name}: {len(text.events) - markers} events of KVM"
        + (f", {markers} markers" if markers else "")
        + (f", {sum(text.others.values())} others" if text.others else "")
        + f"; {len(tasks)} thread{'s'[: len(tasks) > 1]}, CPUs {cpus}"
    )
    if report.grouping.skipped:
        first = "load_debug" if by_owner(text) else "kvm_arm_setup_debug"
        yield f"skipped: {report.grouping.skipped} events before the first {first} of their thread"
    for warning in report.warnings:
        yield f"note: {warning}"
    if report.cut:
        yield f"incomplete: {report.cut}"
    if not report.explaining:
        yield from _failure(report)
        return
    names = ", ".join(f"{c} ({EPOCHS[c.name].releases})" for c in report.explaining)
    result = report.results[report.explaining[0]]
    yield f"conforms to {names}"
    yield (
        f"every event is explained: {result.explained} events, {result.values} values compared, "
        f"{sum(result.operations.values())} steps of {len(result.vcpus)} vCPUs"
    )
    yield f"MDCR_EL2.HPMN: {', '.join(f'{n} on CPU {cpu}' for cpu, n in sorted(result.cpus.items()))}"
    if result.assumed:
        yield f"assumed, since no event shows it: {_counts(result.assumed)}"
    yield from _claims(report, result, verbose)
    if verbose:
        yield f"steps: {_counts(result.operations)}"
    yield from lines(coverage([result]))


def _claims(report: Report, result: Result, verbose: bool) -> Iterator[str]:
    watch = result.watch
    assert watch is not None
    yield f"claims watched: {len(watch.claims)}, {len(watch.reached)} of them met, in {watch.states} states"
    if verbose:
        yield f"  met: {_counts(watch.reached)}"
    for name, line in watch.broken.items():
        if name in report.unexpected:
            yield f"  BROKEN at line {line}: {name}, which has no known counterexample"
        else:
            yield f"  broken at line {line}: {name}; known: python -m formal.prove {_options(report)} --explain {name}"


def _options(report: Report) -> str:
    configuration = report.explaining[0]
    return f"--epoch {configuration.name} --mode {configuration.mode}"


def _failure(report: Report) -> Iterator[str]:
    """The kernel that explains most of the trace, and the first event that it does not."""
    configuration, result = max(report.results.items(), key=lambda item: item[1].explained)
    found = result.unexplained
    tried = "" if len(report.results) == 1 else f", which comes furthest of {len(report.results)} kernels"
    if found is None:
        yield "nothing could be compared"
        return
    yield f"not a run of {configuration} ({EPOCHS[configuration.name].releases}){tried}"
    yield f"explained: {result.explained} events, up to line {result.line}"
    if found.event is not None:
        yield f"line {found.event.line}: {found.event.name}: {found.event.text}"
    yield f"  {found.why}" + (":" if found.expected else "")
    for expected in found.expected:
        yield f"  {expected}"
    yield from _difference(found)


def _difference(found: Unexplained) -> Iterator[str]:
    if found.value is not None:
        register, seen, wanted = found.value
        kind = FIELDS.get(register.split()[-1])
        if kind is not None:
            yield f"  trace: {kind.decode(seen)}"
            yield f"  model: {kind.decode(wanted)}"
    if found.breaks:
        yield f"  a guest that ran with this value would break: {', '.join(found.breaks)}"
