"""Drivers: C that sets what a lifted function reads, calls the compiled function, and gives what it left."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from formal.epochs import Mode
from formal.kernel.compare import handlers, hypervisor
from formal.kernel.compare.behaviours import DEBUG_C, resolve
from formal.kernel.compiled.compiler import HarnessError
from formal.kernel.lift.calls import HAS_EL2, INJECTED, NESTED, USER_COPY_FAILS, VM_AT_EL2
from formal.kernel.lift.pointers import POINTERS
from formal.kernel.lift.pointers import Mode as FrontMode
from formal.kernel.lift.program import Argument, Lifted, Program, side_of
from formal.kernel.model.binding import Binding
from formal.kernel.parse import clang
from formal.kernel.parse.resolve import HOST
from formal.kernel.source.tree import KernelTree
from formal.kernel.text.signs import read
from formal.logic import terms as t
from formal.logic.compiled import Function, straight
from formal.logic.evaluation import nodes, support
from formal.logic.terms import BOOL, Or

NULL = " != NULL"  # how the variable ends that says whether a pointer points to something
OPEN = {  # what the lifter leaves open whenever it is asked for: one answer in a state
    "MIDR_EL1": "harness_midr", "the interrupt mask": "harness_mask", "CNTPCT_EL0": "harness_counter",
}  # fmt: skip
_GUEST = {HAS_EL2: "harness_guest[0]", NESTED: "harness_guest[1]"}
_KINDS = ("bcr", "bvr", "wcr", "wvr")
_Named = tuple[str, Mapping[str, int | str]]
_RESETS: tuple[_Named, ...] = tuple((f"reset_{kind}", {}) for kind in _KINDS)
_RESETS_BY_OWNER: tuple[_Named, ...] = tuple(("reset_dbg_wb_reg", {"rd->Op2": handlers.OP2[kind]}) for kind in _KINDS)
_NESTING: tuple[_Named, ...] = (("reset_mdcr", {"r->reg": "MDCR_EL2"}), ("access_mdcr", {"p->is_write": 0}))
_UNDEFINED = ("pointer", "index", "shift", "division")  # obligations on whose breach C says nothing


@dataclass(frozen=True)
class Subject:
    """A lifted function, and how it was lifted."""

    lifted: Lifted
    mode: Mode
    unit: str  # the file that is compiled for it
    arguments: Mapping[str, Argument] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.lifted.name} ({self.mode.value})"


def subjects(program: Program, tree: KernelTree, mode: Mode) -> list[Subject]:
    """All functions whose lifted terms the comparison with the specification uses.

    Raises:
        NotUnderstoodError: if one is not understood.
    """
    front: FrontMode = side_of(mode)
    debug = {name: program.lift(name, front, file=DEBUG_C) for name in program.functions(DEBUG_C)}
    k = resolve(tree, mode, debug, Binding.of(program), read(tree)).kernel
    found = [Subject(lifted, mode, DEBUG_C) for lifted in debug.values()]
    for handler in handlers.HANDLERS:
        if handler.when(k):
            found += [Subject(lifted, mode, handler.file) for lifted in handler.lifted(program, front)]
    for name, memory in _RESETS_BY_OWNER if k.tracks_debug_owner else _RESETS:
        lifted = program.lift(name, front, file=handlers.SYS_REGS, memory=memory)
        found.append(Subject(lifted, mode, handlers.SYS_REGS))
    for name, memory in _NESTING if k.nests else ():
        lifted = program.lift(name, front, file=handlers.SYS_REGS, memory=memory)
        found.append(Subject(lifted, mode, handlers.SYS_REGS))
    for component, lifted in hypervisor.lifted(program, k):
        unit, _ = program.resolver.find(lifted.name, front)
        found.append(Subject(lifted, mode, unit.file, component.arguments))
    return found


@dataclass(frozen=True)
class Cell:
    """How a driver gives a variable of the terms its value (``put``; the text VALUE is it), or finds it (``get``)."""

    name: str
    sort: int
    put: str = ""
    get: str = ""

    @property
    def width(self) -> int:
        """Bits; a Boolean has one."""
        return max(1, self.sort)


def _lvalue(name: str) -> str:
    """A lifted lvalue as a C expression."""
    if name.startswith("hw."):
        return f'harness_named("{name.removeprefix("hw.")}")->value'
    if name.startswith(VM_AT_EL2):
        return f"(&harness_vm){name.removeprefix(VM_AT_EL2)}"
    return re.sub(r"^current\b", "(&harness_task)", name.removeprefix("percpu."))


def _object(name: str) -> str:
    """The C name of what a parameter or pointer points to."""
    return "object_" + re.sub(r"\W+", "_", name)


def symbol(name: str) -> str:
    """The address of something that may be declared anywhere: under a C name of our own."""
    return f'({{ extern char address_{name}[] asm("{name}"); address_{name}; }})'


def hides(program: Program, file: str, name: str) -> bool:
    """Whether a file of the tree has a static variable of this name."""
    if not (program.tree.path / file).exists():
        return False
    return re.search(rf"(?m)^static [\w \t*,]*\b{name}\b *[;=,\[]", program.tree.read(file)) is not None


class Driver:
    """The C function that runs one subject, and the layout of its input and output."""

    def __init__(self, subject: Subject, program: Program, number: int) -> None:
        self.subject, self.number = subject, number
        self.lifted = f = subject.lifted
        _, function = program.resolver.find(f.name, subject.mode.value, None if f.file.endswith(".h") else f.file)
        self.parameters = [(p.spelling, p.type) for p in function.get_arguments()]
        self.void = function.result_type.get_canonical().kind == clang.TypeKind.VOID
        self.warns = Or(*(o.condition for o in f.obligations if o.risk == "warn"))
        self.bugs = Or(*(o.condition for o in f.obligations if o.risk == "bug"))
        self.undefined = Or(*(o.condition for o in f.obligations if o.risk in _UNDEFINED))
        self.result = [] if self.void or f.result is None else [f.result]
        # a timer register need not have a value on every path (front.py): it is not compared then
        self.writes = {lv: v for lv, v in f.writes.items() if not any(n.startswith("undefined ") for n in support(v))}
        self.outputs = [*self.writes.values(), *self.result]
        self.terms = [self.undefined, self.bugs, self.warns, *self.outputs]
        names: dict[str, int] = {}
        for term in (*f.reads.values(), *self.terms):
            for node in nodes((term,)):
                if node.op == "var":
                    assert isinstance(node.sort, int)
                    names[str(node.data)] = node.sort
        self._asked: set[str] = set()
        self._elsewhere = {n for n in names if re.fullmatch(r"\w+", n) and not hides(program, subject.unit, n)
                           and any(hides(program, file, n) for file in HOST)}  # fmt: skip
        cells = [self._cell(name, sort) for name, sort in names.items()]
        self.inputs = sorted((c for c in cells if c.put), key=lambda c: (c.name.count("->"), not c.name.endswith(NULL)))
        self.observed = [c for c in cells if c.get]
        self.masks = [(1 << (t.width(term) if term.sort != BOOL else 1)) - 1 for term in self.outputs]
        self.labels = [*self.writes, *(["the result"] if self.result else [])]
        self.width = len(self.inputs), len(self.observed) + 3 + len(self.outputs)

    def _roots(self) -> set[str]:
        return {"vcpu", "current", *(name for name, _ in self.parameters)}

    def _cell(self, name: str, sort: int) -> Cell:
        i = "VALUE"
        if name.startswith("cap."):
            return Cell(name, sort, f"harness_capability[{name.removeprefix('cap.')}] = {i}")
        if name.startswith("key."):
            return Cell(name, sort, f"harness_key_{name.removeprefix('key.')} = {i}")
        if name.startswith(USER_COPY_FAILS):
            return Cell(name, sort, f"harness_user[0] = {i}")
        if name.startswith("after copy_from_user()") or name == "from user space":
            return Cell(name, sort, f"harness_user[{1 if name.startswith('after') else 2}] = {i}")
        if name in _GUEST:
            return Cell(name, sort, f"{_GUEST[name]} = {i}")
        what = name.rpartition("#")[0]
        if what in OPEN:
            again = what in self._asked
            self._asked.add(what)
            return Cell(name, sort, get=OPEN[what]) if again else Cell(name, sort, f"{OPEN[what]} = {i}")
        if name.startswith("&"):
            inner = name.removeprefix("&")
            pointer = inner in self.lifted.reads
            if not pointer and not re.fullmatch(r"\w+", inner):
                raise HarnessError(f"{self.subject.name}: {name} is not known to a program")
            return Cell(name, sort, get=f"(word)({_lvalue(inner)})" if pointer else f"(word){symbol(inner)}")
        if name.endswith(NULL):
            lvalue = name.removesuffix(NULL)
            return Cell(name, sort, f"HARNESS_PUT({_lvalue(lvalue)}, {i} ? (word){_object(lvalue)} : 0)")
        if name in POINTERS and len(POINTERS[name].targets) == 2:
            first, second = POINTERS[name].targets
            to = f"{i} == 0 ? (word)&{first} : {i} == 1 ? (word)&{second} : (word)harness_elsewhere"
            return Cell(name, sort, f"HARNESS_PUT({_lvalue(name)}, {to})")
        root = re.match(r"\w+", name)
        if name.startswith(("hw.", "percpu.", VM_AT_EL2)) or (root is not None and root[0] in self._roots()):
            return Cell(name, sort, f"HARNESS_PUT({_lvalue(name)}, {i})")
        if re.fullmatch(r"[\w.\[\]]+", name):  # a variable of the file, such as a constant table
            if name in self._elsewhere:
                return Cell(name, sort, get=f"({{ word harness_value_{name}(void); harness_value_{name}(); }})")
            return Cell(name, sort, get=f"HARNESS_GET({name})")
        raise HarnessError(f"{self.subject.name}: {name} cannot be set by a program")

    def text(self) -> Iterator[str]:
        """The driver's C."""
        f, n = self.lifted, self.number
        yield f"void harness_drive_{n}(const word *in, word *out)\n{{"
        yield "\tstruct kvm_vcpu *const vcpu = &harness_vcpu;"
        regions = ["&harness_vcpu, sizeof(harness_vcpu)", "harness_elsewhere, sizeof(harness_elsewhere)"]
        arguments = []
        for name, kind in self.parameters:
            given = self.subject.arguments.get(name)
            spelling = kind.spelling
            if isinstance(given, str):
                yield f"\t{spelling} {name} = ({spelling})&{_lvalue(given)};"
            elif not clang.is_pointer(kind):
                if name not in {c.name for c in self.inputs}:
                    yield f"\t{spelling} {name} = 0;"
                else:
                    yield f"\t{spelling} {name};"
            elif kind.get_canonical().get_pointee().get_declaration().spelling == "kvm_vcpu":
                if name != "vcpu":
                    yield f"\t{spelling} {name} = vcpu;"
            else:
                yield f"\tstatic word {_object(name)}[(sizeof(*({spelling})0) + 7) / 8];"
                yield f"\t{spelling} {name} = ({spelling}){_object(name)};"
                regions.append(f"{_object(name)}, sizeof({_object(name)})")
            arguments.append(name)
        yield "\t(void)vcpu;"
        for lvalue in (c.name.removesuffix(NULL) for c in self.inputs if c.name.endswith(NULL)):
            yield f"\tstatic word {_object(lvalue)}[(sizeof(*({_lvalue(lvalue)})) + 7) / 8];"
            regions.append(f"{_object(lvalue)}, sizeof({_object(lvalue)})")
        if any(name.startswith(VM_AT_EL2) for name in f.reads):
            regions.append("&harness_vm, sizeof(harness_vm)")
        if any(name.startswith("percpu.kvm_host_data") for name in (*f.reads, *f.writes)):
            regions.append("&kvm_host_data, sizeof(kvm_host_data)")
        fixed = {lv: v for lv, v in f.reads.items() if v.op == "const" and self._settable(lv)}
        yield "\tharness_warned = harness_other = 0;"
        yield "\tharness_capability[ARM64_HAS_VIRT_HOST_EXTN] = harness_vhe;"
        yield from (
            f"\tHARNESS_PUT({_lvalue(lv)}, {t.value_of(v) if v.sort else int(bool(v.data)):#x}ULL);"
            for lv, v in fixed.items()
        )
        yield from (f"\tHARNESS_PUT({_lvalue(name)}, (word)vcpu);" for name in f.reads if _running(name))
        for i, cell in enumerate(self.inputs):
            yield f"\t{self._present(cell.name)}{cell.put.replace('VALUE', f'in[{i}]')};"
        for i, cell in enumerate(self.observed):
            yield f"\tout[{i}] = {cell.get};"
        at = len(self.observed)
        yield "\tharness_stopped = 1;\n\tif (!__builtin_setjmp(harness_back)) {"
        call = f"{f.name}({', '.join(arguments)})"
        yield f"\t\t{call};" if not self.result else f"\t\tout[{at + 3 + len(self.writes)}] = (word){call};"
        yield f"\t\tharness_stopped = 0;\n\t}}\n\tout[{at}] = harness_stopped;\n\tout[{at + 1}] = harness_warned;"
        for i, lvalue in enumerate(self.writes):
            if (present := self._present(lvalue)) and lvalue in (names := [c.name for c in self.inputs]):
                yield f"\tout[{at + 3 + i}] = in[{names.index(lvalue)}]; /* where it is not, it stays */"
            yield f"\t{present}out[{at + 3 + i}] = {self._left(lvalue)};"
        places = dict.fromkeys((*f.reads, *f.writes, *(c.name for c in self.inputs)))
        cleaned = [lv for lv in places if self._settable(lv)]
        deepest = sorted(cleaned, key=lambda lv: -lv.count("->"))
        yield from (f"\t{self._present(lvalue)}HARNESS_PUT({_lvalue(lvalue)}, 0);" for lvalue in deepest)
        yield from (f"\tharness_clean({region});" for region in regions)
        yield "\tfor (struct harness_register *r = harness_registers; r->name; r++)"
        yield "\t\tharness_clean(&r->value, sizeof(r->value));"
        yield f"\tout[{at + 2}] = harness_other;\n}}"

    def _settable(self, lvalue: str) -> bool:
        root = re.match(r"\w+", lvalue)
        if lvalue == INJECTED or lvalue.startswith(VM_AT_EL2):
            return True
        if " " in lvalue or "&" in lvalue or lvalue.startswith(("cap.", "key.")):
            return False
        return lvalue.startswith(("hw.", "percpu.")) or (root is not None and root[0] in self._roots())

    def _present(self, lvalue: str) -> str:
        """An ``if`` for a place behind pointers that may be NULL; empty for others."""
        pointers = [c.name.removesuffix(NULL) for c in self.inputs if c.name.endswith(NULL)]
        before = [_lvalue(p) for p in pointers if lvalue.startswith(f"{p}->")]
        return f"if ({' && '.join(before)}) " if before else ""

    def _left(self, lvalue: str) -> str:
        """The word that stands for what a function left at a place."""
        if lvalue not in self.lifted.pointer_writes:
            return f"HARNESS_GET({_lvalue(lvalue)})"
        rule, at = POINTERS.get(lvalue), f"(void *)({_lvalue(lvalue)})"
        if rule is None or len(rule.targets) < 2:
            return f"!!{at}"
        first, second = rule.targets
        return f"{at} == &{first} ? 0 : {at} == &{second} ? 1 : {at} == harness_elsewhere ? 2 : 3"

    @cached_property
    def evaluate(self) -> Function:
        """The lifted terms as a function of inputs and observed values."""
        return straight(self.terms, [c.name for c in (*self.inputs, *self.observed)])


def _running(name: str) -> bool:
    rule = POINTERS.get(name)
    return rule is not None and rule.targets == ("vcpu",)
