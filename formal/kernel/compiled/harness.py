"""A run of a tree as C: each lifted function that a step executes must leave what the replay says.

    found = executions(replay, trace, report, program, tree)   # and why a step has none
    text, units = Rerun(program, tree, report.mode, found.calls, folder).sources(title)

Some functions are steps; others run inside of steps (``model/substitution.py``), such as those of the hypervisor,
which are in other
files with other macros. So a file of the tree is a C file of its own, preprocessed, with the drivers of ``drivers.py``;
the program around them has the values that each function finds, and those that it must leave. It needs no C library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from formal.epochs import Mode
from formal.evidence.runs.replay import Replay, Seen
from formal.evidence.runs.traces import Trace
from formal.kernel.compare.handlers import HANDLERS
from formal.kernel.compiled.compiler import COMPILER, OPTIONS, HarnessError
from formal.kernel.compiled.differential import Bench
from formal.kernel.compiled.drivers import NULL, Driver, Subject, subjects
from formal.kernel.lift.program import Lifted, Program
from formal.kernel.model.binding import DEBUG_PTR, OWNERS, REGISTERS, Binding, element_of
from formal.kernel.model.counterparts import Counterpart
from formal.kernel.model.substitution import Part, parts_of
from formal.kernel.source.tree import KernelTree
from formal.logic.evaluation import evaluate, nodes, support
from formal.logic.terms import BOOL, Term, Value
from formal.logic.terms import var as variable
from formal.operations import Inputs
from formal.state import State

_LVALUES = frozenset(lvalue for lvalues in REGISTERS.values() for lvalue in lvalues)
UNIT_MARK = "/* Part of a run written by formal.prove --harness. Contains code of the kernel tree (GPL-2.0). */\n"
_COMMAND = (*OPTIONS, "-O1", "-fno-pie", "-no-pie", "-Wl,-z,muldefs")
_MAIN = """
struct harness_step {
	const char *text;
	void (*drive)(const word *in, word *out);
	unsigned seen, left;
	const word *in, *wanted, *compared;
	const char *const *labels;
};

static void harness_say(const char *text)
{
	long length = 0;
	while (text[length])
		length++;
	harness_call(64, 1, text, length);
}

