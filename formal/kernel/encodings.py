"""Names of what the kernel's code names by number: system registers by encoding, CPU capabilities by index."""

from __future__ import annotations

import re
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


def register_name(encoding: int, written: str) -> str:
    """The name of the register with an encoding: Arm's where the specification knows it, else the one written.

    Args:
        encoding: op0 to op2, packed as by sys_reg() of asm/sysreg.h.
        written: the macro that the code spells it with, such as ``SYS_PMSCR_EL1``.
    """
    return _by_encoding().get(encoding, written.removeprefix("SYS_").lower())


def is_modelled(name: str) -> bool:
    """Whether a lower-case register name is one that the specification knows by encoding."""
    return name in _by_encoding().values()


def capability_names(tree: Path) -> dict[int, str]:
    """The CPU capabilities by number: arch/arm64/tools/cpucaps, before v5.13 the header asm/cpucaps.h."""
    table = tree / "arch/arm64/tools/cpucaps"
    if table.exists():
        lines = (line.split("#")[0].strip() for line in table.read_text().splitlines())
        return dict(enumerate(f"ARM64_{line}" for line in lines if line))
    header = tree / "arch/arm64/include/asm/cpucaps.h"
    text = header.read_text() if header.exists() else ""
    return {int(n): name for name, n in re.findall(r"(?m)^#define\s+(ARM64_\w+)\s+(\d+)\s*$", text)}
