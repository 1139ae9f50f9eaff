"""The few A64 instructions that the probe runs, as numbers.

Source: Arm ARM (DDI 0487), chapter C6; MRS and MSR (register) in C5.1.3.
"""

from __future__ import annotations

from formal.arch.sysregs import Encoding

NOP = 0xD503201F
ERET = 0xD69F03E0
RET = 0xD65F03C0
LDR_X1_X0 = 0xF9400001  # LDR X1, [X0]


def _system_register(encoding: Encoding) -> int:
    op0, op1, crn, crm, op2 = encoding
    if op0 not in (2, 3):
        raise ValueError(f"System registers have op0 2 or 3, got {op0}")
    return (op0 & 1) << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5


def mrs(encoding: Encoding) -> int:
    """MRS X0, <register>."""
    return 0xD5300000 | _system_register(encoding)


def msr(encoding: Encoding) -> int:
    """MSR <register>, X0."""
    return 0xD5100000 | _system_register(encoding)


def svc(imm: int) -> int:
    """SVC #imm."""
    return 0xD4000001 | imm << 5


def hvc(imm: int) -> int:
    """HVC #imm."""
    return 0xD4000002 | imm << 5


def brk(imm: int) -> int:
    """BRK #imm."""
    return 0xD4200000 | imm << 5