static void harness_say_number(word value)
{
	char text[19] = "0x";
	for (int i = 0; i < 16; i++)
		text[2 + i] = "0123456789abcdef"[value >> (60 - 4 * i) & 15];
	text[18] = 0;
	harness_say(text);
}
"""
_START = """
void _start(void)
{
	int differences = 0;
	harness_vhe = {vhe};
	for (unsigned n = 0; n < sizeof(harness_steps) / sizeof(harness_steps[0]); n++) {
		const struct harness_step *s = &harness_steps[n];
		s->drive(s->in, harness_output);
		for (unsigned i = 0; i < s->left; i++) {
			word got = harness_output[s->seen + i] & s->compared[i];
			if (got == s->wanted[i])
				continue;
			differences++;
			harness_say(s->text);
			harness_say(s->labels[i]);
			harness_say(" is ");
			harness_say_number(got);
			harness_say(", and the replay says ");
			harness_say_number(s->wanted[i]);
			harness_say("\\n");
		}
	}
	if (!differences)
		harness_say("{success}\\n");
	harness_call(93, !!differences, 0, 0);
}
"""


class Lifts(Protocol):
    """What is needed of a report on a tree."""

    mode: Mode
    counterparts: Mapping[str, Counterpart]
    parts: dict[str, Part]
    omitted: dict[str, str]


@dataclass(frozen=True)
class Execution:
    """A function that a step executes: what its variables hold, and what modelled ones must hold after it."""

    number: int
    subject: Subject
    found: Mapping[str, Value]
    left: Mapping[str, Value]


@dataclass
class Executions:
    """Those of a run, and for steps without any the reason."""

    calls: list[Execution] = field(default_factory=list)
    not_compiled: list[str] = field(default_factory=list)


def executions(replay: Replay, trace: Trace, report: Lifts, program: Program, tree: KernelTree) -> Executions:
    """The functions that the steps of a run execute.

    Raises:
        NotUnderstoodError: if a function of the tree is not understood.
    """
    result, known = Executions(), subjects(program, tree, report.mode)
    for seen in replay.run(trace):
        if seen.step is None:
            continue
        try:
            calls = list(_of_step(replay, seen, report, known))
            for call in calls:
                Driver(call.subject, program, 0)
        except HarnessError as error:
            result.not_compiled.append(f"step {seen.number} is not compiled: {error}")
            continue
        result.calls += calls
        if not calls:
            why = f"{seen.step.operation}: no function of the tree that is lifted takes part in it"
            result.not_compiled.append(f"step {seen.number} is not compiled: {why}")
    return result


def _of_step(replay: Replay, seen: Seen, report: Lifts, known: Sequence[Subject]) -> Iterator[Execution]:
    assert seen.step is not None
    name, k = seen.step.operation, replay.system.kernel
    s = replay.system.state((seen.step.vcpu, seen.step.cpu))
    operation = next(op for op in replay.system.operations if op.name == name)
    opened = f"in.{name}.C: "
    free = {n.removeprefix(opened): v for n, v in seen.inputs.items() if n.startswith(opened)}
    env = {**free, **seen.before, **seen.inputs}
    c = report.counterparts.get(name) if name not in report.omitted else None
    if c is not None:
        mapping = c.mapping(s, Inputs(f"in.{name}", k.breakpoints))
        subject = _subject(c, mapping, env, report, known)
        left = _modelled(subject.lifted, c.binding, s, seen.after, c.owns)
        yield Execution(seen.number, subject, _found(subject.lifted, mapping, env), left)
    for part_name, before in parts_of(operation, s, k):
        part = report.parts.get(part_name)
        if part is None or part_name in report.omitted or (c is not None and part.lifted.name in c.lifted.functions):
            continue
        subject = _known(part.lifted, known)
        after = k.doing(part_name, part.by_hand)(before, k)
        left = _modelled(part.lifted, part.binding, after, env, None)
        yield Execution(seen.number, subject, _found(part.lifted, part.mapping(before), env), left)


def _known(lifted: Lifted, known: Sequence[Subject]) -> Subject:
    found = next((s for s in known if s.lifted is lifted), None)
    if found is None:
        raise HarnessError(f"{lifted.name}() is not compiled by itself")
    return found


def _subject(
    c: Counterpart, mapping: Mapping[str, Term], env: Mapping[str, Value], report: Lifts, known: Sequence[Subject]
) -> Subject:
    """The function of an operation; of those for the kinds of registers in a bank, the one that runs."""
    if "kind" not in mapping:
        return _known(c.lifted, known)
    names = {n for h in HANDLERS if h.operation == c.operation.name for n in h.functions}
    kinds = [s for s in known if s.lifted.name in names and s.lifted.file == c.lifted.file]
    number = int(_value(mapping["kind"], env))  # type: ignore[arg-type]
    if len(kinds) != 4:
        raise HarnessError(f"{c.lifted.name}() is not compiled by itself")
    return kinds[number]


def _value(term: Term, env: Mapping[str, Value]) -> Value:
    """A term's value; of what the run leaves open, pointers point to something, and the rest is 0."""
    names = {str(v.data): v.sort for v in nodes((term,)) if v.op == "var"}
    open_ = {name: name.endswith(NULL) if sort == BOOL else 0 for name, sort in names.items()}
    return evaluate(term, {**open_, **env})


def _found(lifted: Lifted, mapping: Mapping[str, Term], env: Mapping[str, Value]) -> dict[str, Value]:
    """The values of the variables of a function's terms; those that are not here are 0."""
    terms = (*lifted.writes.values(), *(o.condition for o in lifted.obligations), *lifted.reads.values())
    terms = (*terms, *((lifted.result,) if lifted.result is not None else ()))
    free = {str(v.data): variable(str(v.data), v.sort) for v in nodes(terms) if v.op == "var"}
    return {name: _value(mapping.get(name, free[name]), env) for name in free}


def _modelled(
    lifted: Lifted, binding: Binding, s: State, env: Mapping[str, Value], owns: frozenset[str] | None
) -> dict[str, Value]:
    """What a state says of the lvalues that a function stores to, as far as whole state variables stand for them."""
    mapping, values = binding.before(lifted, s), {}
    for lvalue, stored in lifted.writes.items():
        whole = lvalue in _LVALUES or lvalue in OWNERS or lvalue == DEBUG_PTR or element_of(lvalue) is not None
        names, _ = binding.stores(replace(lifted, writes={lvalue: stored}))
        if whole and lvalue in mapping and (owns is None or names <= owns):
            values[lvalue] = _value(mapping[lvalue], env)
    return values


