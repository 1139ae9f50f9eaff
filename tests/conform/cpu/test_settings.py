"""The values of the controls."""

from formal.arch.registers import MDCR_EL2
from formal.arch.traps import Access, Outcome, decide
from formal.conform.cpu.settings import Setting, settings
from formal.logic import terms as t
from tests.conform.conftest import FINE, PLAIN


def test_every_bit_of_mdcr_el2_alone():
    values = {s.mdcr for s in settings(PLAIN) if s.accesses == "all"}
    for bit in range(64):
        assert (1 << bit if bit < 5 else 1 << bit | PLAIN.counters) in values


def test_every_value_that_kvm_writes():
    always = {"TPM", "TPMCR", "TPMS", "TDRA", "TDOSA"}
    values = {(s.mdcr, s.e2h) for s in settings(FINE) if s.label.startswith("KVM")}
    for extra in ((), ("TDE",), ("TDA",), ("TDE", "TDA"), ("TTRF",), ("TTRF", "TDE"), ("TTRF", "TDA")):
        mask = MDCR_EL2.mask(*always, *extra)
        assert {(mask | hpmn, e2h) for hpmn in (0, 6) for e2h in (False, True)} <= values
    assert not any(s.e2h for s in settings(PLAIN))


def test_two_runs_probe_the_same(cpu):
    assert list(settings(cpu)) == list(settings(cpu))
    assert len(list(settings(cpu))) >= 300


def test_every_fine_grained_trap_alone():
    labels = {s.label for s in settings(FINE)}
    assert {"HDFGRTR_EL2.PMBIDR_EL1", "HDFGWTR_EL2.DBGBCRn_EL1", "HDFGRTR2_EL2.nPMECR_EL1"} <= labels
    assert not any("HDFG" in s.label for s in settings(PLAIN))


def test_nothing_traps_by_default():
    quiet = Setting("quiet", 6).controls(FINE)
    for name in ("MDSCR_EL1", "OSLSR_EL1", "PMCCNTR_EL0", "TRFCR_EL1", "TRCVICTLR"):
        assert decide(Access(name, False, 1), quiet)[0] is Outcome.EXECUTED
    assert decide(Access("PMSNEVFR_EL1", False, 1), quiet)[1].startswith("not implemented")


def test_tta_is_where_e2h_puts_it():
    for e2h, bit in ((False, 20), (True, 28)):
        on, off = (Setting("x", e2h=e2h, cptr_tta=tta).state().cptr_el2 for tta in (True, False))
        assert on ^ off == 1 << bit


def test_state_and_controls_say_the_same():
    s = Setting("x", 0x123, tge=True, e2h=True, tdcc=True, pmuserenr=5, sel=7, cpacr_tta=True)
    state, controls = s.state(), s.controls(FINE)
    assert state.mdcr_el2 == t.value_of(controls.mdcr_el2.raw)
    assert state.hcr_el2 == t.value_of(controls.hcr_el2.raw) == 1 << 34 | 1 << 31 | 1 << 27
    assert state.mdscr_el1 == t.value_of(controls.mdscr_el1.raw) == 1 << 12
    assert (state.pmuserenr_el0, state.pmselr_el0, state.cpacr_el1) == (5, 7, 1 << 28)
