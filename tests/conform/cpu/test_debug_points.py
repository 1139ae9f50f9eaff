"""Debug exceptions: what the model is asked, and what it answers."""

from collections import Counter
from dataclasses import replace

import pytest

from formal.arch import exceptions
from formal.conform.cpu.debug_points import LOCKS, PROGRAMS, Case, cases, code, compare, predict, run, state
from formal.conform.machine import asm
from formal.conform.machine.blob import Blob, Place
from formal.logic.terms import TRUE
from tests.conform.conftest import FINE, PLAIN

QUIET = Case("step", 1, False, False, False, False, False, False, False, False, LOCKS[0])


def raw(p):
    """The result that the probe would write for a prediction."""
    where = 0x4000 + p.place.at if p.place.in_vectors else p.place.at
    return p.far << 51 | p.ss << 50 | p.el << 48 | where << 32 | p.ec << 26 | 1 << 25 | p.iss


def test_every_combination_is_there(cpu):
    found = list(cases(cpu))
    assert len(found) == len(set(found))
    hosts = {(c.tge, c.e2h) for c in found}
    assert len(hosts) == (4 if cpu is FINE else 2)
    assert {c.lock for c in found} == set(LOCKS if cpu is PLAIN else LOCKS[:2])
    assert not any(c.el == 1 and c.tge for c in found)
    kinds = Counter((c.kind, c.el) for c in found)
    assert set(kinds) == {(k, el) for k, (one, zero) in PROGRAMS.items() for el in (0, 1) if (one if el else zero)}
    assert len({c for c in found if c.kind == "BRK" and c.el and not c.e2h and c.lock == LOCKS[0]}) == 64


def test_programs_are_instructions():
    text, begins = code(100)
    assert text[begins["BRK", 1] - 100] == asm.brk(0x1234)
    assert text[begins["step", 1] - 100 :][:2] == [asm.NOP, asm.hvc(1)]
    assert text[begins["step", 0] - 100 :][:2] == [asm.NOP, asm.svc(1)]
    assert text[begins["step over ERET", 1] - 100 :][:4] == [asm.ERET, asm.NOP, asm.NOP, asm.svc(1)]


def test_state_of_a_case():
    case = replace(QUIET, kind="watchpoint", tde=True, mde=True, kde=True, lock=LOCKS[1], d=True, spsr_ss=True)
    blob = Blob([], [asm.NOP], [])
    s = state(case, 0, blob, PLAIN)
    assert (s.mdcr_el2, s.mdscr_el1, s.oslar_el1, s.osdlr_el1) == (1 << 8 | 6, 1 << 15 | 1 << 13, 1, 0)
    assert (s.dbgwvr0_el1, s.dbgbcr0_el1) == (blob.watched, 0)
    assert run(case, 0).spsr == 1 << 21 | 1 << 9 | 0x1C5


@pytest.mark.parametrize(
    ("case", "el", "ec", "place", "ss"),
    [
        (QUIET, 2, 0x16, Place(2), False),
        (replace(QUIET, el=0), 1, 0x15, Place(2), False),
        (replace(QUIET, el=0, tge=True), 2, 0x15, Place(2), False),
        (replace(QUIET, kind="BRK"), 1, 0x3C, Place(0), False),
        (replace(QUIET, kind="BRK", tde=True, lock=LOCKS[1]), 2, 0x3C, Place(0), False),
        (replace(QUIET, tde=True, ss=True, spsr_ss=True), 2, 0x32, Place(1), False),  # KVM's single step
        (replace(QUIET, tde=True, ss=True), 2, 0x32, Place(0), False),
        (replace(QUIET, tde=True, ss=True, lock=LOCKS[2]), 2, 0x16, Place(2), False),
        (replace(QUIET, ss=True, kde=True, spsr_ss=True), 1, 0x33, Place(1), False),
        (replace(QUIET, ss=True, kde=True, d=True), 2, 0x16, Place(2), False),
        (
            replace(QUIET, kind="step of a call", el=0, tde=True, ss=True, spsr_ss=True),
            2,
            0x32,
            Place(256, True),
            False,
        ),
        (replace(QUIET, kind="step over ERET", ss=True, spsr_ss=True), 1, 0x32, Place(3), False),
        (replace(QUIET, kind="step over ERET", tde=True, ss=True, spsr_ss=True), 2, 0x32, Place(2), False),
        (replace(QUIET, kind="breakpoint", tde=True, mde=True), 2, 0x30, Place(0), False),
        (replace(QUIET, kind="breakpoint", tde=True, mde=True, ss=True, spsr_ss=True), 2, 0x30, Place(0), True),
        (replace(QUIET, kind="watchpoint", kde=True, mde=True), 1, 0x35, Place(0), False),
        (replace(QUIET, kind="watchpoint", mde=True), 2, 0x16, Place(2), False),
    ],
    ids=lambda value: str(value),
)
def test_what_the_architecture_says(case, el, ec, place, ss):
    found = predict(case)
    assert (found.el, found.ec, found.place, found.ss) == (el, ec, place, ss)


def test_a_faithful_cpu_does_not_differ(cpu):
    probed = list(cases(cpu))[::7]
    assert compare(probed, [raw(predict(c)) for c in probed]) == []


def test_a_changed_rule_is_reported(monkeypatch):
    """Debug exceptions go to EL2 whatever TDE says."""
    probed = [c for c in cases(PLAIN) if c.kind == "BRK"]
    results = [raw(predict(c)) for c in probed]
    monkeypatch.setattr(exceptions, "goes_to_el2", lambda mdcr, tge: TRUE)
    found = compare(probed, results)
    assert len(found) > 100
    assert all("to EL2, EC 0x3c" in d.expected or "EC 0x32" in d.expected for d in found)


def test_a_lock_that_does_nothing_is_told_apart():
    locked = replace(QUIET, kind="breakpoint", tde=True, mde=True, lock=LOCKS[1])
    (found,) = compare([locked], [raw(predict(replace(locked, lock=LOCKS[0])))])
    assert found.unlocked
    (found,) = compare([locked], [raw(predict(replace(locked, kind="BRK")))])
    assert not found.unlocked


def test_a_wrong_syndrome_is_reported():
    step = replace(QUIET, tde=True, ss=True, spsr_ss=True)
    right = raw(predict(step))
    assert compare([step], [right]) == []
    for bit in (0, 24, 26, 32, 48, 50):  # IFSC, ISV, EC, the address, the Exception level, SPSR.SS
        assert len(compare([step], [right ^ 1 << bit])) == 1
    watch = replace(QUIET, kind="watchpoint", tde=True, mde=True)
    assert len(compare([watch], [raw(predict(watch)) ^ 1 << 51])) == 1  # FAR
