"""One kernel as a finite transition system of its own: two vCPUs, two CPUs, banks of registers instead of arrays.

In every step the inputs pick an operation, a vCPU and a CPU, and what the operation leaves open; where its guard does
not hold, nothing changes. All state is 0 at first: the first step loads the state from inputs, and ``ok`` notes whether
it was an initial one, so that formats without initial predicates can say the same. A property is bad in a step if the
run began in an initial state and the property does not hold; a two-state claim is bad in the step that breaks it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from formal.logic import terms as t
from formal.logic.evaluation import nodes, rebuild
from formal.logic.terms import BOOL, And, Eq, If, Not, Or, Term
from formal.system import Pair, System
from formal.vocabulary import Claim, Lemma

PAIRS: tuple[Pair, ...] = tuple(product((0, 1), (0, 1)))
STARTED, OK = t.var("started", BOOL), t.var("ok", BOOL)
FIRST = "init."  # the input from which a state variable is loaded


@dataclass(frozen=True)
class Flat:
    """A transition system over Booleans and bit-vectors; every state variable is 0 at first."""

    inputs: tuple[Term, ...]
    next: Mapping[Term, Term]  # state variable: its value in the next step
    bad: Mapping[str, Term]  # by property; over state and inputs
    operations: tuple[str, ...]  # what the input ``operation`` picks


class Elements:
    """Terms without arrays: an array is as many terms as it has elements."""

    def __init__(self) -> None:
        self._plain: dict[Term, Term] = {}
        self._banks: dict[Term, tuple[Term, ...]] = {}

    def of(self, term: Term) -> tuple[Term, ...]:
        """The elements of an array; a term that is none is its own only element."""
        for node in nodes((term,)):
            if node in self._plain or node in self._banks:
                continue
            if isinstance(node.sort, tuple):
                self._banks[node] = self._bank(node, node.sort)
            else:
                self._plain[node] = self._scalar(node)
        return self._banks[term] if isinstance(term.sort, tuple) else (self._plain[term],)

    def _bank(self, node: Term, sort: tuple[int, int]) -> tuple[Term, ...]:
        size = 1 << sort[0]
        match node.op:
            case "var":
                return tuple(t.var(f"{node.data}@{i}", sort[1]) for i in range(size))
            case "const-array":
                return (self._plain[node.args[0]],) * size
            case "ite":
                c, a, b = self._plain[node.args[0]], self._banks[node.args[1]], self._banks[node.args[2]]
                return tuple(If(c, x, y) for x, y in zip(a, b, strict=True))
            case "store":
                bank, index, value = self._banks[node.args[0]], self._plain[node.args[1]], self._plain[node.args[2]]
                return tuple(If(Eq(index, t.const(i, sort[0])), value, x) for i, x in enumerate(bank))
        raise ValueError(f"no elements of {node.op}")

    def _scalar(self, node: Term) -> Term:
        if node.op == "select":
            bank, index = self._banks[node.args[0]], self._plain[node.args[1]]
            value = bank[0]
            for i, x in enumerate(bank[1:], 1):
                value = If(Eq(index, t.const(i, t.width(index))), x, value)
            return value
        if node.op == "=" and isinstance(node.args[0].sort, tuple):
            a, b = (self._banks[arg] for arg in node.args)
            return And(*(Eq(x, y) for x, y in zip(a, b, strict=True)))
        if node.op in ("var", "const"):
            return node
        return rebuild(node, tuple(self._plain[a] for a in node.args))


def flat(system: System, lemmas: Iterable[Lemma], claims: Iterable[Claim]) -> Flat:
    """The transition system of a kernel, with lemmas and claims as properties, each for every vCPU and CPU.

    Lemmas and claims that do not apply, or need preconditions, are left out.
    """
    elements, k = Elements(), system.kernel
    one = elements.of
    names = tuple(op.name for op in system.operations)
    choice = t.var("operation", max(1, (len(names) - 1).bit_length()))
    which = {owner: t.var(owner, BOOL) for owner in ("vcpu", "cpu")}
    state = {v: v for pair in PAIRS for v in system.state(pair).values.values()}
    after: dict[Term, Term] = dict(state)
    given: dict[Term, None] = {choice: None, which["vcpu"]: None, which["cpu"]: None}
    broken: dict[str, list[Term]] = {}
    wanted = [c for c in claims if not c.given and not c.applies(k)]
    for (number, op), pair in product(enumerate(system.operations), PAIRS):
        step = system.apply(op, pair)
        picked = [which[o] if n else Not(which[o]) for o, n in zip(("vcpu", "cpu"), pair, strict=True)]
        taken = And(Eq(choice, t.const(number, t.width(choice))), *picked, step.guard)
        given |= dict.fromkeys(step.inputs.values())
        for name, before in step.before.values.items():
            if step.after.values[name] is not before:
                after[before] = If(taken, step.after.values[name], after[before])
        for c in wanted:
            if c.is_about(op):
                broken.setdefault(f"claim {c.name}", []).append(
                    And(taken, Not(c.holds_between(step.before, step.after, k)))
                )
    states = [system.state(pair) for pair in PAIRS]
    for m in lemmas:
        if m.applies(k) and not m.given:
            broken[f"lemma {m.name}"] = [Not(m.holds(s, k)) for s in states]
    for c in wanted:
        if not c.actors:
            broken[f"claim {c.name}"] = [Not(c.holds(s, k)) for s in states]
    variables = [(x, y) for v in state for x, y in zip(one(v), one(after[v]), strict=True)]
    first = {x: t.var(f"{FIRST}{x.data}", x.sort) for x, _ in variables}
    initial = one(And(*(system.init(pair) for pair in PAIRS)))[0]
    loaded = _renamed(initial, first)
    following = {x: If(STARTED, y, first[x]) for x, y in variables}
    return Flat(
        inputs=(*(x for v in given for x in one(v)), *first.values()),
        next={STARTED: t.TRUE, OK: If(STARTED, OK, loaded), **following},
        bad={name: And(STARTED, OK, one(Or(*parts))[0]) for name, parts in broken.items()},
        operations=names,
    )


def _renamed(term: Term, names: Mapping[Term, Term]) -> Term:
    done: dict[Term, Term] = {}
    for node in nodes((term,)):
        if node.op == "var":
            done[node] = names[node]
        else:
            done[node] = node if node.op == "const" else rebuild(node, tuple(done[a] for a in node.args))
    return done[term]


def only(model: Flat, kind: str) -> Flat:
    """The same system with the lemmas, or the claims, as its only properties."""
    return Flat(
        model.inputs, model.next, {n: b for n, b in model.bad.items() if n.startswith(f"{kind} ")}, model.operations
    )


def ordered(model: Flat) -> Iterator[Term]:
    """Every term of the system once, arguments first."""
    return nodes((*model.inputs, *model.next, *model.next.values(), *model.bad.values()))
