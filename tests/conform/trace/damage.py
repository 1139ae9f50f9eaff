"""Traces with one thing wrong: each value with a bit changed, each event left out, twice, or swapped with the next."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from formal.conform.trace.text import PROBES

_VALUE = {
    "MDCR_EL2": re.compile(r"(kvm_arm_set_dreg32: MDCR_EL2: 0x)([0-9a-f]+)"),
    "MDSCR_EL1": re.compile(r"(kvm_arm_set_dreg32: (?:(?:Saved|Restored) )?MDSCR_EL1: 0x)([0-9a-f]+)"),
    "SPSR_EL2": re.compile(r"(kvm_arm_set_dreg32: SPSR_EL2: 0x)([0-9a-f]+)"),
    "guest_debug": re.compile(r"(kvm_(?:arm_setup|arm_clear|set_guest)_debug: .*flags: 0x)([0-9a-f]+)"),
    "trap_reg": re.compile(r"(trap_reg: .*\(0x)([0-9a-f]+)"),
    "regset": re.compile(r"(kvm_arm_set_regset: .*CTRL:\{0x)([0-9a-f]+)"),
    # the dynamic events of v6.14 and later
    "mdcr_el2": re.compile(r"( mdcr_el2=0x)([0-9a-f]+)"),
    "external_mdscr_el1": re.compile(r"( external_mdscr_el1=0x)([0-9a-f]+)"),
    "pstate": re.compile(r"( vcpu=\S+ .*pstate=0x)([0-9a-f]+)"),
    "guest_debug field": re.compile(r"( guest_debug=0x)([0-9a-f]+)"),
    "debug_owner": re.compile(r"( debug_owner=)([0-9a-f]+)"),
    "value": re.compile(r"( is_write=\d value=0x)([0-9a-f]+)"),
    "is_write": re.compile(r"( is_write=)([0-9a-f]+)"),
    "locks": re.compile(r"(handle_oslar: .* value=0x)([0-9a-f]+)"),
    "dbg_bcr": re.compile(r"( dbg_bcr=\{0x)([0-9a-f]+)"),
    "dbg_wvr": re.compile(r"( dbg_wvr=\{0x0,0x)([0-9a-f]+)"),
}
_BITS = {"MDCR_EL2": range(20), "MDSCR_EL1": (0, 12, 13, 15), "SPSR_EL2": (0, 21), "guest_debug": (0, 1, 16, 17)}
_BITS |= {"mdcr_el2": range(20), "external_mdscr_el1": (0, 12, 13, 15), "pstate": (0, 21), "debug_owner": (0, 1)}
_BITS |= {"guest_debug field": (0, 1, 16, 17), "is_write": (0,), "locks": (0,)}
_PROBES = "|".join(name for name in PROBES if name not in ("vcpu_create", "set_guest_debug"))
_EVENT = re.compile(rf"(\S+-\d+) +\[(\d+)\] .*?: (kvm_(?!guest_fault|hvc)\w+|trap_reg|{_PROBES}): ")


@dataclass(frozen=True)
class Damage:
    """One change of a trace."""

    kind: str
    line: int  # from 1
    says: str
    text: str


def _event(line: str) -> str | None:
    match = _EVENT.search(line)
    return match[3] if match else None


def _thread(line: str) -> str | None:
    match = _EVENT.search(line)
    return match[1] if match else None


def damages(text: str, every: int = 1) -> Iterator[Damage]:
    """All changes of the kinds above (or every so many of them), each as a whole trace."""
    for n, one in enumerate(_all(text.splitlines())):
        if n % every == 0:
            kind, line, says, lines = one
            yield Damage(kind, line + 1, says, "\n".join(lines) + "\n")


def _all(lines: list[str]) -> Iterator[tuple[str, int, str, list[str]]]:
    for n, line in enumerate(lines):
        event = _event(line)
        if event is None:
            continue
        for kind, pattern in _VALUE.items():
            match = pattern.search(line)
            for bit in _BITS.get(kind, (0, 5)) if match else ():
                assert match is not None
                value = int(match[2], 16) ^ 1 << bit
                changed = line[: match.start(2)] + f"{value:0{len(match[2])}x}" + line[match.end(2) :]
                yield f"bit of {kind}", n, f"bit {bit} of {line.strip()[-60:]}", [*lines[:n], changed, *lines[n + 1 :]]
        yield f"without {event}", n, line.strip()[-60:], lines[:n] + lines[n + 1 :]
        yield f"twice {event}", n, line.strip()[-60:], [*lines[:n], line, *lines[n:]]
        if n + 1 < len(lines) and _thread(lines[n + 1]) == _thread(line):
            other = _event(lines[n + 1])
            swapped = [*lines[:n], lines[n + 1], line, *lines[n + 2 :]]
            yield f"swapped {event} and {other}", n, line.strip()[-60:], swapped
