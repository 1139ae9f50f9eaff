"""The AArch64 System registers that a guest at EL1 or EL0 can name, in the groups that KVM's debug code traps.

167 registers, 585 (register, index) encodings; the table itself is ``formal.arch.sysreg_table``, one register a line.
This module gives its columns types, and refuses a line that does not fit.

Source: Arm ARM (DDI 0487), chapter D24.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from formal.arch.fgt import HDFGRTR2_EL2, HDFGRTR_EL2, HDFGWTR2_EL2, HDFGWTR_EL2
from formal.arch.sysreg_table import TABLE

Encoding = tuple[int, int, int, int, int]
_READ_TRAPS = {name: reg.__name__ for reg in (HDFGRTR_EL2, HDFGRTR2_EL2) for name in reg.fields}
_WRITE_TRAPS = {name: reg.__name__ for reg in (HDFGWTR_EL2, HDFGWTR2_EL2) for name in reg.fields}


@dataclass(frozen=True)
class Rights:
    """What a read, or a write, of a register needs and meets. ``lowest_el`` is None if there is no such access."""

    lowest_el: int | None
    enable: str | None  # what EL1 must grant to EL0, as in the table
    fgt: tuple[str, str] | None  # the fine-grained trap: (register, bit)


@dataclass(frozen=True)
class SystemRegister:
    """One line of the table."""

    name: str  # in Arm's spelling, indexed ones with <n>
    indices: range  # empty for a single register
    spelling: tuple[str, str, str, str, str]  # op0, op1, CRn, CRm, op2; CRm and op2 may name bits of the index
    group: str
    traps: tuple[str, ...]  # what of MDCR_EL2 (or TTA of CPTR_EL2) traps it
    features: tuple[tuple[str, ...], ...]  # all of the outer, one of the inner
    read: Rights
    write: Rights

    def encoding(self, index: int | None = None) -> Encoding:
        """op0, op1, CRn, CRm, op2 of the register with this index."""
        n = self.check_index(index)
        op0, op1, crn, crm, op2 = (_number(text, n) for text in self.spelling)
        return op0, op1, crn, crm, op2

    def check_index(self, index: int | None) -> int:
        """The index, or the lowest one for None; 0 for a register that has none.

        Raises:
            ValueError: if the register has no such index.
        """
        if not self.indices:
            if index is not None:
                raise ValueError(f"{self.name} has no index, got {index}")
            return 0
        if index is None:
            return self.indices[0]
        if index not in self.indices:
            raise ValueError(f"{self.name} has indices {self.indices[0]} to {self.indices[-1]}, got {index}")
        return index

    def instances(self) -> Iterator[int | None]:
        """Every index; None alone for a register that has none."""
        yield from self.indices or (None,)

    def spelled(self, index: int | None) -> str:
        """The name with its index."""
        return self.name if index is None else self.name.replace("<n>", str(index))

    def rights(self, write: bool) -> Rights:
        """The line's entries for writes or for reads."""
        return self.write if write else self.read


def _number(text: str, n: int) -> int:
    """The value of an encoding field: a decimal number, or parts joined by ':' such as 0b10:n[4:3]."""
    if text.isdigit():
        return int(text)
    value = 0
    for literal, high, low in re.findall(r"0b([01]+)|n\[(\d+)(?::(\d+))?\]", text):
        if literal:
            value = value << len(literal) | int(literal, 2)
        else:
            size = int(high) - int(low or high) + 1
            value = value << size | (n >> int(low or high)) & ((1 << size) - 1)
    return value


def _names(text: str, separator: str) -> tuple[str, ...]:
    return () if text == "-" else tuple(text.split(separator))


def _features(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(f"FEAT_{name}" for name in part.split("|")) for part in _names(text, "&"))


def _line(line: str, group: str, needs: str) -> SystemRegister:
    name, n, op0, op1, crn, crm, op2, el1, el0, enable, traps, fgt, features = line.split()
    first, _, last = n.partition("-")
    enable_r, _, enable_w = enable.partition("/")
    if (enable != "-") is not (el0 != "-" and name != "PMUSERENR_EL0"):
        raise ValueError(f"{name}: EL1 grants accesses from EL0 (PMUSERENR_EL0 apart), and nothing else")
    bit = fgt.removeprefix("w:")

    def rights(kind: str, granted: str, known: dict[str, str], trapped: bool) -> Rights:
        lowest = 0 if kind in el0 else 1 if kind in el1 else None
        fine = (known[bit], bit) if trapped and bit != "-" and lowest is not None else None
        return Rights(lowest, granted if lowest == 0 and granted != "-" else None, fine)

    return SystemRegister(
        name,
        range(int(first), int(last) + 1) if first else range(0),
        (op0, op1, crn, crm, op2),
        group,
        _names(traps, "|"),
        _features(needs) + _features(features),
        rights("r", enable_r, _READ_TRAPS, not fgt.startswith("w:")),
        rights("w", enable_w or enable_r, _WRITE_TRAPS, True),
    )


def _read_table(text: str) -> tuple[SystemRegister, ...]:
    found: list[SystemRegister] = []
    group = needs = "-"
    for line in text.splitlines():
        if line.startswith("["):
            group, _, needs = line.removeprefix("[").partition("]")
            needs = needs.strip() or "-"
        elif line and not line.startswith("#"):
            found.append(_line(line, group, needs))
    return tuple(found)


SYSTEM_REGISTERS: tuple[SystemRegister, ...] = _read_table(TABLE)
BY_NAME: dict[str, SystemRegister] = {r.name: r for r in SYSTEM_REGISTERS}
GROUPS: dict[str, tuple[SystemRegister, ...]] = {
    group: tuple(r for r in SYSTEM_REGISTERS if r.group == group)
    for group in dict.fromkeys(r.group for r in SYSTEM_REGISTERS)
}


def find(name: str) -> SystemRegister:
    """The register of this name.

    Raises:
        KeyError: if there is none; the message proposes one.
    """
    if name not in BY_NAME:
        near = get_close_matches(name, BY_NAME, 1)
        raise KeyError(f"no system register {name} in the table" + (f"; did you mean {near[0]}?" if near else ""))
    return BY_NAME[name]
