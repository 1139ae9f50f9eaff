"""Registers: declarations that cannot be wrong in silence, and fields that read and write where they say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formal.arch.bits import Register, bit, bits
from formal.arch.registers import MDCR_EL2, MDSCR_EL1
from formal.logic import terms as t
from formal.logic.evaluation import evaluate
from formal.logic.terms import Value


class SMALL(Register, width=16):
    """A register with a gap between its fields."""

    TOP = bit(15, "the sign")
    WIDE = bits(11, 4, "a number")
    LOW = bits(1, 0, "two bits")


def value(term: t.Term) -> Value:
    """The value of a term without variables."""
    return evaluate(term, {})


def raw(number: int) -> SMALL:
    """A concrete register."""
    return SMALL(t.const(number, 16))


# ---- declarations


def test_overlapping_fields_are_refused() -> None:
    with pytest.raises(TypeError, match=r"BAD\.B is bits 5:3, but the field above it starts at bit 4"):

        class BAD(Register):
            A = bits(7, 4)
            B = bits(5, 3)


def test_fields_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(TypeError, match=r"BAD\.B is bits 9:9.*most significant first"):

        class BAD(Register):
            A = bit(1)
            B = bit(9)


def test_fields_outside_the_register_are_refused() -> None:
    with pytest.raises(TypeError, match=r"BAD\.A is bits 32:32"):

        class BAD(Register, width=32):
            A = bit(32)


def test_a_field_upside_down_is_refused() -> None:
    with pytest.raises(TypeError, match=r"BAD\.A is bits 2:5"):

        class BAD(Register):
            A = bits(2, 5)


def test_every_declared_field_says_what_it_does() -> None:
    for register in (MDCR_EL2, MDSCR_EL1):
        for name, field in register.fields.items():
            assert field.says, f"{register.__name__}.{name} needs its meaning"


# ---- values


def test_of_sets_the_named_fields_and_nothing_else() -> None:
    assert value(SMALL.of(TOP=True, WIDE=0xA5).raw) == 0x8A50
    assert value(SMALL.of().raw) == 0


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFF), st.booleans())
def test_but_replaces_a_field_and_keeps_the_rest(old: int, wide: int, top: bool) -> None:
    new = raw(old).but(WIDE=wide, TOP=top)
    assert value(new.raw) == old & ~0x8FF0 | wide << 4 | top << 15
    assert value(new.WIDE) == wide
    assert value(new.TOP) is top
    assert value(new.LOW) == old & 3


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFF), st.booleans())
def test_a_term_in_a_field_is_the_same_as_its_value(old: int, wide: int, top: bool) -> None:
    register = SMALL(t.var("r", 16)).but(WIDE=t.var("w", 8), TOP=t.var("t", t.BOOL))
    got = evaluate(register.raw, {"r": old, "w": wide, "t": top})
    assert got == value(raw(old).but(WIDE=wide, TOP=top).raw)


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_only_and_same_look_at_the_named_fields(a: int, b: int) -> None:
    assert value(raw(a).only("WIDE", "LOW")) == (a & ~0x0FF3 == 0)
    assert value(raw(a).only()) == (a & ~0x8FF3 == 0)
    assert value(raw(a).same(raw(b), "TOP")) == (a >> 15 == b >> 15)
    assert value(raw(a).same(raw(b))) == (a == b)
    assert value(raw(a).same_but_for(raw(b), "TOP")) == (a & 0x7FFF == b & 0x7FFF)
    assert value(raw(a).any()) == (a != 0)


def test_decode_names_fields_and_keeps_what_has_no_name() -> None:
    assert SMALL.decode(0) == "0"
    assert SMALL.decode(0x8000) == "TOP"
    assert SMALL.decode(0x0123) == "WIDE=0x12 LOW=0x3"
    assert SMALL.decode(0x7001) == "LOW=0x1 others=0x7000"
    assert MDCR_EL2.decode(MDCR_EL2.mask("TDE", "TDA") | 6) == "TDA TDE HPMN=0x6"


def test_masks() -> None:
    assert SMALL.mask("TOP") == 0x8000
    assert SMALL.mask("WIDE", "LOW") == 0x0FF3
    assert SMALL.mask() == 0x8FF3


# ---- misuse


def test_an_unknown_field_is_named_with_its_nearest() -> None:
    with pytest.raises(AttributeError, match=r"^MDCR_EL2 has no field TDAA; did you mean TDA\?$"):
        MDCR_EL2.of(TDAA=True)
    with pytest.raises(AttributeError, match=r"^SMALL has no field ZZZ$"):
        raw(0).same(raw(0), "ZZZ")
    with pytest.raises(AttributeError, match=r"^SMALL has no field WIDER; did you mean WIDE\?$"):
        SMALL.mask("WIDER")


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TypeError, match=r"SMALL\.TOP is one bit: give a Boolean"):
        raw(0).but(TOP=t.const(1, 8))
    with pytest.raises(TypeError, match=r"SMALL\.WIDE has 8 bits, got sort 4"):
        raw(0).but(WIDE=t.const(1, 4))
    with pytest.raises(TypeError, match="SMALL has 16 bits, got a term of 8"):
        SMALL(t.const(0, 8))


@pytest.mark.parametrize("number", [256, -1])
def test_numbers_that_a_field_cannot_hold_are_refused(number: int) -> None:
    with pytest.raises(TypeError, match=rf"SMALL\.WIDE has 8 bits, which {number} does not fit"):
        SMALL.of(WIDE=number)


@pytest.mark.parametrize("name", ["TOP", "raw", "new"])
def test_registers_do_not_change(name: str) -> None:
    with pytest.raises(TypeError, match=rf"registers do not change; use \.but\({name}="):
        setattr(raw(0), name, True)
