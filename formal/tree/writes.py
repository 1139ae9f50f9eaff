"""What functions of a tree may write of the state: by types (``formal.kernel.effects``), else by names.

The search by names (``formal.kernel.recognition.scan``) finds places that may write something modelled, whatever the
structure. What such a place really may write is what its function writes by its types, what is written where its
parameters choose, and all that it takes the address of. Only a place of which that is nothing is none. What types
cannot tell is taken by names: a function that is not compiled, assembler, state that the tree keeps elsewhere, and all
of a tree of which a file does not parse that can name a vCPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import current_process

from formal.arch.bits import Register
from formal.epochs import Mode
from formal.kernel.belongs import ROOTS
from formal.kernel.compare.behaviours import DEBUG_C
from formal.kernel.effects import search
from formal.kernel.effects.places import overlapping
from formal.kernel.effects.reached import reached
from formal.kernel.effects.types import ALL, Address, Context, Effect, Node, Source
from formal.kernel.errors import Gap, Gaps
from formal.kernel.model.binding import (
    BANKS,
    DEBUG_PTR,
    FLAGS,
    ON_CPU,
    OWNERS,
    PC,
    PENDING,
    PMU_COUNTERS,
    REGISTERS,
    element_of,
    flags_of,
    modelled,
)
from formal.kernel.recognition import scan
from formal.kernel.recognition.callers import Bodies, Mentions
from formal.kernel.recognition.writers import knows, limited
from formal.kernel.source.tree import KernelTree, Sources
from formal.state import VARIABLES

EVERYTHING = frozenset(name for name, variable in VARIABLES.items() if not variable.ghost)
# what ``scan`` calls a place: the first that is part of its name says which state variables it may be
_PLACES: tuple[tuple[str, frozenset[str]], ...] = tuple((part, frozenset(names)) for part, names in (
    *((macro.lower(), [*FLAGS, "adjust_pc"]) for macros in FLAGS.values() for macro in macros),
    ("increment_pc", ["adjust_pc"]),
    ("guest_debug_preserved", [n for n in EVERYTHING if n.startswith("preserved_")]),
    ("mdcr_el2", [n for n in EVERYTHING if "mdcr_el2" in n]),
    ("mdscr_el1", [n for n in EVERYTHING if "mdscr_el1" in n]),
    ("oslsr_el1", ["oslsr_el1"]),
    ("pstate", ["pstate", "hw_pstate", "preserved_pstate_ss"]),
    ("host_debug_state", ["host_debug_state", "mdcr_el2_host", "hw_bank"]),  # the whole structure has MDCR_EL2 too
    ("dbg_", [n for n in EVERYTHING if n.endswith(("_bank", "debug_state"))]),
    ("debug_state", [n for n in EVERYTHING if n.endswith(("_bank", "debug_state"))]),
    ("guest_debug", ["guest_debug"]),
    ("debug_owner", ["debug_owner", "hyp_debug_owner"]),
    ("debug_ptr", ["debug_ptr_external"]),
    ("pmuserenr_el0", [n for n in EVERYTHING if "pmuserenr_el0" in n]),
    ("flags", [*FLAGS, "adjust_pc"]),
    ("hw.", [n for n in EVERYTHING if n.startswith("hw_")]),  # a name that is pasted together
))  # fmt: skip
_BY_CPU = frozenset(  # with these per-CPU variables are written, by a name that is no member of anything
    "__this_cpu_write this_cpu_write raw_cpu_write this_cpu_ptr per_cpu_ptr per_cpu this_cpu_ptr_nvhe_sym "
    "per_cpu_ptr_nvhe_sym this_cpu_ptr_hyp_sym per_cpu_ptr_to_phys host_data_ptr".split()
)
_PERCPU = frozenset(("percpu_mdcr_el2", "nr_event_counters", "mdcr_el2_host"))
_STEPS = frozenset(("steps", "guest_pstate_ss"))  # that the PC passes an instruction which is not counted
_DEFINE = re.compile(r"(?m)^[ \t]*#[ \t]*define[ \t]+(\w+)")
_KVM = re.compile(r"kvm|vcpu", re.I)  # what a file mentions that can name a vCPU
_HARDWARE = {"hw.oslar_el1": "hw_oslk", "hw.osdlr_el1": "hw_oslk"}
_AT_EXIT = frozenset(("hw.elr_el2", "hw.spsr_el2"))  # of a guest only between its exit and the next entry
_WRITTEN_THERE = frozenset(("store", "register", "assembly"))  # how, where nothing but the place itself writes
_VARIABLES: dict[str, str] = {
    **{lvalue: name for name, lvalues in (*REGISTERS.items(), *BANKS.items()) for lvalue in lvalues},
    **OWNERS, DEBUG_PTR: "debug_ptr_external", PMU_COUNTERS: "nr_pmu_counters",
}  # fmt: skip


def places(lvalue: str) -> frozenset[str]:
    """The state variables that a place may be, as the search calls it."""
    return next((names for part, names in _PLACES if part in lvalue.lower()), EVERYTHING)


def variables(target: str, bits: int = ALL, contexts: Iterable[Context] = (Context.HYP,)) -> frozenset[str]:
    """The state variables, or fields of one (``pstate.EL``), that a write of bits of an lvalue may change.

    Args:
        target: as ``formal.kernel.effects`` calls it.
        contexts: when it may be written.
    """
    if target == PC:
        return _STEPS
    if "#" in target:
        flag = target.rpartition("#")[2]
        return frozenset(("adjust_pc",) if flag in PENDING else (flag,) if flag in FLAGS else ())
    if target in _AT_EXIT:
        return _STEPS | {"hw_pstate"} if Context.HYP in contexts else frozenset()
    if target.startswith("hw."):
        name = _HARDWARE.get(target) or _VARIABLES.get(target) or ("hw_bank" if element_of(target) else "")
        return frozenset((name,)) if name else places("hw.")
    name = _VARIABLES[target]
    return _fields(name, bits)


def _fields(name: str, bits: int) -> frozenset[str]:
    """A variable, or those of its fields that have some bits, if these are all in fields."""
    kind = VARIABLES[name].kind
    if bits == ALL or kind is None or not issubclass(kind, Register):
        return frozenset((name,))
    found = [f for f, field_ in kind.fields.items() if field_.mask & bits]
    return frozenset((name,)) if bits & ~kind.mask() else frozenset(f"{name}.{f}" for f in found)


@dataclass
class Effects:
    """What functions may write.

    Args:
        tree: as it is now.
        mode: says which hypervisor's files count; without it nothing is told by types.
        lifted: functions (name and file) whose C is compared, with all that they call.
        has: the state variables that the kernel has, and on which something depends.
    """

    tree: Sources
    bodies: Bodies = field(default_factory=dict)
    stores: list[scan.Store] = field(default_factory=list)
    mode: Mode | None = None
    lifted: frozenset[tuple[str, str]] = frozenset()
    has: Collection[str] = frozenset(VARIABLES)
    elsewhere: dict[str, None] = field(default_factory=dict)  # places that do not run in this mode

    def told(self) -> tuple[str, ...]:
        """What is left out of the verdicts, as it runs in protected mode only."""
        places = [place.partition(": ")[0] for place in self.elsewhere]
        several = f" (and {len(places) - 1} more places)" if len(places) > 1 else ""
        return (f"{places[0]}{several} runs in protected mode only, which this is not about",) if places else ()

    @staticmethod
    def of(
        tree: Sources,
        mode: Mode | None = None,
        lifted: Iterable[tuple[str, str]] = (),
        has: Collection[str] = frozenset(VARIABLES),
    ) -> Effects:
        """All of a tree."""
        mentions = Mentions((DEBUG_C,), gaps=Gaps(noted=True))
        return Effects(tree, mentions.bodies, scan.scan(tree, mentions), mode, frozenset(lifted), has)

    # ---- by names

    def _named(self, functions: Iterable[str]) -> frozenset[str]:
        """The state variables that functions, and all that these lead to by name, may write."""
        found = self.led_to(functions)
        written = [places(s.lvalue) for s in self.stores if s.function.removeprefix("macro ") in found]
        by_cpu = any(not _BY_CPU.isdisjoint(self.bodies.get(function, ())) for function in found)
        return (_PERCPU if by_cpu else frozenset[str]()).union(*written)

    def led_to(self, functions: Iterable[str]) -> set[str]:
        """Functions, and all that these lead to by name."""
        found, new = set[str](), set(functions)
        while new:
            found |= new
            new = {name for function in new for name in self.bodies.get(function, {})} - found
        return found

    def roots(self, function: str) -> frozenset[str]:
        """The operations whose C calls a function, by name, before anything that is an operation of its own."""
        every = {root for roots in ROOTS.values() for root in roots}
        of = {root: [name for name, roots in ROOTS.items() if root in roots] for root in every}
        seen, new, found = {function}, [function], set[str]()
        while new:
            name = new.pop()
            found |= {*of.get(name, ())}
            if name not in of or name == function:
                callers = [caller for caller, names in self.bodies.items() if name in names and caller not in seen]
                seen |= {*callers}
                new += callers
        return frozenset(found)

    # ---- by types

    @cached_property
    def typed(self) -> search.Effects | None:
        """The same by types; ``None`` where a file that can name a vCPU does not parse."""
        if self.mode is None or not isinstance(self.tree, KernelTree):
            return None
        flags = flags_of(self.tree, {**FLAGS, ON_CPU: (ON_CPU,), "INCREMENT_PC": PENDING["INCREMENT_PC"]}, Gaps(True))
        processes = 1 if current_process().daemon else 2
        found = search.effects_of(self.tree, self.mode, modelled(flags), processes)
        return None if any(_KVM.search(self.tree.read(file)) for file in found.unread) else found

    @cached_property
    def _of(self) -> Mapping[str, list[str]]:
        """The keys of functions, by name."""
        assert self.typed is not None
        found: dict[str, list[str]] = {}
        for key, facts in self.typed.functions.items():
            found.setdefault(facts.function.name, []).append(key)
        return found

    @cached_property
    def _elsewhere(self) -> frozenset[str]:
        """State variables that this tree does not keep where they are known to be."""
        assert self.typed is not None
        here = {r.target for ranges in self.typed.ranges.values() for r in ranges}
        located = {name for target in here for name in variables(target)}
        return frozenset(n for target, n in _VARIABLES.items() if not target.startswith("hw.")) - located

    @cached_property
    def _outside(self) -> frozenset[str]:
        """The keys of functions that run other than inside functions that are compared."""
        typed = self.typed
        assert typed is not None
        compared = {key for key, f in typed.functions.items() if (f.function.name, f.function.file) in self.lifted}
        called = {callee for callees in typed.calls_by_key.values() for callee in callees}
        taken = {mention.name for facts in typed.functions.values() for mention in facts.taken}
        starts = [k for k, f in typed.functions.items() if k not in called or k in taken or f.function.name in taken]
        return frozenset(reached(typed.calls_by_key, starts, compared))

    def written(self, functions: Iterable[str]) -> frozenset[str]:
        """The state variables that functions, and all that these lead to, may write."""
        functions = list(functions)
        if any({"asm", "__asm__"} & self.bodies.get(function, {}).keys() for function in functions):
            return EVERYTHING  # through whatever pointer
        known = [name for name in functions if self.typed is not None and name in self._of]
        found = self._named(name for name in functions if name not in known)
        if known:
            found |= self._reached(key for name in known for key in self._of[name])
        return found

    def _reached(self, keys: Iterable[str]) -> frozenset[str]:
        assert self.typed is not None
        every = (e for key in reached(self.typed.calls_by_key, keys) for e in self.typed.by_key.get(key, ()))
        return _written(e for e in every if not _listed(e, limited))

    def at(self, gap: Gap) -> frozenset[str]:
        """What a gap that names what it may write (``Gap.writes``) may write, of what the kernel has."""
        assert gap.writes is not None
        found = frozenset[str]()
        for place in gap.writes:
            own = None if self.typed is None else self._typed(gap, place)
            found |= self._by_name(place) if own is None else own
        return frozenset(name for name in found if name.partition(".")[0] in self.has)

    def _by_name(self, place: str) -> frozenset[str]:
        if place.endswith("()"):
            return self.written((place.removesuffix("()"),))
        return frozenset((place,)) if place in VARIABLES else places(place)

    def _typed(self, gap: Gap, place: str) -> frozenset[str] | None:
        """The same by types; ``None`` where these cannot tell."""
        assert self.typed is not None
        (function,) = gap.of if len(gap.of) == 1 else ("",)
        hows = [s.how for s in self.stores if (s.file, s.line, s.lvalue) == (gap.file, gap.line, place)]
        if place in VARIABLES and not hows:
            return None  # which the lifter found
        keys = self._keys(gap.file, function, place)
        if keys and not (keys := [key for key in keys if self._runs(key, place)]):
            self.elsewhere[str(gap)] = None
            return frozenset()
        if place.endswith("()"):
            return self._by_name(place) if keys != [] else frozenset()
        if keys is None:
            return None
        effects = [e for key in keys for e in self.typed.by_key.get(key, ())]
        there = hows and _WRITTEN_THERE.issuperset(hows)
        if there and function.startswith("macro "):
            effects = self._expanded(function.removeprefix("macro "), effects)
        found = _written([*effects, *self._chosen_by(function)])
        register = place.startswith("sys_regs[")
        if not there:
            found |= frozenset().union(*(self._addressed(key, register) for key in keys))
        if register:
            return found  # nothing of these is kept elsewhere
        return found | (self._by_name(place) & self._elsewhere)

    def _keys(self, file: str, function: str, place: str) -> list[str] | None:
        """The functions that are meant, or that a macro is used in, as far as they are not compared; or not known."""
        assert self.typed is not None
        if function.startswith("macro "):
            users = self._users(function.removeprefix("macro "))
            if users is None:
                return None
            found = [key for key in users if not self._knows(key, place)]
        else:
            found = [k for k in self._of.get(function, ()) if self.typed.functions[k].function.file == file]
            if not found:
                return None
        return [key for key in found if key in self._outside]

    def _runs(self, key: str, place: str) -> bool:
        """Whether a function runs in this mode and, for ``f()``, whether what calls f() in it does."""
        assert self.typed is not None
        called = place.removesuffix("()")
        return key not in self.typed.dead and (place == called or called not in self.typed.gone.get(key, ()))

    @cached_property
    def _macros(self) -> set[str]:
        """The names that some file defines as macros."""
        files = {file for names in self.bodies.values() for file, _ in names.values()}
        return {name for file in files for name in _DEFINE.findall(self.tree.read(file))}

    def _users(self, macro: str) -> set[str] | None:
        """The functions that use a macro, also by way of other macros; ``None`` if one has no name that is known."""
        assert self.typed is not None
        found = set[str]()
        texts = {file: self.tree.read(file) for file in self.typed.files if file.startswith(scan.HOST)}
        for name in self._made_of(macro):
            users = {user for user, names in self.bodies.items() if name in names}
            found |= {key for user in users for key in self._of.get(user, ())}
            if any(self.bodies[u][name][0] in self.typed.files for u in users - self._of.keys() - self._macros):
                return None
            among = {file for file, text in texts.items() if re.search(rf"\b{name}\b", text)}
            found |= {key for key, facts in self.typed.functions.items() if facts.function.file in among}
        return found

    def _made_of(self, macro: str) -> set[str]:
        """A macro, and the macros that use it."""
        found, new = {macro}, [macro]
        while new:
            name = new.pop()
            users = {user for user, names in self.bodies.items() if name in names} & self._macros - found
            found |= users
            new += users
        return found

    def _expanded(self, macro: str, effects: Iterable[Effect]) -> list[Effect]:
        """Those effects that are on a line on which a macro is used, also by way of other macros."""
        used = re.compile(rf"\b(?:{'|'.join(map(re.escape, self._made_of(macro)))})\b")
        lines = {file: self.tree.read(file).split("\n") for file in {e.file for e in effects}}
        return [e for e in effects if used.search(lines[e.file][e.line - 1])]

    def _knows(self, key: str, place: str) -> bool:
        assert self.typed is not None
        function = self.typed.functions[key].function
        return knows(function.file, function.name, place)

    def _chosen_by(self, function: str) -> Iterator[Effect]:
        """What is written where a function is called that is told what to write; but for callers that are known."""
        assert self.typed is not None
        for key in self._outside:
            for effect in self.typed.by_key.get(key, ()):
                if effect.how.endswith(f" by {function}()") and not _listed(effect, knows):
                    yield effect

    def _addressed(self, key: str, register: bool) -> frozenset[str]:
        """The state variables of which a function takes the address, unless that does not leave its own variables.

        Args:
            register: whether the place is in sys_regs; the address of a record around it is then none of that.
        """
        assert self.typed is not None
        facts = self.typed.functions[key]
        sources: list[Source] = [s for c in facts.calls for a in c.arguments for s in a]
        flows = [(node, source) for node, of in facts.flows for source in of]
        left = {node for node, _ in flows if node.kind != "v"} | {s for s in sources if isinstance(s, Node)}
        while more := {source for node, source in flows if node in left and isinstance(source, Node)} - left:
            left |= more
        sources += [source for node, source in flows if node in left]
        sources += [source for store in facts.stores for source in store.through]
        found = frozenset[str]()
        for a in (source for source in sources if isinstance(source, Address)):
            size = a.size if a.element is None else a.element.stride * a.element.length
            at = (0, 1 << 40) if a.blurred else (a.offset, max(size, 1))
            if register and a.whole and not a.blurred:
                continue
            for target, _ in overlapping(self.typed.ranges.get(a.record, ()), *at, ALL):
                found |= variables(target)
        return found


def _written(effects: Iterable[Effect]) -> frozenset[str]:
    return frozenset[str]().union(*(variables(e.target, e.bits, e.contexts) for e in effects))


def _listed(effect: Effect, by: Callable[[str, str, str], bool]) -> bool:
    """Whether a list knows an effect, under one of the names that the search by names has for it."""
    return any(by(effect.file, effect.function.name, name) for name in _spelled(effect.target))


def _spelled(target: str) -> set[str]:
    """What the search by names calls a place."""
    if target.startswith("hw."):
        return {target}
    if "#" in target:
        return {"flags", "arch.flags", "arch.iflags", "arch.cflags", "arch.sflags", target.rpartition("#")[2]}
    register = re.search(r"sys_regs\[\w+\]", target)
    names = {*re.split(r"->|\.", target), *((register[0], "sys_regs[*]") if register else ())}
    return names | (scan.BANKS if "debug_state" in target else frozenset())
