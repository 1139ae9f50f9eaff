"""Random C against the compiler (hypothesis): what the lifter accepts means what the compiled code does.

The host's compiler serves where it is for a 64-bit little-endian machine with the widths of AAPCS64's integer types
(LP64, as every snippet spells its types out and no char is plain); the kernel's -fno-strict-overflow is -fwrapv.
"""

from __future__ import annotations

import ctypes
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift import machine, operators, values
from formal.kernel.lift.machine import State
from formal.kernel.lift.program import Program
from formal.kernel.lift.snippet import snippet
from formal.kernel.lift.statements import Statements
from formal.logic import terms as t
from formal.logic.compiled import straight
from formal.logic.terms import Term
from tests.kernel.lift.random_c import HEAD, KINDS, PLACES, Memory, Writer

COMPILER = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
pytestmark = pytest.mark.skipif(
    COMPILER is None or sys.byteorder != "little" or ctypes.sizeof(ctypes.c_long) != 8,
    reason="needs a C compiler for a 64-bit little-endian machine",
)
BOUNDARY = (0, 1, 2, 3, 7, 15, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF,
            1 << 63, (1 << 63) - 1, (1 << 64) - 1)  # fmt: skip
STATES = 40


def compiled(text: str) -> ctypes.CDLL:
    """The functions of a text; the library stays loaded when its file is gone."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "f.c"), Path(folder, "f.so")
        source.write_text(text)
        assert COMPILER is not None
        options = ["-O1", "-w", "-fwrapv", "-fno-strict-aliasing", "-std=gnu11", "-shared", "-fPIC"]
        subprocess.run([COMPILER, *options, "-o", str(library), str(source)], check=True)
        return ctypes.CDLL(str(library))


def state(r: random.Random) -> dict[str, int]:
    """A value for every place."""
    return {
        place: r.choice((*BOUNDARY, r.getrandbits(64), r.getrandbits(8))) & ((1 << KINDS[kind]) - 1)
        for place, kind in PLACES.items()
    }


def check(program: Program, library: ctypes.CDLL, name: str, text: str, seed: int) -> str:
    """``equal``, or why the lifter refuses."""
    try:
        lifted = program.lift(name, "vhe")
    except NotUnderstoodError as error:
        assert re.fullmatch(r"snippet\.c:\d+: .+", str(error)), error
        return error.reason
    names = [f"vcpu->{place}" for place in PLACES]
    after = dict(zip(PLACES, names, strict=True))
    terms = [lifted.writes.get(lvalue) for lvalue in after.values()]
    f = straight([*(o.condition for o in lifted.obligations), *(x for x in terms if x is not None)], names)
    r = random.Random(seed)
    for _ in range(STATES):
        start = state(r)
        values = f(list(start.values()))
        if any(values[: len(lifted.obligations)]):
            continue  # undefined in C
        memory = Memory()
        memory.fill(start)
        library[name](ctypes.byref(memory))
        rest = iter(values[len(lifted.obligations) :])
        wanted = {place: start[place] if x is None else next(rest) for place, x in zip(PLACES, terms, strict=True)}
        got = memory.values()
        wrong = {place: (hex(got[place]), hex(wanted[place])) for place in PLACES if got[place] != wanted[place]}
        assert not wrong, f"compiled and lifted: {wrong}\nfrom {start}\n{text}"
    return "equal"


def outcome(text: str) -> list[str]:
    """What becomes of the functions f0, f1, ... of a text."""
    names = re.findall(r"(?m)^void (f\d+)\(", text)
    library, program = compiled(text), snippet(text)
    return [check(program, library, name, text, seed) for seed, name in enumerate(names)]


@given(st.randoms(use_true_random=False))
@settings(
    max_examples=100, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)  # fmt: skip
def test_what_is_accepted_agrees(r: random.Random) -> None:
    outcome(HEAD + Writer(r).function("f0"))


def test_many_at_once_and_most_are_accepted() -> None:
    counts: Counter[str] = Counter()
    for seed in range(6):
        writer = Writer(random.Random(seed))
        counts.update(outcome(HEAD + "".join(writer.function(f"f{i}") for i in range(50))))
    assert counts.total() == 300
    assert counts["equal"] >= 220, counts


PLANTED = {
    "subtraction adds": lambda m: m.setitem(operators._ARITHMETIC, "-", t.bvadd),
    "no sign extension": lambda m: m.setattr(values.t, "sign_extend", t.zero_extend),
    "arithmetic shifts are logical": lambda m: m.setattr(operators.t, "bvashr", t.bvlshr),
    "signed order is unsigned": lambda m: m.setattr(operators.t, "slt", t.ult),
    "a branch taken wins": lambda m: m.setattr(machine, "choose", lambda c, a, b: a),
    "a switch without a match loses the path": lambda m: m.setattr(Statements, "_rejoin", _forgetting),
}  # fmt: skip


def _forgetting(self: Statements, start: Term, escapes: int, more: list[State] | None = None) -> None:
    """Paths that skip a switch are lost."""
    original(self, start, escapes, [])


original = Statements._rejoin


@pytest.mark.parametrize("planted", PLANTED)
def test_a_wrong_lifter_is_caught(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTED[planted](monkeypatch)
    with pytest.raises(AssertionError, match="compiled and lifted"):
        for seed in range(4):
            writer = Writer(random.Random(seed))
            outcome(HEAD + "".join(writer.function(f"f{i}") for i in range(50)))
