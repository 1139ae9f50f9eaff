"""Registers that assembly writes, by name and by encoding."""

from __future__ import annotations

import pytest

from formal.kernel.effects.assembly import macros, registers, used


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("msr mdcr_el2, x0", ["mdcr_el2"]),
        ("MSR\tMDSCR_EL1, x0", ["mdscr_el1"]),
        ("nop\n\tmsr S3_4_C1_C1_1, xzr", ["mdcr_el2"]),
        ("msr_s SYS_MDSCR_EL1, x0", ["mdscr_el1"]),
        ("\tmsr_s (((2) << 19) | ((0) << 16) | ((0) << 12) | ((2) << 8) | ((2) << 5)), %x0", ["mdscr_el1"]),
        ("\tmsr_s sys_reg(3, 4, 1, 1, 1), %x0", ["mdcr_el2"]),
        (".inst 0xd51c1120", ["mdcr_el2"]),
        (".inst (0xd51c1100 | 0x20)", ["mdcr_el2"]),
        ("msr_s %1, %0", ["*"]),
        ("mrs x0, mdcr_el2", []),
        ("msr daifset, #2", []),
        ("msr sctlr_el1, x0", []),
        (".inst 0xd5033fdf", []),
        (".int 0xd51c1120", ["mdcr_el2"]),
        (".inst %0", ["*"]),
        (".inst 0xd5000000 | (%0) | 31", ["*"]),
        (".inst 0xd5000000 | (((3) << 19) | ((4) << 16) | ((1) << 12) | ((1) << 8) | ((1) << 5)) | 31", ["mdcr_el2"]),
        (".inst 0xd5200000 | (%0)", []),  # MRS
        (".inst 0x9ac03000 | (%0)", []),
        (".inst 0xd5000000|(\\sreg)|(.L__gpr_num_\\rt)", []),
        (".long 1b - ., %l[l_yes] - .", []),
        (".macro w, r\n\tmsr \\r, x0\n.endm\n", []),
        ("// msr mdcr_el2, x0", []),
    ],
)
def test_registers(text: str, found: list[str]) -> None:
    assert list(registers(text)) == found


def test_a_macro_whose_parameter_is_the_register() -> None:
    known = macros(".macro wr, value, reg=sctlr_el1\n\tmsr\t\\reg, \\value\n\tisb\n.endm\n")
    assert known == {"wr": 1}
    assert list(used("\twr x0, mdcr_el2", known)) == ["mdcr_el2"]
    assert list(used("1:\twr x0, sctlr_el1", known)) == []
