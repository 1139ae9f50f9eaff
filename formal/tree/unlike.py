"""How a C function differs from its description: in which bits, on which state, and at which of its stores.

Nothing is decided here: that the function differs is known. Each difference is shown on a state that the solver finds,
the simplest if that shows it (all that the two read is 0). At fault is the last store that takes a lost bit away again;
or else one that would set it and is not reached in that state; or else the one that sets most of the other bits. For a
bit too many it is the last store that sets it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from formal.arch.bits import Register
from formal.engines.z3backend import SolverTimeoutError, Z3Solver, shared_terms
from formal.explain.show import value_text
from formal.kernel.compare import ownership
from formal.kernel.lift.program import Lifted
from formal.kernel.model.binding import Binding, allowed
from formal.kernel.model.counterparts import COMPONENTS
from formal.logic import terms as t
from formal.logic.evaluation import evaluate, nodes, substitute, support
from formal.logic.terms import BOOL, TRUE, And, ArrayValue, Eq, Ne, Sort, Term, Value
from formal.operations import Inputs
from formal.state import VARIABLES
from formal.tree.verdicts import Compared, TreeReport

QUESTIONS = 8  # states that are asked for until the bits are known
WORK = 10.0  # seconds' work for a question, as Z3Solver counts it
FEW = 6  # bits that are named; where more differ it is the value as a whole


@dataclass(frozen=True)
class Unlike:
    """One state variable that a function leaves otherwise than its description says."""

    variable: str
    lost: str  # fields that are set in the description and not in the C
    won: str  # the other way round
    always: bool  # on every state
    state: Mapping[str, str]  # what both read in a state that shows it, if that is not 0
    here: str
    described: str
    line: int  # of the store at fault; 0 if none is
    silent: bool = False  # the function has no store to the variable

    def __str__(self) -> str:
        if self.silent:
            return f"never stores to {self.stands_for}, unlike its description"
        if not self.lost and not self.won:
            return f"leaves {self.stands_for} as {self.here}, not {self.described}{self._where}"
        told = [f"leaves {self.lost} clear"] if self.lost else []
        told += [f"sets {self.won}"] if self.won else []
        return f"{' and '.join(told)} in {self.stands_for}, unlike its description{self._where}"

    @property
    def stands_for(self) -> str:
        """What a reader of the kernel calls the variable."""
        says = VARIABLES[self.variable].stands_for.partition(" (")[0]
        return f"'{says}'" if " " in says else says

    @property
    def _where(self) -> str:
        if self.always:
            return ", in every state"
        found = ", ".join(f"{name} = {value}" for name, value in self.state.items())
        return f", such as where {found or 'all that it reads is 0'}"


@dataclass(frozen=True)
class _Sides:
    """What a function leaves and what its description leaves, by state variable; both over one state."""

    got: Mapping[str, Term]
    wanted: Mapping[str, Term]
    guard: Term
    mapping: Mapping[str, Term]  # what C variables hold
    binding: Binding


def unlike(report: TreeReport, c: Compared, timeout: float | None = WORK) -> tuple[Unlike, ...]:
    """Each variable in which a function differs, as far as its description is at hand and the solver finds a state."""
    if c.told is None:
        sides, lifted, found = _sides(report, c), c.lifted, list[Unlike | None]()
        if sides is not None and lifted is not None:  # some differ in a sentence, which is no variable
            found = [_one(sides, lifted, name, timeout) for name in c.differs_in if name in sides.wanted]
        c.told = tuple(u for u in found if u is not None)
    return c.told


def origin(told: Sequence[Unlike], one: Unlike) -> Unlike:
    """Where a difference begins: the first of the variables that differ in the same bits, which is carried on."""
    alike = [u for u in told if u.line and (u.lost, u.won) == (one.lost, one.won) != ("", "")]
    return min(alike, key=lambda u: u.line, default=one)


def _sides(report: TreeReport, c: Compared) -> _Sides | None:
    system, lifted, binding = report.system, c.lifted, report.binding
    if system is None or lifted is None or binding is None or report.program is None:
        return None
    s, k = system.state(), system.kernel
    for name, counterpart in report.counterparts.items():
        if counterpart.lifted is lifted:
            i, operation = Inputs(f"in.{name}", k.breakpoints), counterpart.operation
            guard = And(operation.enabled(s, k, i), allowed(s))
            got, wanted = counterpart.effect(s, i).values, operation.step(s, k, i).values
            return _Sides({**s.values, **got}, wanted, guard, counterpart.mapping(s, i), counterpart.binding)
    if not k.tracks_debug_owner and c.function in COMPONENTS:
        got = binding.after(lifted, s).values
        wanted = COMPONENTS[c.function](s, k).values
        return _Sides({**s.values, **got}, wanted, TRUE, binding.before(lifted, s), binding)
    part = next((p for p in report.parts.values() if p.lifted is lifted), None)
    if part is None and k.tracks_debug_owner and c.function in ownership.COMPONENTS:
        part = ownership.Debug(report.program.tree, {c.function: lifted}, binding).part(c.function)
    if part is None:
        return None
    got, wanted = part.effect(s).values, part.by_hand(s, k).values
    return _Sides({**s.values, **got}, wanted, allowed(s), part.mapping(s), part.binding)


def _one(sides: _Sides, lifted: Lifted, name: str, timeout: float | None) -> Unlike | None:
    a, b = sides.got[name], sides.wanted[name]
    if isinstance(a.sort, tuple) or a.sort != b.sort:
        return None
    try:
        return _shown(sides, lifted, name, timeout, a, b)
    except SolverTimeoutError:
        return None  # that it differs is told all the same


def _shown(sides: _Sides, lifted: Lifted, name: str, timeout: float | None, a: Term, b: Term) -> Unlike | None:
    solver = Z3Solver(shared_terms(), timeout)
    solver.add(sides.guard)
    wanted = [n for n in nodes((a, b, sides.guard)) if n.op == "var"]
    zero = {str(v.data): _zero(v.sort) for v in wanted}
    both = [Ne(x & ~y, t.const(0, t.width(a))) for x, y in ((b, a), (a, b))] if a.sort != BOOL else []
    env: Mapping[str, Value] | None = zero if evaluate(And(sides.guard, Ne(a, b), *both), zero) else None
    env = env or (solver.model(wanted, *both) if both else None)
    env = env or (zero if evaluate(And(sides.guard, Ne(a, b)), zero) else solver.model(wanted, Ne(a, b)))
    if env is None:  # its guard never holds
        return None
    now, then = evaluate(a, env), evaluate(b, env)
    lost, won = ("", "") if a.sort == BOOL else _fields(solver, wanted, VARIABLES[name].kind, b & ~a, a & ~b)
    return Unlike(
        name,
        lost,
        won,
        always=solver.model((), Eq(a, b)) is None,
        state={_plain(v): value_text(_plain(v), env[v]) for v in sorted(support(a) | support(b)) if env[v] != zero[v]},
        here=value_text(name, now),
        described=value_text(name, then),
        line=_line(sides, lifted, name, env, now, then),
        silent=not any(_stores(sides, lifted, name, env)),
    )


def _fields(
    solver: Z3Solver, variables: list[Term], kind: type[Register] | type[IntEnum] | None, *differences: Term
) -> tuple[str, str]:
    """The fields of a register that are set in some state, for two values; nothing if they are too many to tell."""
    bits = [_bits(solver, variables, of) for of in differences]
    if kind is None or not issubclass(kind, Register) or None in bits:
        return "", ""
    lost, won = (kind.decode(of) if of else "" for of in bits)
    return lost, won


def _zero(sort: Sort) -> Value:
    return ArrayValue(0) if isinstance(sort, tuple) else 0 if sort else False


def _bits(solver: Z3Solver, variables: list[Term], set_bits: Term) -> int | None:
    """The bits that are set in some state; ``None`` if they are too many to tell."""
    found, width = 0, t.width(set_bits)
    for _ in range(QUESTIONS):
        new = set_bits & t.const(~found & ((1 << width) - 1), width)
        env = solver.model(variables, Ne(new, t.const(0, width)))
        if env is None:
            return found
        found |= int(evaluate(set_bits, env))  # type: ignore[arg-type]
        if found.bit_count() > FEW:
            break
    return None


def _line(sides: _Sides, lifted: Lifted, name: str, env: Mapping[str, Value], now: Value, then: Value) -> int:
    """The store at fault in a state; 0 if the function stores nothing there."""
    stores = [*_stores(sides, lifted, name, env)]
    reached = [(line, value) for line, taken, value in stores if taken]
    if not isinstance(now, int) or not isinstance(then, int) or isinstance(now, bool):
        return reached[-1][0] if reached else stores[0][0] if stores else 0
    lost, won = then & ~now, now & ~then
    steps = [(line, old, new) for (line, new), old in zip(reached, [0, *(v for _, v in reached)], strict=False)]
    if won:
        return next((line for line, old, new in reversed(steps) if new & won & ~old), 0)
    clears = [line for line, old, new in steps if old & lost & ~new]
    skipped = [line for line, taken, value in stores if not taken and value & lost]
    most = max(steps, key=lambda one: (one[2] & ~one[1]).bit_count(), default=(0, 0, 0))
    return [most[0], *skipped[-1:], *clears[-1:]][-1]


def _stores(sides: _Sides, lifted: Lifted, name: str, env: Mapping[str, Value]) -> Iterator[tuple[int, bool, int]]:
    """The stores to a variable, in program order: line, whether it is reached in this state, and what is stored."""
    for event in lifted.events:
        if name in sides.binding.stores(replace(lifted, writes={event.lvalue: event.value}))[0]:
            guard, stored = substitute(event.guard, sides.mapping), substitute(event.value, sides.mapping)
            open_ = {str(v.data): _zero(v.sort) for v in nodes((guard, stored)) if v.op == "var"} | dict(env)
            value = evaluate(stored, open_)
            if not isinstance(value, ArrayValue):
                yield event.place.line, bool(evaluate(guard, open_)), int(value)


def _plain(name: str) -> str:
    tag, _, rest = name.partition(".")
    return rest if tag in ("v0", "p0") else name
