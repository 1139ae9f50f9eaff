"""Two trees function by function: what a C function traps and stores in the one and in the other, on the same state.

A function is *equivalent* if it leaves the same values in everything that it stores to: modelled state, other C
variables, its result, and what must not happen in it. It is *strengthened* if the only differences are trap bits of
MDCR_EL2 (in ``vcpu->arch.mdcr_el2`` or in the register itself) that are set in the new tree and clear in the base, and
*weakened* the other way round. Everything else is *incomparable*: traps won here and lost there, or a difference in
anything but traps. Each answer other than *equivalent* comes with a state on which the two were evaluated.

States are those that the proved lemmas of the base allow, for the C function of an operation also its guard; if no
state is left (an operation that the base never runs), all states are. Where two trees keep a value in different widths,
both start from the wider one, cut off where it is narrower. The order of stores is not compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from random import Random

from formal.arch.registers import MDCR_EL2
from formal.engines.equality import holding, true_in
from formal.engines.verdict import ContradictionError
from formal.engines.z3backend import Z3Solver, Z3Terms
from formal.epochs import Mode
from formal.explain.show import value_text
from formal.kernel.lift.program import Lifted
from formal.kernel.model.binding import DEBUG_PTR, Binding
from formal.logic import terms as t
from formal.logic.evaluation import evaluate, nodes, substitute, support
from formal.logic.terms import BOOL, FALSE, TRUE, ArrayValue, Eq, Not, Or, Sort, Term, Value
from formal.operations import Inputs
from formal.state import REGISTER_OF_BANK, VARIABLES, State
from formal.system import OBSERVED, System
from formal.tree.verdicts import TreeReport

TRAPS = "TDCC TTRF TPMS TDRA TDOSA TDA TDE TPM TPMCR".split()  # set, each only ever adds accesses that trap
MASK = MDCR_EL2.mask(*TRAPS)
TRIES = 4  # states on which two functions are evaluated before a solver is asked
TRAPPING = ("mdcr_el2", "hw_mdcr_el2")  # where MDCR_EL2 for the guest is kept


class Change(Enum):
    """What became of a function."""

    EQUIVALENT = "equivalent"
    STRENGTHENED = "strengthened"
    WEAKENED = "weakened"
    INCOMPARABLE = "incomparable"
    ADDED = "added"
    REMOVED = "removed"


OTHER, LESS, MORE = "differs in what is not a trap", "traps less", "traps more"
_KINDS = {
    None: Change.EQUIVALENT,
    OTHER: Change.INCOMPARABLE,
    LESS: Change.WEAKENED,
    MORE: Change.STRENGTHENED,
}


@dataclass(frozen=True)
class Witness:
    """A state on which the two trees differ: what they find, and what each leaves; values as text."""

    says: str
    state: Mapping[str, str]
    base: Mapping[str, str]
    tree: Mapping[str, str]


@dataclass(frozen=True)
class FunctionChange:
    """One C function in one host mode, in the base and in the tree; a place is empty where it does not exist."""

    function: str
    mode: Mode
    base_place: str
    place: str
    change: Change
    differs_in: tuple[str, ...] = ()
    witnesses: tuple[Witness, ...] = ()


def compare(base: TreeReport, tree: TreeReport, timeout: float | None) -> list[FunctionChange]:
    """Every function that was lifted from either tree, in one mode.

    Raises:
        SolverTimeoutError: if the solver cannot tell with ``timeout`` seconds' work a question.
    """
    common = _Common(base, tree, timeout)
    ours, theirs = _functions(tree), _functions(base)
    found = []
    for key in dict.fromkeys((*theirs, *ours)):
        old, new = theirs.get(key), ours.get(key)
        name, mode = key[0], base.mode
        if old is not None and new is not None:
            found.append(common.compare(old, new))
        elif old is not None:
            found.append(FunctionChange(name, mode, _place(old), "", Change.REMOVED))
        elif new is not None:
            found.append(FunctionChange(name, mode, "", _place(new), Change.ADDED))
    return found


def _functions(report: TreeReport) -> dict[tuple[str, int], Lifted]:
    """The lifted functions; one that was lifted for several arguments is told apart by a number."""
    seen: Counter[str] = Counter()
    found: dict[tuple[str, int], Lifted] = {}
    for compared in report.compared:
        if compared.lifted is not None:
            seen[compared.function] += 1
            found[compared.function, seen[compared.function]] = compared.lifted
    return found


def _place(lifted: Lifted) -> str:
    return f"{lifted.file}:{lifted.line}"


def _fitted(term: Term, sort: Sort) -> Term:
    """A value in another width: zero-extended or cut off; other sorts are never mixed."""
    if term.sort == sort:
        return term
    have = t.width(term)
    assert isinstance(sort, int) and sort, f"{term.sort} is no {sort}"
    return t.zero_extend(term, sort) if have < sort else t.extract(term, sort - 1, 0)


def _wider(a: Sort, b: Sort) -> Sort | None:
    """The sort that holds both; ``None`` if there is none."""
    if a == b:
        return a
    return max(a, b) if isinstance(a, int) and isinstance(b, int) and a and b else None


class _Common:
    """Base and tree over one state, with the lemmas of the base."""

    def __init__(self, base: TreeReport, tree: TreeReport, timeout: float | None) -> None:
        assert base.system is not None and tree.system is not None
        assert base.binding is not None and tree.binding is not None
        self.base, self.tree, self.timeout = base, tree, timeout
        self.bindings: tuple[Binding, Binding] = (base.binding, tree.binding)
        self.fits = _fits(base.system, tree.system)
        self.states = (_state(base.system, self.fits), _state(tree.system, self.fits))
        self.guards = {c.lifted.name: c.operation for c in base.counterparts.values()}
        self.terms = Z3Terms()
        self.solver = Z3Solver(self.terms, timeout)
        self.solver.add(*(substitute(fact, _narrowing(base.system, self.fits)) for fact in base.facts))
        own = {name: v for name, v in self.states[1].values.items() if name not in self.states[0].values}
        self.solver.add(*_members(own))

    def compare(self, old: Lifted, new: Lifted) -> FunctionChange:
        """One function."""
        pairs, strange = self._outputs(old, new)
        free = Z3Solver(self.terms, self.timeout)  # knows no lemma: most functions are equal on every state
        unlike = {name: Not(Eq(a, b)) for name, (a, b) in pairs.items() if a is not b}
        told = _tried(unlike)
        told |= holding({name: unequal for name, unequal in unlike.items() if name not in told}, free)
        with self.solver.scope():
            self.solver.add(self._guard(old))
            solver = self.solver if not told or self.solver.satisfiable() else free
            told = holding({name: unequal for name, unequal in unlike.items() if name in told}, solver)
            differing = [name for name in unlike if name in told]
            asked = zip((OTHER, LESS, MORE), _questions(pairs, differing), strict=True)
            found = {says: self._witness(solver, pairs, differing, says, q) for says, q in asked if q is not FALSE}
        witnesses = {says: w for says, w in found.items() if w is not None}
        several = strange or len(witnesses) > 1
        change = Change.INCOMPARABLE if several else _KINDS[next(iter(witnesses), None)]
        names = tuple(dict.fromkeys((*strange, *differing)))
        return FunctionChange(
            new.name, self.base.mode, _place(old), _place(new), change, names, tuple(witnesses.values())
        )

    def _guard(self, old: Lifted) -> Term:
        operation = self.guards.get(old.name)
        if operation is None:
            return TRUE
        k = self.base.resolved.kernel
        return operation.enabled(self.states[0], k, Inputs(f"in.{operation.name}", k.breakpoints))

    def _outputs(self, old: Lifted, new: Lifted) -> tuple[dict[str, tuple[Term, Term]], list[str]]:
        """What both leave, by name, in one width; and the names of what cannot be put side by side."""
        lifted = zip((old, new), self.bindings, self.states, strict=True)
        sides = [dict(_outputs(f, binding, s)) for f, binding, s in lifted]
        raw: dict[str, list[tuple[int, Term | None]]] = {}  # with the side whose C variables are in the term
        for name in dict.fromkeys((*sides[0], *sides[1])):
            raw[name] = []
            for n, side in enumerate(sides):
                whose = n if name in side else 1 - n
                output = sides[whose][name]
                raw[name].append((whose, output.term if whose == n else output.unchanged(self.states[n])))
        found = [term for terms in raw.values() for term in terms]
        sorts = [_sorts(term for whose, term in found if whose == n and term is not None) for n in (0, 1)]
        inputs = [_inputs(sorts[0], sorts[1]), _inputs(sorts[1], sorts[0])]
        pairs: dict[str, tuple[Term, Term]] = {}
        strange = []
        for name, ((left, a), (right, b)) in raw.items():
            sort = None if a is None or b is None else _wider(a.sort, b.sort)
            if a is None or b is None or sort is None:
                strange.append(name)
            else:
                pairs[name] = _fitted(substitute(a, inputs[left]), sort), _fitted(substitute(b, inputs[right]), sort)
        return pairs, strange

    @staticmethod
    def _witness(
        solver: Z3Solver, pairs: Mapping[str, tuple[Term, Term]], differing: Iterable[str], says: str, question: Term
    ) -> Witness | None:
        shown = [pairs[name] for name in differing]
        wanted = [n for n in nodes(tuple(side for pair in shown for side in pair)) if n.op == "var"]
        env = solver.model(wanted, question)
        if env is None:
            return None
        if not evaluate(question, env):
            raise ContradictionError("the solver's witness of a difference does not show it")
        left, right = ({n: evaluate(pairs[n][side], env) for n in differing} for side in (0, 1))
        names = [n for n in differing if left[n] != right[n]]
        read = sorted(frozenset().union(*(support(side) for n in names for side in pairs[n])))
        return Witness(
            _said(says, left, right),
            {_plain(n): value_text(_plain(n), env[n]) for n in read},
            *({n: value_text(n, side[n]) for n in names} for side in (left, right)),
        )


def _tried(questions: Mapping[str, Term]) -> set[str]:
    """The questions that hold in some state out of a few: there is no need to ask the solver about those."""
    variables = [node for node in nodes(tuple(questions.values())) if node.op == "var"]
    found: set[str] = set()
    for seed in range(TRIES):
        choose = Random(seed)
        found |= true_in(questions, {str(v.data): _some_value(v.sort, choose) for v in variables})
    return found


def _some_value(sort: Sort, choose: Random) -> Value:
    if isinstance(sort, tuple):
        return ArrayValue(choose.getrandbits(sort[1]))
    return choose.getrandbits(sort) if sort else bool(choose.getrandbits(1))


def _said(says: str, left: Mapping[str, Value], right: Mapping[str, Value]) -> str:
    if says == OTHER:
        return says
    bits = 0
    for name in TRAPPING:
        old, new = int(left.get(name, 0)), int(right.get(name, 0))  # type: ignore[arg-type]
        bits |= (old & ~new if says == LESS else new & ~old) & MASK
    return f"{says}: {MDCR_EL2.decode(bits)}"


def _questions(pairs: Mapping[str, tuple[Term, Term]], differing: Iterable[str]) -> tuple[Term, Term, Term]:
    """When something other than traps differs; when a trap bit is lost; when one is won."""
    other, lost, won = [], [], []
    for name in differing:
        a, b = pairs[name]
        if name not in TRAPPING:
            other.append(Not(Eq(a, b)))
            continue
        bits = t.width(a)
        mask, zero = t.const(MASK, bits), t.const(0, bits)
        other.append(Not(Eq(a & ~mask, b & ~mask)))
        lost.append(Not(Eq(a & ~b & mask, zero)))
        won.append(Not(Eq(b & ~a & mask, zero)))
    return Or(*other), Or(*lost), Or(*won)


def _plain(name: str) -> str:
    tag, _, rest = name.partition(".")
    return rest if tag in ("v0", "p0") else name


# ---- the common state


def _fits(a: System, b: System) -> dict[str, Term]:
    """For every state variable of both systems that is wider in one of them: the wider variable."""
    found = {}
    for pair in OBSERVED:
        others = b.state(pair).values
        for name, left in a.state(pair).values.items():
            right = others.get(name, left)  # what only one release has is not put side by side
            if left.sort != right.sort:
                sort = _wider(left.sort, right.sort)
                assert sort is not None, f"{name} has other sorts"
                found[str(left.data)] = t.var(str(left.data), sort)
    return found


def _members(variables: Mapping[str, Term]) -> Iterator[Term]:
    """That variables have one of their values; of those that both systems have, the lemmas say it."""
    for name, variable in variables.items():
        kind = VARIABLES[name].kind
        if kind is not None and issubclass(kind, IntEnum):
            yield Or(*(Eq(variable, t.const(member, t.width(variable))) for member in kind))


def _narrowing(system: System, fits: Mapping[str, Term]) -> dict[str, Term]:
    own = {str(v.data): v for pair in OBSERVED for v in system.state(pair).values.values()}
    return {name: _fitted(wide, own[name].sort) for name, wide in fits.items()}


def _state(system: System, fits: Mapping[str, Term]) -> State:
    s, narrowing = system.state(), _narrowing(system, fits)
    return State({n: narrowing.get(str(v.data), v) for n, v in s.values.items()}, s.vcpu_id, s.cpu_id)


# ---- what a function leaves


@dataclass(frozen=True)
class _Output:
    """A value that a function leaves, and what is there instead if a function does not store to it."""

    term: Term
    unchanged: Callable[[State], Term | None]


def _outputs(lifted: Lifted, binding: Binding, s: State) -> Iterator[tuple[str, _Output]]:
    effect, mapping = binding.after(lifted, s), binding.before(lifted, s)
    for name, value in effect.values.items():
        yield name, _Output(value, lambda s, n=name: s.values.get(n))  # type: ignore[misc]
    for (bank, number), value in effect.elements.items():
        name = f"{bank}[{REGISTER_OF_BANK[number >> 4]}{number & 15}]"
        yield name, _Output(value, lambda s, b=bank, n=number: _element(s, b, n))  # type: ignore[misc]
    for lvalue, value in lifted.writes.items():  # of what is more than the state says of it, all
        whole = substitute(value, mapping)
        here = [flag.bit for flag in binding.flags.values() if flag.lvalue == lvalue]
        if here:
            others = t.const(~sum(1 << bit for bit in here), t.width(whole))
            unchanged = t.var(lvalue, whole.sort) & others
            yield f"other bits of {lvalue}", _Output(whole & others, lambda s, v=unchanged: v)  # type: ignore[misc]
        elif lvalue == DEBUG_PTR:
            yield lvalue, _Output(whole, lambda s, v=mapping[lvalue]: v)  # type: ignore[misc]
    for lvalue in binding.stores(lifted)[1]:
        value = substitute(lifted.writes[lvalue], mapping)
        yield lvalue, _Output(value, lambda s, n=lvalue, v=value: t.var(n, v.sort))  # type: ignore[misc]
    for lvalue, choices in lifted.pointer_writes.items():
        for target in dict.fromkeys(target for _, target in choices):
            chosen = substitute(Or(*(guard for guard, to in choices if to == target)), mapping)
            name = f"{lvalue} points to {target}"
            yield name, _Output(chosen, lambda s, n=name: t.var(n, BOOL))  # type: ignore[misc]
    if lifted.result is not None:
        yield "the result", _Output(substitute(lifted.result, mapping), lambda s: None)
    yield "whether it returns", _Output(substitute(lifted.returns, mapping), lambda s: TRUE)
    risks = Or(*(o.condition for o in lifted.obligations))
    yield "what must not happen", _Output(substitute(risks, mapping), lambda s: FALSE)


def _element(s: State, bank: str, number: int) -> Term:
    sort = s.values[bank].sort
    assert isinstance(sort, tuple)
    return t.select(s.values[bank], t.const(number, sort[0]))


def _sorts(terms: Iterable[Term]) -> dict[str, Sort]:
    return {str(node.data): node.sort for node in nodes(tuple(terms)) if node.op == "var"}


def _inputs(own: Mapping[str, Sort], other: Mapping[str, Sort]) -> dict[str, Term]:
    """C variables that another tree has in a wider type, as parts of those."""
    found = {}
    for name, sort in own.items():
        wide = _wider(sort, other.get(name, sort))
        if wide is not None and wide != sort:
            found[name] = _fitted(t.var(name, wide), sort)
    return found
