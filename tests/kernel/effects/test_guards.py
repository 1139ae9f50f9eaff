"""What runs in protected mode only writes nothing elsewhere; a condition that is wrong, or lost, is seen."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pytest

from formal.kernel.effects import files
from formal.kernel.effects.reached import Alive
from formal.kernel.effects.reading import Reader
from formal.kernel.effects.search import ABSENT
from formal.kernel.effects.solve import Solver
from formal.kernel.effects.types import Facts
from formal.kernel.model.binding import UNMODELLED, flags_of, modelled
from formal.kernel.source.tree import KVM, KernelTree
from tests.kernel.conftest import tree_path

FILE = f"{KVM}/hyp/nvhe/switch.c"  # a file of the hypervisor; the functions of a test are added to it
W = "v->arch.mdcr_el2 = 0;"
HELPERS = """
struct own_vcpu { struct kvm_vcpu vcpu; struct kvm_vcpu *host; u64 all[4]; };
typedef void (*own_handler)(struct kvm_vcpu *);
static struct own_vcpu *loaded;
static DEFINE_PER_CPU(struct own_vcpu *, current_one);
static bool on(void) { if (!is_protected_kvm_enabled()) return false; return loaded->all[0]; }
static void take(struct own_vcpu *o) { if (READ_ONCE(o->all[1])) o->all[2] = 1; o->host->arch.mdcr_el2 = 0; }
static void keep(struct own_vcpu **to, struct own_vcpu *o) { *to = o; }
static void wrong(struct kvm_vcpu *v) { v->arch.mdcr_el2 = 0; }
static void right(struct kvm_vcpu *v) { }
static const own_handler protected_only[] = { wrong };
static const own_handler ordinary[] = { right };
static const own_handler *chosen(void) { if (on()) return protected_only; return ordinary; }
static const own_handler *flipped(void) { if (!on()) return protected_only; return ordinary; }
"""
DEAD = (
    f"if (is_protected_kvm_enabled()) {W}",
    f"if (likely(!is_protected_kvm_enabled())) return; {W}",
    f"if (x && on()) {W}",
    f"if (!on() || !x) return; {W}",
    f"bool p = on(); if (p) {W}",
    f"if (on() ? x : 0) {W}",
    f"while (on()) {W}",
    f"do {{ if (!on()) break; {W} }} while (0);",
    f"if (x) {{ if (!on()) goto out; {W} }} out: ;",
    f"switch (x) {{ case 1: if (!on()) break; {W} }}",
    f"if (unlikely(loaded)) {W}",
    "loaded->host->arch.mdcr_el2 = 0;",
    "take(loaded);",
    "if (on()) keep(&loaded, container_of(v, struct own_vcpu, vcpu)); take(loaded);",
    f"struct own_vcpu *o; keep(&o, loaded); if (o) {W}",
    f"struct own_vcpu *o = NULL; if (on()) o = (void *)x; if (o) {W}",
    "chosen()[0](v);",
    "take(__this_cpu_read(current_one));",
    "__this_cpu_write(current_one, loaded); take(*this_cpu_ptr(&current_one));",
)
ALIVE = (
    W,
    f"if (!is_protected_kvm_enabled()) {W}",
    f"if (x || on()) {W}",
    f"if (!on()) {W}",
    f"if (on()) return; {W}",
    f"bool p = on(); p = x; if (p) {W}",
    f"if (on() ?: x) {W}",
    f"if (on() ? 0 : x) {W}",
    f"do {{ if (on()) break; {W} }} while (0);",
    f"if (x) goto out; if (!on()) return; out: {W}",
    f"switch (x) {{ case 1: if (!on()) break; case 2: {W} }}",
    f"if (!loaded) {W}",
    "take(container_of(v, struct own_vcpu, vcpu));",
    "take((void *)x);",
    "keep(&loaded, container_of(v, struct own_vcpu, vcpu)); take(loaded);",
    "loaded = (struct own_vcpu *)x; take(loaded);",
    f"*(void **)&loaded = v; if (loaded) {W}",
    "__this_cpu_write(current_one, (struct own_vcpu *)x); take(__this_cpu_read(current_one));",
    "__this_cpu_write(current_one, container_of(v, struct own_vcpu, vcpu)); take(__this_cpu_read(current_one));",
    f"struct own_vcpu *o; asm(\"\" : \"=r\"(o)); if (o) {W}",
    f"struct own_vcpu *o = loaded; o = (void *)v; if (o) {W}",
    f"static struct own_vcpu all[2]; if (all) {W}",
    "static struct own_vcpu one; take(&one);",
    "void (*f)(struct kvm_vcpu *) = (void *)take; f(v);",
    "struct { struct own_vcpu *o; } s = { (void *)v }; take(s.o);",
    "u64 *r = &loaded->all[0]; v->arch.mdcr_el2 = (u64)r;",
    "flipped()[0](v);",
    "protected_only[0](v);",
    "asm(\"bl wrong\");",
)  # fmt: skip


@cache
def reader() -> tuple[Reader, KernelTree]:
    tree = KernelTree(tree_path("6.1"))
    tree.prepare()
    lvalues = modelled(flags_of(tree, UNMODELLED))
    return Reader(tree.path, files.flags(tree, "nvhe"), "nvhe", lvalues, tree.scratch), tree


def functions(statement: str) -> Mapping[str, Facts]:
    """A function with one statement, and all that it leads to."""
    read, tree = reader()
    read.seen.clear()
    text = (tree.path / FILE).read_text()
    added = f"void added(struct kvm_vcpu *v, u64 x)\n{{\n{statement}\n}}\n"
    summary = read.read(FILE, f"{text}\n{HELPERS}\n{added}")
    assert summary.errors == ()
    every, found = summary.functions, dict[str, Facts]()
    work = [key for key in every if key.startswith("added@")]
    while work:
        facts = every[key := work.pop()]
        found[key] = facts
        named = {call.callee for call in facts.calls} | {m.name for m in (*facts.taken, *facts.tables)}
        work += [k for k in every if k not in found and (k in named or k.partition("@")[0] in named)]
    return found


def written(statement: str) -> set[str]:
    """What the function may write that is modelled, with what it calls, outside protected mode."""
    alive = Alive.of(functions(statement), ABSENT, ())
    solved = Solver(alive.functions, reader()[0]._places.ranges).solve()
    return {e.target for found in solved.effects.values() for e in found}


@pytest.mark.parametrize("statement", DEAD)
def test_what_runs_in_protected_mode_only_writes_nothing(statement: str) -> None:
    assert written(statement) == set()


@pytest.mark.parametrize("statement", ALIVE)
def test_what_may_run_otherwise_is_seen(statement: str) -> None:
    assert written(statement) == {"vcpu->arch.mdcr_el2"}
