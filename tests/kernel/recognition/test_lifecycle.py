"""What is read of a vCPU's life outside the run loop, on calls of our own."""

from __future__ import annotations

import pytest

from formal.kernel.model.calls import Call
from formal.kernel.recognition.lifecycle import _leaves
from formal.logic import terms as t
from formal.logic.terms import If, Term

_WORD = t.var("vcpu->arch.flags", 64)
_PENDING = [8, 9]
_MASK = t.const(3 << 8, 64)


@pytest.mark.parametrize(
    ("value", "left"),
    [
        (_WORD | t.const(1 << 5, 64), True),
        (_WORD & ~t.const(1 << 5, 64), True),
        (If(t.var("asked", t.BOOL), _WORD | t.const(1 << 5, 64), _WORD), True),
        (_WORD & ~_MASK, False),
        (_WORD & ~t.const(1 << 8, 64), False),
        (_WORD | t.const(1 << 9, 64), False),
        (If(t.var("asked", t.BOOL), _WORD & ~_MASK, _WORD), False),
        (t.const(0, 64), False),
        (t.var("another", 64), False),
        (_WORD + t.const(1 << 5, 64), False),
    ],
)
def test_flags_that_are_left(value: Term, left: bool) -> None:
    """A store to a word of flags leaves what is pending alone, or forgets it, or may do either."""
    store = Call(f"= {_WORD.data}", t.TRUE, (), value, "reset.c", 1, ())
    assert _leaves(store, _PENDING) is left
