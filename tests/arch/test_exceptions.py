"""Debug exceptions and software step, over every value of the bits that take part, against the rules restated."""

from itertools import product

import pytest

from formal.arch import exceptions as x
from formal.arch.registers import MDCR_EL2, MDSCR_EL1, PSTATE
from formal.logic import terms as t
from formal.logic.evaluation import evaluate

BOOL = (False, True)
NAMES = ("tde", "tge", "locked", "kde", "mde", "ss", "d", "pss", "el1")
CASES = [dict(zip(NAMES, bits, strict=True)) for bits in product(BOOL, repeat=len(NAMES))]


def arguments(c):
    return (
        MDCR_EL2.of(TDE=c["tde"]),
        MDSCR_EL1.of(KDE=c["kde"], MDE=c["mde"], SS=c["ss"]),
        t.boolean(c["locked"]),
        PSTATE.of(SS=c["pss"], D=c["d"], EL=int(c["el1"])),
        t.boolean(c["tge"]),
    )


def restated_enabled(c):
    """A debug exception is enabled unless the lock forbids it, or it would be taken to the level that masks it."""
    if c["locked"]:
        return False
    if c["tde"] or c["tge"] or not c["el1"]:  # the target is above
        return True
    return c["kde"] and not c["d"]


def ask(function, c):
    return evaluate(function(*arguments(c)), {})


def test_enabled():
    for c in CASES:
        assert ask(x.enabled, c) is restated_enabled(c), c
        assert ask(x.breakpoint_enabled, c) is (restated_enabled(c) and c["mde"]), c


def test_target():
    for tde, tge in product(BOOL, BOOL):
        assert evaluate(x.goes_to_el2(MDCR_EL2.of(TDE=tde), t.boolean(tge)), {}) is (tde or tge)


def test_step_states():
    for c in CASES:
        s = x.step_state(*arguments(c))
        states = [evaluate(state, {}) for state in (s.inactive, s.active_not_pending, s.active_pending)]
        active = restated_enabled(c) and c["ss"]
        assert states == [not active, active and c["pss"], active and not c["pss"]], c
        assert sum(states) == 1
        assert ask(x.may_execute, c) is not states[2]
        assert ask(x.retires_ss, c) is (c["pss"] and not active)


def test_one_instruction_between_two_step_exceptions():
    """ERET with SPSR.SS=1 into an active machine: one instruction executes, then the exception is pending."""
    for c in CASES:
        if not (restated_enabled(c) and c["ss"]):
            continue
        mdcr, mdscr, locked, spsr, tge = arguments(c | {"pss": True})
        entered = spsr.but(SS=x.eret_ss(mdcr, mdscr, locked, spsr, tge))
        assert evaluate(x.may_execute(mdcr, mdscr, locked, entered, tge), {})
        after = entered.but(SS=x.retires_ss(mdcr, mdscr, locked, entered, tge))
        assert not evaluate(x.may_execute(mdcr, mdscr, locked, after, tge), {})


@pytest.mark.parametrize(("source", "destination", "ss", "spsr"), list(product(BOOL, repeat=4)))
def test_eret(source, destination, ss, spsr):
    got = x.eret_ss_from(t.boolean(source), t.boolean(destination), MDSCR_EL1.of(SS=ss), PSTATE.of(SS=spsr))
    assert evaluate(got, {}) is (spsr and ss and destination and not source)


ERET_FROM_EL2 = [  # TDE, EL of the guest, KDE, SPSR_EL2.D (None: either), whether PSTATE.SS becomes SPSR_EL2.SS, not 0
    (False, 1, False, None, False),
    (False, 1, True, True, False),
    (False, 1, True, False, True),
    (False, 0, None, None, True),
    (True, 1, None, None, True),  # from an EL2 where debug exceptions are off: KDE is 0 there, or PSTATE.D is 1
    (True, 0, None, None, True),
]


@pytest.mark.parametrize(("tde", "el", "kde", "d", "copied"), ERET_FROM_EL2)
def test_eret_from_el2(tde, el, kde, d, copied):
    """The rows of the Arm ARM's tables of the value that an exception return writes to PSTATE.SS."""
    for k, masked, ss, spsr_ss, locked in product(
        BOOL if kde is None else (kde,), BOOL if d is None else (d,), *[BOOL] * 3
    ):
        mdscr = MDSCR_EL1.of(KDE=k, SS=ss)
        spsr = PSTATE.of(SS=spsr_ss, D=masked, EL=el)
        got = evaluate(x.eret_ss(MDCR_EL2.of(TDE=tde), mdscr, t.boolean(locked), spsr), {})
        assert got is (copied and spsr_ss and ss and not locked)


def test_with_tde_the_guest_cannot_mask():
    """KDE and PSTATE.D of the guest do not matter to exceptions that go to EL2; a lock does."""
    for c in CASES:
        if c["tde"] and not c["locked"]:
            assert ask(x.enabled, c) is True
        if c["locked"]:
            assert ask(x.enabled, c) is False
