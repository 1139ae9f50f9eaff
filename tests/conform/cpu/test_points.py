"""Probe points: the instructions, and which accesses there are."""

from collections import Counter

from formal.arch.sysregs import SYSTEM_REGISTERS, find
from formal.conform.cpu.points import points
from formal.conform.machine import asm
from formal.conform.machine.blob import X0


def test_instructions_are_what_an_assembler_makes_of_them():
    mdscr, dbgdtr, pmccfiltr = (2, 0, 0, 2, 2), (2, 3, 0, 4, 0), (3, 3, 14, 15, 7)
    assert asm.mrs(mdscr) == 0xD5300240
    assert asm.msr(mdscr) == 0xD5100240
    assert asm.mrs(dbgdtr) == 0xD5330400
    assert asm.msr(pmccfiltr) == 0xD51BEFE0
    assert (asm.hvc(1), asm.svc(1), asm.brk(0x1234)) == (0xD4000022, 0xD4000021, 0xD4224680)


def test_every_access_of_the_table_is_probed_once():
    text, found = points()
    encodings = {reg.encoding(i) for reg in SYSTEM_REGISTERS for i in reg.instances()}
    assert Counter((p.encoding, p.access.el, p.access.write) for p in found) == Counter(
        (e, el, write) for e in encodings for el in (0, 1) for write in (False, True)
    )
    assert len(text) == 10 * len(encodings)
    assert {p.access.name for p in found} == {reg.name for reg in SYSTEM_REGISTERS}


def test_the_code_of_a_point_makes_its_access():
    text, found = points()
    for p in found:
        code = p.run().code
        instruction = asm.msr(p.encoding) if p.access.write else asm.mrs(p.encoding)
        assert text[code : code + 2] == [instruction, asm.hvc(1) if p.access.el else asm.svc(1)]
        assert p.run().spsr & 0xF == (0b0101 if p.access.el else 0)
        assert text[p.run().reader : p.run().reader + 2] == [asm.mrs(p.encoding), asm.RET]


def test_two_registers_in_one_encoding_have_a_direction_each():
    _, found = points()
    names = {(p.access.name, p.access.write) for p in found if p.encoding == find("DBGDTRRX_EL0").encoding()}
    assert names == {("DBGDTRRX_EL0", False), ("DBGDTRTX_EL0", True)}


def test_syndrome_of_a_trapped_access():
    _, found = points()
    by_name = {(str(p)): p.iss for p in found}
    assert by_name["MRS MDSCR_EL1 at EL1"] == 0x240005  # op0 2, op2 2, op1 0, CRn 0, Rt 0, CRm 2, read
    assert by_name["MSR PMCR_EL0 at EL0"] == 0x30E418  # op1 3, CRn 9, CRm 12, write


def test_writes_do_no_harm():
    _, found = points()
    how = {p.access.name: p.run().x0 for p in found if p.access.write}
    assert how["OSLAR_EL1"] is X0.OSLAR
    assert how["PMCNTENSET_EL0"] is how["DBGCLAIMSET_EL1"] is how["DBGDTRTX_EL0"] is X0.ZERO
    assert how["MDSCR_EL1"] is how["PMUSERENR_EL0"] is how["DBGBCR<n>_EL1"] is X0.READ_BACK
    write_only = {r.name for r in SYSTEM_REGISTERS if r.read.lowest_el is None}
    assert all(how[name] is not X0.READ_BACK for name in write_only)
