"""When each function can run: from the entries that the generic part of KVM and the world switch have.

The entries are an interface between files (``kvm_arch_*`` is what virt/kvm calls, ``__guest_enter`` is assembly), not a
list of functions that may do something: from each, everything is reached that it calls, also through pointers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from formal.kernel.effects.types import Context, Facts

ENTER = "__guest_enter"
RUN = ("kvm_arch_vcpu_ioctl_run",)
SWITCH = ("kvm_arch_vcpu_load", "kvm_arch_vcpu_put", "kvm_sched_in", "kvm_sched_out", "vcpu_load", "vcpu_put")
IOCTL = ("kvm_vcpu_ioctl", "kvm_vcpu_compat_ioctl")


def reached(calls: Mapping[str, Collection[str]], roots: Iterable[str], stop: Collection[str] = ()) -> set[str]:
    """The functions that are called from some, themselves included; those where it stops are not."""
    found: set[str] = set()
    work = [root for root in roots if root not in stop]
    while work:
        key = work.pop()
        if key not in found:
            found.add(key)
            work += [callee for callee in calls.get(key, ()) if callee not in stop]
    return found


def contexts(functions: Mapping[str, Facts], calls: Mapping[str, Collection[str]]) -> dict[str, frozenset[Context]]:
    """The contexts of each function."""
    by_name: dict[str, list[str]] = {}
    for key, facts in functions.items():
        by_name.setdefault(facts.function.name, []).append(key)

    def named(names: Iterable[str]) -> set[str]:
        return {key for name in names for key in by_name.get(name, ())}

    enters = {key for key, facts in functions.items() if any(call.callee == ENTER for call in facts.calls)}
    run, switch, ioctl = named(RUN), named(SWITCH), named(IOCTL)
    called = {callee for callees in calls.values() for callee in callees}
    passed = {key for facts in functions.values() for key, _, argument in facts.taken if argument}
    entries = {key for key in functions if key not in called or key in passed} - run - switch - ioctl - enters
    found: dict[str, set[Context]] = {key: set() for key in functions}
    for context, roots, stop in (
        (Context.HYP, enters, set[str]()),
        (Context.RUN, run, enters | switch),
        (Context.SWITCH, switch, enters),
        (Context.IOCTL, ioctl, run | switch | enters),
        (Context.ANY, entries, run | switch | ioctl | enters),
    ):
        for key in reached(calls, roots, stop):
            if key in found:
                found[key].add(context)
    return {key: frozenset(those) for key, those in found.items()}
