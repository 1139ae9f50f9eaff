"""The text of an ftrace or trace-cmd report as events. Nothing here knows what a trace means.

Read are lines ``TASK-PID [CPU] flags TIMESTAMP: EVENT: text`` as the kernel's ``trace`` file, ``trace-cmd report`` and
``perf script`` print them; the texts of the events are those of arch/arm64/kvm/trace_arm.h, trace_handle_exit.h and
include/trace/events/kvm.h, and of the dynamic events of vm/probes.txt, which take the place of the debug code's trace
points from v6.14 on. Events of other names are counted, not read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from formal.common.files import read_file


class TraceFormatError(Exception):
    """The text is no trace that is understood; the message names the line."""


class NotRecordedError(TraceFormatError):
    """The tool that made the text has lost something that is needed; the message says what to record instead."""


@dataclass(frozen=True)
class Event:
    """One line of the trace; ``fields`` hold numbers as integers, register names and pointers as text."""

    line: int
    task: str
    cpu: int
    name: str
    text: str
    fields: Mapping[str, Any]


@dataclass
class TraceText:
    """What was read: events in order, and what a reader has to know about what is not there."""

    events: list[Event] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)  # events of other names
    lost: tuple[int, str] | None = None  # the first line that says that events were lost
    overwritten: int = 0  # events that the ring buffer lost before the first line
    truncated: int | None = None  # the last line, if it is cut off

    @property
    def names(self) -> frozenset[str]:
        """The names of all events that occur, of those that are read."""
        return frozenset(e.name for e in self.events)


_HEX = r"(?:0x)?([0-9a-f]+)"
_PTR = r"(?:0x)?([0-9a-f]+|\(_+ptrval_+\))"
_LIST = r"(?:\{([^}]*)\}|ARRAY\[([^\]]*)\])"
_LINE = re.compile(
    r"\s*(?P<comm>.*?\S)(?:-|\s+)(?:\d+/)?(?P<pid>\d+|<\.\.\.>)\s+(?:\(\s*[-\d]+\)\s+)?\[(?P<cpu>\d+)\]\s+"
    r"(?:(?P<flags>[^\s\d]\S{2,7}|\d?\S*\.\S*[a-zA-Z.#]\S*)\s+)?(?P<time>\d+(?:\.\d+)?)(?:us)?:\s+(?P<rest>.*)"
)
_NAME = re.compile(r"(?:(\w+):(?=\w))?(\w+):\s*(.*)")
_STACK = re.compile(r"\s*(?:=>|<=)\s+\S|\s+[0-9a-f]{8,16}\s+\S.*\)\s*$|\s*<(?:user )?stack trace>\s*$")
_STACK_OF = re.compile(r"<(?:user )?stack trace>")
_LOST = re.compile(r"\bCPU:?\s*\d+.*?\[?\s*(?:LOST\s+(\d+)\s+EVENTS|(\d+)\s+EVENTS\s+DROPPED|EVENTS\s+DROPPED)", re.I)
_WRITTEN = re.compile(r"#\s*entries-in-buffer/entries-written:\s*(\d+)/(\d+)")
_HEADER = re.compile(r"\s*(#.*|cpus=\d+|version = .*|CPU \d+ is empty|)$")
_MARKER = re.compile(r"(?:tracing_mark_write:\s*)?conform:\s+(\w+)((?:\s+\w+=\S+)*)\s*$")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n, 16) for n in re.split(r"[,\s]+", text.strip()) if n)


def _fields(*names: str) -> Callable[[re.Match[str]], dict[str, Any]]:
    """The groups of a match by name; a name that ends in ``:x`` or ``:d`` is a hexadecimal or decimal number."""

    def read(match: re.Match[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, text in zip(names, match.groups(), strict=True):
            base, _, kind = name.partition(":")
            found[base] = int(text, {"x": 16, "d": 10}[kind]) if kind else text
        return found

    return read


def _regset(match: re.Match[str]) -> dict[str, Any]:
    length, name, *lists = match.groups()
    control, value = (_numbers(next(x for x in lists[i : i + 2] if x is not None)) for i in (0, 2))
    if not len(control) == len(value) == int(length):
        raise ValueError("the lists are not as long as the event says")
    return {"register": name, "control": control, "value": value}


# The fields of the dynamic events, as probes print them after where they were hit: name=NUMBER or name={NUMBER,...}.
_BANK = ("debug_owner", "dbg_bcr", "dbg_bvr", "dbg_wcr", "dbg_wvr")
_ACCESS = ("crm", "op2", "is_write", "value")
PROBES: Mapping[str, tuple[str, ...]] = {
    "guest_mdscr": ("value",),
    "load_debug": ("guest_debug", "debug_owner", "mdcr_el2", "external_mdscr_el1", "pstate"),
    "put_debug": ("guest_debug", "pstate"),
    "vcpu_enter": ("guest_debug", "debug_owner", "mdcr_el2", "external_mdscr_el1", "pstate"),
    "vcpu_leave": ("debug_owner", "external_mdscr_el1", "pstate"),
    "debug_bank": _BANK,
    "external_bank": _BANK,
    "set_guest_ownership": ("debug_owner", "mdcr_el2"),
    "handle_oslar": ("value",),
    "trap_debug_regs": _ACCESS,
    "trap_dbg_wb_reg": _ACCESS,
    "vcpu_create": (),
    "set_guest_debug": (),
}


def _probed(names: tuple[str, ...]) -> Callable[[re.Match[str]], dict[str, Any]]:
    def read(match: re.Match[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for pair in match[1].split():
            name, _, text = pair.partition("=")
            found[name] = _numbers(text[1:-1].replace("0x", "")) if text.startswith("{") else int(text, 0)
        if absent := [name for name in ("vcpu", *names) if name not in found]:
            raise ValueError(
                f"it has no {', '.join(absent)}; python -m formal.conform monitor --probes - prints its definition"
            )
        return found

    return read


_READERS: dict[str, tuple[re.Pattern[str], Callable[[re.Match[str]], dict[str, Any]]]] = {
    name: (re.compile(pattern), fields)
    for name, pattern, fields in (
        ("kvm_arm_setup_debug", rf"vcpu: {_PTR}, flags: {_HEX}", _fields("vcpu", "flags:x")),
        ("kvm_set_guest_debug", rf"vcpu: {_PTR}, flags: {_HEX}", _fields("vcpu", "flags:x")),
        ("kvm_arm_clear_debug", rf"flags: {_HEX}", _fields("flags:x")),
        (
            "kvm_arm_set_dreg32",
            rf"(MDCR_EL2|MDSCR_EL1|Saved MDSCR_EL1|Restored MDSCR_EL1|SPSR_EL2): {_HEX}",
            _fields("register", "value:x"),
        ),
        ("kvm_arm_set_regset", rf"(\d+) (BKPTS|WAPTS) CTRL:{_LIST} VALUE:{_LIST}", _regset),
        ("kvm_entry", rf"PC: {_HEX}", _fields("pc:x")),
        (
            "kvm_exit",
            rf"(\w+): HSR_EC: {_HEX} \(([^)]*)\), PC: {_HEX}",
            _fields("code", "ec:x", "class", "pc:x"),
        ),
        (
            "trap_reg",
            rf"(\w+) (write to|read from) reg (\d+) \({_HEX}\)",
            _fields("function", "direction", "number:d", "value:x"),
        ),
        ("kvm_handle_sys_reg", rf"HSR {_HEX}", _fields("hsr:x")),
        (
            "kvm_sys_access",
            rf"PC: {_HEX} (.+) \((\d+),(\d+),(\d+),(\d+),(\d+)\) (read|write)",
            _fields("pc:x", "register", "op0:d", "op1:d", "crn:d", "crm:d", "op2:d", "direction"),
        ),
        ("kvm_hvc_arm64", rf"HVC at {_HEX} \(r0: {_HEX}, imm: {_HEX}\)", _fields("pc:x", "r0:x", "imm:x")),
        ("kvm_userspace_exit", r"reason (\w+) \((\d+)\)", _fields("reason", "number:d")),
        *((name, r"\([^)]*\)((?:\s+\w+=\S+)+)", _probed(names)) for name, names in PROBES.items()),
    )
}
# What a marker of our own has to have; the values of all but ``_TEXTS`` are numbers.
_KEYS: dict[str, tuple[str, ...]] = {
    "create_vcpu": ("vcpu",),
    "vcpu_init": ("vcpu", "features"),
    "result": ("error",),
    "set_guest_debug": ("vcpu", "control"),
    "breakpoint": ("n", "dbgbvr", "dbgbcr"),
    "watchpoint": ("n", "dbgwvr", "dbgwcr"),
    "set_one_reg": ("vcpu", "reg", "value"),
    "get_one_reg": ("vcpu", "reg", "value", "error"),
    "set_mp_state": ("vcpu", "runnable"),
    "run": ("vcpu",),
    "returned": ("vcpu", "error"),
    "exit": ("vcpu", "reason"),
    "hotplug": ("cpu", "online", "begins"),
    "host_watchpoint": ("armed",),
}
_TEXTS = ("reg", "reason")
REQUIRED = ("kvm_arm_setup_debug", "kvm_arm_set_dreg32")  # without these nothing can be said
REQUIRED_PROBES = ("guest_mdscr", "load_debug", "put_debug", "vcpu_enter", "vcpu_leave", "kvm_exit")  # from v6.14 on
GROUPS = ("kvm", "kprobes", "conform", "probe")  # of events; of our dynamic events, those that people choose
_BARE_CALLER = re.compile(r"\((?:0x)?[0-9a-f]+(?: <- (?:0x)?[0-9a-f]+)?\)")
_AT_LOAD = re.compile(r"\((?:kvm_vcpu_load_debug|setup_external_mdscr)\+")  # who called vcpu_read_sys_reg
_POINTER_NAME = re.compile(r"(?:0x)?[0-9a-f]{6,}: ")


def parse(text: str) -> TraceText:
    """Reads the text of a trace.

    Raises:
        TraceFormatError: for a line that is neither an event nor a known header, or an event of a known name whose text
            is not that of the kernel.
    """
    found = TraceText()
    lines = text.splitlines()
    complete = text.endswith("\n")
    for number, line in enumerate(lines, 1):
        if lost := _LOST.search(line):
            found.lost = found.lost or (number, lost[0])
            continue
        if written := _WRITTEN.match(line):
            found.overwritten = max(0, int(written[2]) - int(written[1]))
        if _HEADER.match(line) or _STACK.match(line):
            continue
        try:
            _read_line(found, number, line)
        except TraceFormatError:
            if number < len(lines) or complete or not found.events:
                raise
            found.truncated = number
    if not complete and lines and found.truncated is None:
        found.truncated = len(lines)
    return found


def _read_line(found: TraceText, number: int, line: str) -> None:
    match = _LINE.match(line)
    if match is None:
        raise TraceFormatError(
            f"line {number}: no trace event in the format of ftrace or trace-cmd: {line.strip()[:80]!r}"
        )
    named = _NAME.match(match["rest"])
    if named is None and _STACK_OF.match(match["rest"]):
        return
    if named is None:
        raise TraceFormatError(f"line {number}: an event without a name: {match['rest'][:80]!r}")
    group, name, text = named[1], named[2], named[3].rstrip()
    task, cpu = f"{match['comm'].strip()}-{match['pid']}", int(match["cpu"])
    if name in ("tracing_mark_write", "print"):
        marker = _MARKER.match(text)
        if marker is None:
            found.others[name] += 1
            return
        keys = dict(pair.split("=", 1) for pair in marker[2].split())
        _check_marker(number, marker[1], keys)
        found.events.append(Event(number, task, cpu, "marker", text, {"verb": marker[1], **keys}))
        return
    reader = _READERS.get(name)
    if name == "guest_mdscr" and _BARE_CALLER.match(text):
        raise NotRecordedError(
            f"line {number}: {name} with its caller as an address; record the kernel's own trace file, or make "
            "/proc/kallsyms readable (kernel.kptr_restrict = 0) for the tool that prints it"
        )
    if reader is None or _foreign(group, name, text) or (name == "guest_mdscr" and not _AT_LOAD.match(text)):
        found.others[name] += 1
        return
    if name in PROBES:
        text = re.sub(r"ARRAY\[([^\]]*)\]", lambda array: "{" + re.sub(r"[,\s]+", ",", array[1].strip()) + "}", text)
    read = reader[0].fullmatch(text)
    if read is None:
        if name == "kvm_arm_set_dreg32" and _POINTER_NAME.match(text):
            raise NotRecordedError(
                f"line {number}: {name} with its register's name as a pointer, which only the kernel can follow; "
                "record the kernel's own trace file (/sys/kernel/tracing/trace) instead of trace-cmd's or perf's report"
            )
        raise TraceFormatError(f"line {number}: {name} with a text that is not the kernel's: {text[:80]!r}")
    try:
        found.events.append(Event(number, task, cpu, name, text, reader[1](read)))
    except ValueError as error:
        raise TraceFormatError(f"line {number}: {name}: {error}: {text[:80]!r}") from error


def _foreign(group: str | None, name: str, text: str) -> bool:
    """Whether it is another tool's event that happens to have the name: by its group, or a probe without our fields."""
    if group is not None and name not in PROBES:
        return group != "kvm"
    return name in PROBES and not re.search(r"(?:^|\s)vcpu=", text)


def _check_marker(number: int, verb: str, keys: Mapping[str, str]) -> None:
    """Raises TraceFormatError for a marker of a known verb that lacks a key or has no number where one belongs."""
    needed = _KEYS.get(verb, ())
    optional = ("pstate", "mdscr_el1") if verb == "returned" else ()
    for key in (*needed, *(k for k in optional if k in keys)):
        if key not in keys:
            raise TraceFormatError(f"line {number}: the marker {verb} has no {key}")
        if key not in _TEXTS and not re.fullmatch(r"0x[0-9a-f]+|0|[1-9]\d*", keys[key]):
            raise TraceFormatError(f"line {number}: the marker {verb} has no number for {key}: {keys[key]!r}")


def read(path: Path) -> TraceText:
    """Reads a file.

    Raises:
        TraceFormatError: if it cannot be read or understood, or is empty.
    """
    try:
        text = read_file(path).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise TraceFormatError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TraceFormatError(f"{path}: not text; make text of trace.dat with: trace-cmd report") from error
    if not text.strip():
        raise TraceFormatError(f"{path}: empty")
    try:
        return parse(text)
    except TraceFormatError as error:
        raise type(error)(f"{path}: {error}") from error
