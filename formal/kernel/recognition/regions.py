"""Where preemption or interrupts must be off, and what is called whatever happens: read from the text.

The lifter takes ``preempt_disable()`` and its like for nothing, since a sequential function does the same without. That
a vCPU stays on its CPU while its registers are moved is asked for here: in one region of the function's text lies all
that must not be torn apart. ``vcpu_load`` and its like, in files that are not parsed, make their calls unconditionally.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from formal.epochs import Kernel
from formal.kernel.belongs import (
    ERET,
    FIRST_RUN,
    GUEST_DEBUG,
    INJECTS,
    LOADING,
    PERF,
    RESET,
    SET_DEBUG,
    SET_UP,
    SKIPPING,
    TRAP_OSLAR,
    TRAPS,
)
from formal.kernel.errors import Gap
from formal.kernel.source.tree import KVM, Sources
from formal.kernel.text import signs
from formal.kernel.text.forms import tokens

MAIN, KVM_HOST = "virt/kvm/kvm_main.c", signs.KVM_HOST
_PREEMPT, _IRQ = ("preempt_disable", "preempt_enable"), ("local_irq_save", "local_irq_restore")
_GUARDS = {f"{kind}({of})": calls for kind in ("guard", "scoped_guard")
           for of, calls in (("preempt", _PREEMPT), ("irqsave", _IRQ))}  # fmt: skip
_SAME = {"get_cpu": _PREEMPT[0], "put_cpu": _PREEMPT[1]}
_MOVES = ("kvm_arch_vcpu_put", "kvm_arch_vcpu_load", "smp_processor_id")
_HARDWARE = (
    "write_sysreg", "read_sysreg", "sysreg_clear_set", "host_data_ptr", "__this_cpu_read", "this_cpu_ptr",
    "smp_processor_id", "kvm_call_hyp", "kvm_call_hyp_ret", "kvm_arm_setup_mdcr_el2",
)  # fmt: skip


# what the accessors of a vCPU's flags are made of, for the hypervisor of nVHE and for all others
_FLAGS = ("__vcpu_flags_preempt_disable", "__vcpu_flags_preempt_enable")
_LINES = r"((?:#define[^\n]*\n|\s*\n)*)"
_SIDES = re.compile(rf"#ifdef\s+__KVM_NVHE_HYPERVISOR__\s*\n{_LINES}#else[^\n]*\n{_LINES}#endif")
_ACCESSORS = re.compile(r"(?m)^#define\s+__vcpu_(?:set|clear|test_and_clear)_flag\(.*$")
_STORES = re.compile(r"\*\s*fset\s*[|&^]?=(?!=)")


@dataclass(frozen=True)
class Region:
    """In a function, if the tree has it, these names stand between one call that opens and one that closes."""

    file: str
    function: str
    between: tuple[str, str]
    names: tuple[str, ...]
    of: tuple[str, ...]  # the operations that it is about
    when: Callable[[Kernel], bool] = lambda k: True


REGIONS: tuple[Region, ...] = (
    # called from handlers, with preemption on; before v6.14 from functions that have switched it off
    Region(f"{KVM}/debug.c", "kvm_arm_setup_mdcr_el2", _PREEMPT, _HARDWARE, SET_UP, lambda k: k.tracks_debug_owner),
    Region(f"{KVM}/debug.c", "kvm_arm_vcpu_init_debug", _PREEMPT, _HARDWARE, (FIRST_RUN,)),
    Region(f"{KVM}/debug.c", "kvm_debug_handle_oslar", _PREEMPT, _MOVES, (TRAP_OSLAR,)),
    Region(f"{KVM}/reset.c", "kvm_reset_vcpu", _PREEMPT, _MOVES, (RESET,)),
    Region(f"{KVM}/emulate-nested.c", "kvm_emulate_nested_eret", _PREEMPT, _MOVES, (ERET,)),
    Region(f"{KVM}/emulate-nested.c", "kvm_inject_nested", _PREEMPT, _MOVES, (INJECTS, GUEST_DEBUG)),
    # an interrupt that changes PMUSERENR_EL0 finds the flag as the register is
    *(
        Region(f"{KVM}/hyp/vhe/switch.c", name, _IRQ, ("__activate_traps_common", "__deactivate_traps_common"),
               (PERF, LOADING), lambda k: k.vhe and k.guards_pmuserenr)
        for name in ("__vcpu_load_activate_traps", "__vcpu_put_deactivate_traps", "activate_traps_vhe_load",
                     "deactivate_traps_vhe_put")
    ),
)  # fmt: skip
# what functions of virt/kvm call, in this order, whatever happens
ALWAYS: dict[str, tuple[str, ...]] = {
    "vcpu_load": ("get_cpu", "preempt_notifier_register", "kvm_arch_vcpu_load", "put_cpu"),
    "vcpu_put": ("preempt_disable", "kvm_arch_vcpu_put", "preempt_notifier_unregister", "preempt_enable"),
    "kvm_sched_in": ("kvm_arch_vcpu_load",),
    "kvm_sched_out": ("kvm_arch_vcpu_put",),
}
# how often virt/kvm names what puts and loads a vCPU behind its back
_TIMES = {"kvm_sched_in": 2, "kvm_sched_out": 2, "preempt_notifier_register": 1, "preempt_notifier_unregister": 1}
_WATCHED = frozenset(name for calls in ALWAYS.values() for name in calls)
_IOCTL = (
    "case KVM_SET_GUEST_DEBUG : { struct kvm_guest_debug dbg ; r = - EFAULT ; if ( copy_from_user ( & dbg , argp , \
sizeof ( dbg ) ) ) goto out ; r = kvm_arch_vcpu_ioctl_set_guest_debug ( vcpu , & dbg ) ; break ; }".split()
)
_FAILS = "if ( mutex_lock_killable ( & vcpu -> mutex ) ) return - EINTR ;".split()  # of vcpu_load, before v4.17
_LOADS = "r = vcpu_load ( vcpu ) ; if ( r ) return r ; switch ( ioctl ) {".split()
_PUTS = "out : vcpu_put ( vcpu ) ;".split()


def check(tree: Sources, k: Kernel) -> Iterator[Gap]:
    """Where a tree does not keep to this, with the operations that this is about."""
    for region in REGIONS:
        if region.when(k) and (found := _body(tree, region.file, region.function)):
            yield from (_gap(region.file, found[1], says, region.of) for says in _torn(region, tokens(found[0])))
    yield from _flags(tree)
    main, _ = _body(tree, MAIN, "kvm_vcpu_ioctl") or ("", 0)
    for function, calls in ALWAYS.items():
        body, line = _body(tree, MAIN, function) or ("", 0)
        words = _locked(_words(body), _words(main)) if function == "vcpu_load" else _words(body)
        if "#" in words or tuple(name for name in _unconditional(words) if name in _WATCHED) != calls:
            yield _gap(MAIN, line, f"{function}() calls {', then '.join(calls)}, whatever happens", (LOADING,))
    whole = tokens(signs.source(tree, MAIN) or "")
    for name, times in _TIMES.items():
        if whole.count(name) != times:
            yield _gap(MAIN, 0, f"{name} is named {times} times, where it is defined or needed", (LOADING,))
    body, line = _body(tree, MAIN, "kvm_vcpu_ioctl") or ("", 0)
    if not _gives_guest_debug(_words(body), _words((_body(tree, MAIN, "vcpu_load") or ("", 0))[0])):
        says = "KVM_SET_GUEST_DEBUG is handed on as user space gave it, with vcpu->mutex held"
        yield _gap(MAIN, line, says, (SET_DEBUG,))


def _flags(tree: Sources) -> Iterator[Gap]:
    """What sets or clears a flag of a vCPU is not torn apart, where the accessors see to that (from v6.1 on)."""
    text = (signs.source(tree, KVM_HOST) or "").replace("\\\n", " ")
    opens, closes = _FLAGS
    if opens not in text:
        return
    sides = _SIDES.search(text)
    host = sides[2] if sides is not None else ""
    held = all(re.search(rf"{name}\(\)\s+{means}\(\)", host) for name, means in zip(_FLAGS, _PREEMPT, strict=True))
    for macro in _ACCESSORS.finditer(text):
        stores = [m.start() for m in _STORES.finditer(macro[0])]
        held &= all(0 <= macro[0].find(opens) < at < macro[0].rfind(closes) for at in stores)
    if not held:
        line = text[: text.find(opens)].count("\n") + 1
        says = f"what sets or clears a flag of a vCPU does so between {_PREEMPT[0]}() and {_PREEMPT[1]}()"
        yield _gap(KVM_HOST, line, says, (*TRAPS, *SKIPPING, GUEST_DEBUG, SET_DEBUG))


def _gap(file: str, line: int, says: str, of: tuple[str, ...]) -> Gap:
    return Gap(file, line, f"not so: {says}", frozenset(of), broken=True, untimely=True)


def _body(tree: Sources, file: str, function: str) -> tuple[str, int] | None:
    text = signs.source(tree, file)
    return None if text is None else signs.body(text, function)


def _words(text: str) -> list[str]:
    """The words of a text, without braces around what is one statement all the same."""
    words = tokens(text)
    for opens in range(len(words) - 1, 0, -1):
        if words[opens] == "{" and (words[opens - 1] == "else" or _of_statement(words[:opens])):
            closes = words.index("}", opens) if "}" in words[opens:] else opens
            inner = words[opens + 1 : closes]
            if inner[-1:] == [";"] and inner.count(";") == 1 and {"{", "if", "else"}.isdisjoint(inner):
                words[opens : closes + 1] = inner
    return words


def _of_statement(words: list[str]) -> bool:
    """Whether words end with the condition of an ``if`` or the head of a loop: a macro may be anything."""
    depth = 0
    for at in range(len(words) - 1, 0, -1):
        depth += (words[at] == ")") - (words[at] == "(")
        if depth == 0:
            return words[at] == "(" and words[at - 1] in ("if", "for", "while")
    return False


def _torn(region: Region, words: list[str]) -> Iterator[str]:
    opens, closes = region.between
    words = _spelled_out(words)
    inside: set[int] = set()  # the regions in which one of the names stands; 0 is outside
    number = now = 0
    top = _top_level(words)
    for i, word in enumerate(words):
        if word == opens and i in top:
            number += 1
            now = number
        elif word == closes:
            now = 0
        elif word in region.names and words[i + 1] == "(":
            inside.add(now)
    if 0 in inside or len(inside) > 1:
        names = ", ".join(name for name in region.names if name in words)
        yield f"{region.function}() has {names} within one region from {opens}() to {closes}()"


def _spelled_out(words: list[str]) -> list[str]:
    """The same with what is called in place of a guard, at its start and where its block ends (``linux/cleanup.h``)."""
    found: list[str] = []
    ends: list[tuple[int, tuple[str, str]]] = []  # the depth of a block, and the guard of it
    depth = at = 0
    while at < len(words):
        word, guard = words[at], _GUARDS.get("".join(words[at : at + 4]))
        if guard is not None and words[at + 4 : at + 7] == ["(", ")", ";"] and word == "guard":
            found += [guard[0], "(", ")", ";"]
            ends.append((depth, guard))
            at += 7
            continue
        if guard is not None and word == "scoped_guard" and words[at + 4] == "{":
            found += [guard[0], "(", ")", ";"]
            ends.append((depth + 1, guard))
            at += 4
            continue
        if guard is not None and word == "scoped_guard" and ";" in words[at + 4 :]:
            end = words.index(";", at + 4) + 1
            if "{" not in words[at + 4 : end]:  # of one statement
                found += [guard[0], "(", ")", ";", *_spelled_out(words[at + 4 : end]), guard[1], "(", ")", ";"]
                at = end
                continue
        if word == "}":
            while ends and ends[-1][0] == depth:
                found += [ends.pop()[1][1], "(", ")", ";"]
        depth += {"{": 1, "}": -1}.get(word, 0)
        found.append(_SAME.get(word, word))
        at += 1
    return found


def _top_level(words: list[str]) -> set[int]:
    """The positions of words that start a statement which is executed whenever the function gets there."""
    depth, found = 0, set[int]()
    for i, word in enumerate(words):
        if depth == 1 and i and words[i - 1] in ("{", "}", ";", ":"):
            found.add(i)
        depth += {"{": 1, "}": -1}.get(word, 0)
    return found


def _unconditional(words: list[str]) -> Iterator[str]:
    """The names of the functions that are called whatever happens: none after the first way out."""
    starts = sorted(_top_level(words))
    for at, following in pairwise([*starts, len(words)]):
        statement = words[at:following]
        if not {"return", "goto"}.isdisjoint(statement):
            return
        if "{" not in statement and statement[0] not in ("if", "else", "for", "while", "do", "switch"):
            yield from (w for w, after in pairwise(statement) if after == "(")


def _locked(words: list[str], ioctl: list[str]) -> list[str]:
    """vcpu_load without its way out before v4.17, where it takes the lock for every ioctl, and that may fail."""
    at = next(iter(_places(words, _FAILS)), -1)
    if at < 1 or set(words[1:at]) - {"int", "cpu", ";"} or not _loads_for_all(ioctl):
        return words
    return words[:at] + words[at + len(_FAILS) :]


def loads_for_all(tree: Sources) -> bool:
    """Whether every ioctl of a vCPU finds it loaded, as before v4.17."""
    return _loads_for_all(_words((_body(tree, MAIN, "kvm_vcpu_ioctl") or ("", 0))[0]))


def _loads_for_all(words: list[str]) -> bool:
    """Whether kvm_vcpu_ioctl loads the vCPU for each ioctl, and puts it when that is done, whatever it is."""
    switches, labels = (_places(words, part) for part in (_LOADS, _PUTS))
    if len(switches) != 1 or len(labels) != 1 or words.count("vcpu_load") != 1 or words.count("vcpu_put") != 1:
        return False
    return "return" not in words[switches[0] + len(_LOADS) : labels[0]]


def _places(words: list[str], part: list[str]) -> list[int]:
    return [i for i in range(len(words)) if words[i : i + len(part)] == part]


def _gives_guest_debug(words: list[str], loads: list[str]) -> bool:
    called = [i for i, word in enumerate(words) if word == "kvm_arch_vcpu_ioctl_set_guest_debug"]
    named = [i for i, word in enumerate(words) if word == "KVM_SET_GUEST_DEBUG"]
    locks = [i for i, word in enumerate(words) if word == "mutex_lock_killable"]
    if not locks and _places(loads, _FAILS) and _loads_for_all(words):
        locks = _places(words, _LOADS)
    if len(called) != 1 or len(named) != 1 or not locks or locks[-1] > named[0]:
        return False
    start = named[0] - 1
    return words[start : start + len(_IOCTL)] == _IOCTL
