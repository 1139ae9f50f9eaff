"""Terms to Z3, one constructor for one, and a solver for them.

Every node of ``formal.logic.terms`` becomes exactly one application of the Z3 function of the same name; nothing is
simplified on the way. Calls go through the C API, because building the same terms through z3py's operators
takes several times as long. The solver is z3's ``SimpleSolver`` with push and pop: ``SolverFor("QF_BV")`` bit-blasts
eagerly and is many times slower on incremental use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import z3
from z3 import z3core as c

from formal.logic import terms as t
from formal.logic.evaluation import support
from formal.logic.terms import BOOL, And, ArrayValue, Not, Sort, Term, Value

_BINARY: dict[str, Callable[..., Any]] = {
    "=": c.Z3_mk_eq, "bvand": c.Z3_mk_bvand, "bvor": c.Z3_mk_bvor, "bvxor": c.Z3_mk_bvxor, "bvadd": c.Z3_mk_bvadd,
    "bvsub": c.Z3_mk_bvsub, "bvmul": c.Z3_mk_bvmul, "bvudiv": c.Z3_mk_bvudiv, "bvurem": c.Z3_mk_bvurem,
    "bvshl": c.Z3_mk_bvshl, "bvlshr": c.Z3_mk_bvlshr, "bvashr": c.Z3_mk_bvashr, "bvult": c.Z3_mk_bvult,
    "bvule": c.Z3_mk_bvule, "bvslt": c.Z3_mk_bvslt, "bvsle": c.Z3_mk_bvsle, "concat": c.Z3_mk_concat,
    "select": c.Z3_mk_select,
}  # fmt: skip


WORK = 4_000_000  # of Z3's resource units: what it does of a hard question in a second, where nothing else runs
_MOST = 0xFFFFFFFF  # that Z3 can count to; 0 is no limit
_TRUE_FIRST = 1  # of Z3's PS_ALWAYS_TRUE: induction takes a quarter less time with it, searches for runs do not


class SolverTimeoutError(Exception):
    """The solver gave up; its reason is the message."""


class Z3Terms:
    """Translates terms into one Z3 context and keeps every translation."""

    def __init__(self) -> None:
        self.context = z3.main_ctx()
        self._ref = self.context.ref()
        self._done: dict[Term, Any] = {}
        self._sorts: dict[Sort, Any] = {}
        self.cores: dict[Term, list[frozenset[Term]]] = {}  # by goal: formulas that were found to imply it
        self._markers: dict[Term, Any] = {}
        self.marked: dict[int, Term] = {}  # the terms that have a marker, by Z3's number of that
        self.satisfiable: set[Term] = set()  # terms that were found to be

    def __del__(self) -> None:
        if self.context.ref() is not None and c is not None:
            for ast in (*self._done.values(), *self._markers.values()):
                c.Z3_dec_ref(self._ref, ast)

    def sort(self, sort: Sort) -> Any:
        """The Z3 sort of a term sort."""
        if sort not in self._sorts:
            if isinstance(sort, tuple):
                made = c.Z3_mk_array_sort(self._ref, self.sort(sort[0]), self.sort(sort[1]))
            else:
                made = c.Z3_mk_bv_sort(self._ref, sort) if sort else c.Z3_mk_bool_sort(self._ref)
            c.Z3_inc_ref(self._ref, c.Z3_sort_to_ast(self._ref, made))
            self._sorts[sort] = made
        return self._sorts[sort]

    def ast(self, term: Term) -> Any:
        """The Z3 AST of a term (raw C API handle, owned by this object)."""
        done = self._done
        found = done.get(term)
        if found is not None:
            return found
        stack = [term]
        while stack:
            node = stack[-1]
            if node in done:
                stack.pop()
                continue
            pending = [a for a in node.args if a not in done]
            if pending:
                stack.extend(pending)
                continue
            made = self._make(node, [done[a] for a in node.args])
            c.Z3_inc_ref(self._ref, made)
            done[node] = made
            stack.pop()
        return done[term]

    def _make(self, node: Term, args: list[Any]) -> Any:
        ref, op = self._ref, node.op
        if op in _BINARY:
            return _BINARY[op](ref, args[0], args[1])
        if op == "var":
            return c.Z3_mk_const(ref, c.Z3_mk_string_symbol(ref, str(node.data)), self.sort(node.sort))
        if op == "const":
            if node.sort == BOOL:
                return c.Z3_mk_true(ref) if node.data else c.Z3_mk_false(ref)
            return c.Z3_mk_numeral(ref, str(node.data), self.sort(node.sort))
        if op == "not":
            return c.Z3_mk_not(ref, args[0])
        if op in ("and", "or"):
            array = (z3.Ast * len(args))(*args)
            return (c.Z3_mk_and if op == "and" else c.Z3_mk_or)(ref, len(args), array)
        if op == "ite":
            return c.Z3_mk_ite(ref, *args)
        if op == "store":
            return c.Z3_mk_store(ref, *args)
        if op == "bvnot":
            return c.Z3_mk_bvnot(ref, args[0])
        if op == "extract":
            hi, lo = t.bounds(node)
            return c.Z3_mk_extract(ref, hi, lo, args[0])
        if op == "sign_extend":
            return c.Z3_mk_sign_ext(ref, node.data, args[0])
        if op == "const-array":
            assert isinstance(node.sort, tuple)
            return c.Z3_mk_const_array(ref, self.sort(node.sort[0]), args[0])
        raise TypeError(f"no translation for {op}")

    def marker(self, term: Term) -> Any:
        """A Boolean variable that stands for a term among the assumptions of a question (owned by this object)."""
        found = self._markers.get(term)
        if found is None:
            symbol = c.Z3_mk_string_symbol(self._ref, f"!{len(self._markers)}")  # no variable of ours begins with !
            found = self._markers[term] = c.Z3_mk_const(self._ref, symbol, self.sort(BOOL))
            c.Z3_inc_ref(self._ref, found)
            self.marked[c.Z3_get_ast_id(self._ref, found)] = term
        return found

    def expr(self, term: Term) -> Any:
        """The term as a z3py expression."""
        return z3.z3._to_expr_ref(self.ast(term), self.context)


@cache
def shared_terms() -> Z3Terms:
    """The translation that all systems of this process share."""
    return Z3Terms()


class Z3Solver:
    """One incremental solver over terms; gives up a question after ``timeout`` seconds' work.

    Work is counted in steps of Z3, not measured: a second is ``WORK`` of them, however long they take. So no answer
    depends on what else a machine does. Goals that were implied before are remembered with the formulas that it took
    (an unsatisfiable core), for all solvers over the same ``terms``: kernels that differ little have many of them in
    common. Z3 is given formulas only when it is asked. ``proves`` is for questions that are likely to have no model; no
    answer depends on it.
    """

    def __init__(self, terms: Z3Terms, timeout: float | None = None, *, proves: bool = False) -> None:
        self.terms = terms
        self._solver = z3.SimpleSolver()
        if proves:
            self._solver.set("phase_selection", _TRUE_FIRST)
        self.timeout = self._given_timeout = timeout
        self._limit()
        self._ref = terms.context.ref()
        self._asserted: list[list[Term]] = [[]]  # by scope, the outermost first
        self._given = [0]  # how many of each Z3 has; it has as many scopes
        self._hypotheses: dict[Term, int] = {}  # those of them that may be spared, and their scopes

    def _limit(self) -> None:
        self._given_timeout = self.timeout
        self._solver.set("rlimit", 0 if self.timeout is None else min(_MOST, max(1, int(self.timeout * WORK))))

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Questions asked inside are given up after this many seconds' work, if any are given up at all."""
        before = self.timeout
        if before is not None:
            self.timeout = min(seconds, before)
        try:
            yield
        finally:
            self.timeout = before

    def worked(self) -> float:
        """The work of Z3 in this process so far, in seconds as above; only differences mean something."""
        counted = (value for name, value in self._solver.statistics() if name == "rlimit count")
        return float(next(counted, 0)) / WORK

    def add(self, *facts: Term) -> None:
        """Asserts Boolean terms."""
        self._asserted[-1] += facts

    def suppose(self, *facts: Term) -> None:
        """Asserts Boolean terms of which a proof is likely to need few: which it needs is recorded."""
        known = {fact for facts in self._asserted for fact in facts}  # as it is, perhaps: then it is no hypothesis
        self._hypotheses |= {fact: len(self._asserted) for fact in facts if fact not in known}
        self.add(*facts)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Everything asserted inside is forgotten at the end."""
        self._asserted.append([])
        try:
            yield
        finally:
            depth = len(self._asserted)
            for fact in self._asserted.pop():
                if self._hypotheses.get(fact) == depth:
                    del self._hypotheses[fact]
            if len(self._given) >= depth:
                self._given.pop()
                self._solver.pop()

    def _give(self) -> None:
        """Gives Z3 what it does not have yet; hypotheses only under their markers."""
        for depth, facts in enumerate(self._asserted):
            if depth == len(self._given):
                self._solver.push()
                self._given.append(0)
            for fact in facts[self._given[depth] :]:
                ast = self.terms.ast(fact)
                if fact in self._hypotheses:
                    ast = c.Z3_mk_implies(self._ref, self.terms.marker(fact), ast)
                c.Z3_solver_assert(self._ref, self._solver.solver, ast)
            self._given[depth] = len(facts)

    def satisfiable(self, *extra: Term) -> bool:
        """Whether what is asserted, and ``extra``, can hold together.

        Raises:
            SolverTimeoutError: if the solver cannot tell.
        """
        if extra:
            with self.scope():
                self.add(*extra)
                return self._check()
        return self._check()

    def implies(self, *goals: Term) -> bool:
        """Whether what is asserted implies every goal.

        Raises:
            SolverTimeoutError: if the solver cannot tell.
        """
        facts = {fact for facts in self._asserted for fact in facts}
        left = [g for g in goals if not any(core <= facts for core in self.terms.cores.get(g, ()))]
        if not left:
            return True
        with self.scope():
            self.add(Not(And(*left)))
            if self._check():
                return False
            core = self._core() & facts
        for goal in left:
            self.terms.cores.setdefault(goal, []).append(core)
        return True

    def model(self, wanted: Iterable[Term], *extra: Term) -> dict[str, Value] | None:
        """Values of variables that satisfy what is asserted and ``extra``; ``None`` if there are none."""
        with self.scope():
            self.add(*extra)
            if not self._check():
                return None
            return self._values(wanted)

    def _check(self) -> bool:
        if self.timeout != self._given_timeout:
            self._limit()
        self._give()
        markers = [self.terms.marker(fact) for fact in self._hypotheses]
        array = (z3.Ast * len(markers))(*markers)
        answer = z3.CheckSatResult(c.Z3_solver_check_assumptions(self._ref, self._solver.solver, len(markers), array))
        if answer == z3.unknown:
            reason = self._solver.reason_unknown()
            if "interrupt" in reason or "Interrupt" in reason:
                raise KeyboardInterrupt
            limited = self.timeout is not None and ("cancel" in reason or "resource" in reason)
            raise SolverTimeoutError(f"more than {self.timeout:g} seconds' work" if limited else reason)
        return bool(answer == z3.sat)

    def _core(self) -> frozenset[Term]:
        """What is asserted, without the hypotheses that the last answer, unsatisfiable, did not need."""
        needed = {self.terms.marked[marker.get_id()] for marker in self._solver.unsat_core()}
        spared = self._hypotheses.keys() - needed
        return frozenset(fact for facts in self._asserted for fact in facts if fact not in spared)

    def _values(self, wanted: Iterable[Term]) -> dict[str, Value]:
        model = self._solver.model()
        return {str(v.data): _value(model.eval(self.terms.expr(v), model_completion=True), v.sort) for v in wanted}


def _value(expr: Any, sort: Sort) -> Value:
    if sort == BOOL:
        return bool(z3.is_true(expr))
    if isinstance(sort, tuple):
        items: list[tuple[int, int]] = []
        while z3.is_store(expr):
            array, index, value = expr.children()
            items.append((index.as_long(), value.as_long()))
            expr = array
        if not z3.is_const_array(expr):
            raise TypeError(f"array value not understood: {expr}")
        value_of_array = ArrayValue(expr.children()[0].as_long())
        for i, v in reversed(items):
            value_of_array = value_of_array.set(i, v)
        return value_of_array
    return int(expr.as_long())


def check(assumptions: Iterable[Term], timeout: float | None = None) -> bool:
    """Whether the terms can hold together, in a solver of its own."""
    solver = Z3Solver(shared_terms(), timeout)
    solver.add(*assumptions)
    return solver.satisfiable()


def model(assumptions: Iterable[Term], timeout: float | None = None) -> Mapping[str, Value] | None:
    """A satisfying assignment of the free variables, or ``None``."""
    facts = tuple(assumptions)
    names: dict[str, Term] = {}
    for fact in facts:
        for node_name in support(fact):
            names.setdefault(node_name, fact)
    solver = Z3Solver(shared_terms(), timeout)
    return solver.model(_variables(facts), *facts)


def _variables(facts: tuple[Term, ...]) -> list[Term]:
    from formal.logic.evaluation import nodes

    return [n for n in nodes(facts) if n.op == "var"]