class Rerun(Bench):
    """The program of a run."""

    def __init__(
        self, program: Program, tree: KernelTree, mode: Mode, calls: Sequence[Execution], folder: Path
    ) -> None:
        if mode is Mode.PROTECTED:
            raise HarnessError("the functions of protected mode work on a copy of the vCPU, which no program makes yet")
        if not calls:
            raise HarnessError("no step of the run executes a function that is lifted")
        self.mode, self.calls = mode, calls
        self.used = list({id(c.subject): c.subject for c in calls}.values())
        super().__init__(program, tree, self.used, folder)

    def sources(self, title: str, file: str = "THIS_FILE.c", units: str = "UNITS") -> tuple[str, dict[str, str]]:
        """The program, and the files of the tree that it consists of, by name.

        Raises:
            HarnessError: if a step does what C leaves undefined, or the compiler refuses it.
        """
        observed = self._observed()
        steps = [line for number, call in enumerate(self.calls) for line in self._step(number, call, observed[number])]
        count = len({c.number for c in self.calls})
        success = f"{len(self.calls)} functions in {count} steps as in the replay"
        main = (self.folder / f"main_{self.mode.value}.c").read_text(encoding="utf-8")
        main = main.split("static void harness_all")[0]
        known = (self.folder / f"known_{self.mode.value}.c").read_text(encoding="utf-8")
        known = known.split("struct harness_register *harness_named(const char *name);\n")[1]
        missing = self.folder / f"stubs_{self.mode.value}.c"
        stubs = missing.read_text(encoding="utf-8").split("\n", 1)[1] if missing.exists() else ""
        head = [
            f"/* {title}", " * Compile and run:", f" *   {COMPILER} {' '.join(_COMMAND)} -o harness {file} {units}/*.c",
            " *   qemu-aarch64 ./harness", " * Contains code of the kernel tree (GPL-2.0). */",
        ]  # fmt: skip
        start = _START.replace("{vhe}", str(int(self.mode is Mode.VHE))).replace("{success}", success)
        text = "\n".join([*head, main, known, stubs, _MAIN, *steps, self._table(), start])
        return text, {f"{key}.c": self._unit(key) for key in self._objects}

    def _unit(self, key: str) -> str:
        """A file of the tree with its drivers, as it was compiled."""
        text = (self.folder / f"{key}.i").read_text(encoding="utf-8")
        return UNIT_MARK + re.sub(r"\n{2,}", "\n", text)

    def _driver(self, call: Execution) -> Driver:
        return self.drivers[next(n for n, s in enumerate(self.used) if s is call.subject)]

    def _observed(self) -> dict[int, tuple[int, ...]]:
        """What each call finds where neither the run nor a driver decides: addresses."""
        found: dict[int, tuple[int, ...]] = {}
        for driver in self.drivers:
            calls = [n for n, call in enumerate(self.calls) if self._driver(call) is driver]
            rows = self.run(driver, [_inputs(driver, self.calls[n]) for n in calls])
            for stopped in filter(None, (self.stopped(driver, row) for row in rows)):
                raise HarnessError(f"{driver.subject.name}: no stand-in for assembly that is reached: {stopped}")
            found |= {n: row[: len(driver.observed)] for n, row in zip(calls, rows, strict=True)}
        return found

    def _step(self, number: int, call: Execution, observed: Sequence[int]) -> Iterator[str]:
        driver = self._driver(call)
        state = _inputs(driver, call)
        undefined, bugs, warns, *wanted = (int(v) for v in driver.evaluate([*state, *observed]))
        if undefined:
            raise HarnessError(f"step {call.number}, {call.subject.lifted.name}: what C leaves undefined is reached")
        ones = (1 << 64) - 1
        compared = [ones] + [0 if bugs else ones] * 2
        names = [*driver.writes, *([""] if driver.result else [])]
        for i, (name, term, mask) in enumerate(zip(names, driver.outputs, driver.masks, strict=True)):
            address = any(n.startswith("&") for n in support(term))  # differs from one build to the next
            compared.append(0 if bugs or address else mask)
            if name in call.left:
                wanted[i] = int(call.left[name])  # type: ignore[arg-type]
        expected = [a & m for a, m in zip([bugs, warns, 0, *wanted], compared, strict=True)]
        labels = ["reaches BUG", "reaches a warning", "words of memory changed besides", *driver.labels]
        for name, values in (("found", state), ("wanted", expected), ("compared", compared)):
            words = ", ".join(f"{v:#x}ULL" for v in values or [0])
            yield f"static const word harness_{name}_{number}[] = {{ {words} }};"
        yield f"static const char *const harness_labels_{number}[] = {{ {', '.join(map(json.dumps, labels))} }};"

    def _table(self) -> str:
        lines = ["static const struct harness_step harness_steps[] = {"]
        for n, call in enumerate(self.calls):
            driver = self._driver(call)
            text = json.dumps(f"step {call.number}, {call.subject.lifted.name}: ")
            lines.append(
                f"\t{{ {text}, harness_drive_{driver.number}, {len(driver.observed)}, {3 + len(driver.outputs)}, "
                f"harness_found_{n}, harness_wanted_{n}, harness_compared_{n}, harness_labels_{n} }},"
            )
        return "\n".join([*lines, "};"])


def _inputs(driver: Driver, call: Execution) -> list[int]:
    return [int(call.found.get(c.name, 0)) for c in driver.inputs]  # type: ignore[arg-type]
