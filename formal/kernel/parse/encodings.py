"""Names of what the kernel's code names by number: system registers by encoding, CPU capabilities by index."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from formal.arch.sysregs import SYSTEM_REGISTERS


@lru_cache(maxsize=1)
def _by_encoding() -> dict[int, str]:
    """Arm's encodings of the debug, PMU and trace registers, packed as the kernel's sys_reg() packs them."""
    names: dict[int, str] = {}
    for register in SYSTEM_REGISTERS:
        for index in register.instances():
            op0, op1, crn, crm, op2 = register.encoding(index)
            packed = op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5
            names[packed] = register.spelled(index).lower()
    return names


class Registers:
    """The names that a tree's headers give to encodings (asm/sysreg.h and the generated asm/sysreg-defs.h)."""

    def __init__(self, headers: Iterable[str]) -> None:
        self._names: dict[int, str] = {}
        self._written: dict[str, int] = {}
        field = r"\s*(\d+)\s*"
        define = re.compile(r"#define\s+SYS_(\w+)\s+sys_reg\(" + ",".join([field] * 5) + r"\)")
        for name, *fields in (match for text in headers for match in define.findall(text)):
            op0, op1, crn, crm, op2 = map(int, fields)
            number = op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5
            self._names.setdefault(number, name.lower())
            self._written.setdefault(name.lower(), number)

    def name(self, encoding: int, written: str = "") -> str:
        """The name of a register: Arm's where the specification knows the encoding, else the tree's.

        Args:
            encoding: op0 to op2, packed as by sys_reg() of asm/sysreg.h.
            written: what the code names it with, if that is a name, such as ``SYS_PMSCR_EL1``.
        """
        known = _by_encoding().get(encoding)
        if known is None and re.fullmatch(r"SYS_\w+", written):
            known = written.removeprefix("SYS_").lower()
        fields = (encoding >> 19, encoding >> 16 & 7, encoding >> 12 & 15, encoding >> 8 & 15, encoding >> 5 & 7)
        return known or self._names.get(encoding) or "s{}_{}_c{}_c{}_{}".format(*fields)

    def encoding(self, name: str) -> int | None:
        """The encoding of a register by the name that ``name`` gives; ``None`` for one that is only ever named."""
        for number in (*_by_encoding(), *self._names):
            if self.name(number) == name:
                return number
        return self._written.get(name)


def capability_names(tree: Path) -> dict[int, str]:
    """The CPU capabilities by number: arch/arm64/tools/cpucaps, before v5.13 the header asm/cpucaps.h."""
    table = tree / "arch/arm64/tools/cpucaps"
    if table.exists():
        lines = (line.split("#")[0].strip() for line in table.read_text().splitlines())
        return dict(enumerate(f"ARM64_{line}" for line in lines if line))
    header = tree / "arch/arm64/include/asm/cpucaps.h"
    text = header.read_text() if header.exists() else ""
    return {int(n): name for name, n in re.findall(r"(?m)^#define\s+(ARM64_\w+)\s+(\d+)\s*$", text)}
