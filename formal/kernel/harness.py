"""A run of a tree's system as one C program: the tree's own functions, compiled, must do what the replay says they do.

The program is debug.c with its headers, preprocessed, with the same replacements for assembly that the lifter reads
(``overlay_base.h``), here as calls of small functions on variables; and for every step of the run that is a function of
debug.c: the values that the function finds, the call, and the values that it must leave. It needs no C library, runs
under ``qemu-aarch64``, says what differs, and ends with 0 if nothing does. Capabilities of the CPU are off.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from formal.evidence.replay import Replay, Seen
from formal.evidence.traces import Trace
from formal.kernel.behaviours import DEBUG_C
from formal.kernel.binding import DEBUG_PTR
from formal.kernel.compare import Counterpart
from formal.kernel.preamble import BASE_HEADERS, KVM_HEADERS, overlay_texts
from formal.kernel.tree import KernelTree
from formal.terms import BOOL, Value
from formal.walk import evaluate

COMPILER = "aarch64-linux-gnu-gcc"
OPTIONS = (
    "-std=gnu11 -O2 -w -fshort-wchar -fms-extensions -fno-strict-aliasing -mgeneral-regs-only -ffreestanding -static "
    "-nostdlib -fno-stack-protector -fno-tree-loop-distribute-patterns -ffunction-sections -fdata-sections "
    "-Wl,--gc-sections"
).split()
NOT_GCC = ("-target", "aarch64-linux-gnu", "-ferror-limit=0")
_BANKS = ("vcpu_debug_state", "external_debug_state")
_ALTERNATIVES = "asm/alternative-macros.h"
# Capabilities are off, but they are known: without the kernel's patching of itself at boot, no code would think so.
_FIRST = """
#define alternative_has_cap_likely(cap) ((cap) == ARM64_ALWAYS_BOOT || (cap) == ARM64_ALWAYS_SYSTEM)
#define alternative_has_cap_unlikely(cap) 0
"""
# What debug.c calls of other files, as it acts on what these functions find: MDSCR_EL1 is in memory, not on the CPU.
_BEFORE = """
static unsigned long long *harness_register(const char *name);
#undef has_vhe
#define has_vhe() ({vhe})
#define vcpu_read_sys_reg(v, r) ((v)->arch.ctxt.sys_regs[r])
#define vcpu_write_sys_reg(v, x, r) ((v)->arch.ctxt.sys_regs[r] = (x))
#define __kvm_get_mdcr_el2() (*harness_register("mdcr_el2"))
"""
_AFTER = r"""
static struct kvm_vcpu harness_vcpu;
static struct kvm_vcpu *const vcpu = &harness_vcpu;
static struct { const char *name; unsigned long long value; } harness_registers[] = { {registers} };
static int harness_differences;

static long harness_call(long number, long a, const void *b, long c)
{
	register long x8 asm("x8") = number, x0 asm("x0") = a, x2 asm("x2") = c;
	register const void *x1 asm("x1") = b;
	asm volatile("svc 0" : "+r"(x0) : "r"(x1), "r"(x2), "r"(x8) : "memory");
	return x0;
}

static void harness_say(const char *text)
{
	long length = 0;
	while (text[length])
		length++;
	harness_call(64, 1, text, length);
}

static void harness_say_number(unsigned long long value)
{
	char text[19] = "0x";
	for (int i = 0; i < 16; i++)
		text[2 + i] = "0123456789abcdef"[value >> (60 - 4 * i) & 15];
	text[18] = 0;
	harness_say(text);
}

static void harness_fail(const char *what, const char *name)
{
	harness_say(what);
	harness_say(name);
	harness_say("\n");
	harness_call(93, 2, 0, 0);
	for (;;)
		;
}

static unsigned long long *harness_register(const char *name)
{
	for (unsigned int i = 0; i < sizeof(harness_registers) / sizeof(harness_registers[0]); i++) {
		const char *a = harness_registers[i].name, *b = name;
		while (*a && *a == *b)
			a++, b++;
		if (*a == *b)
			return &harness_registers[i].value;
	}
	harness_fail("a register that the run does not have: ", name);
	return 0;
}

unsigned long long __lift_read_register(const char *name) { return *harness_register(name); }
void __lift_write_register(unsigned long long value, const char *name) { *harness_register(name) = value; }
unsigned long long __lift_read_encoded(unsigned int encoding, const char *name) { return *harness_register(name); }
void __lift_write_encoded(unsigned long long value, unsigned int encoding, const char *name)
{
	*harness_register(name) = value;
}
void *__lift_this_cpu_ptr(const void *pointer) { return (void *)pointer; }
void __lift_bug(void) { harness_fail("BUG", ""); for (;;); }
void __lift_bug_on(int condition) { if (condition) harness_fail("BUG_ON", ""); }
int __lift_warn_on(int condition) { return condition; }
void __lift_nothing(void) { }
int __lift_host_is_vhe(void) { return has_vhe(); }
_Bool __lift_static_key(const void *key) { return 0; }
u64 read_sanitised_ftr_reg(u32 id) { return 0; }
#undef memcpy
#undef memset
void *memcpy(void *to, const void *from, __kernel_size_t size)
{
	for (__kernel_size_t i = 0; i < size; i++)
		((volatile char *)to)[i] = ((const char *)from)[i];
	return to;
}
void *memset(void *to, int value, __kernel_size_t size)
{
	for (__kernel_size_t i = 0; i < size; i++)
		((volatile char *)to)[i] = value;
	return to;
}

static void harness_expect(const char *step, const char *name, unsigned long long got, unsigned long long expected)
{
	if (got == expected)
		return;
	harness_differences++;
	harness_say(step);
	harness_say(name);
	harness_say(" is ");
	harness_say_number(got);
	harness_say(", and the replay says ");
	harness_say_number(expected);
	harness_say("\n");
}
"""


class HarnessError(Exception):
    """The run cannot be written as a C program; the message is one line."""


@dataclass(frozen=True)
class Call:
    """One step of a run that is a function of debug.c: what it finds and what it leaves, by C expression."""

    number: int
    function: str
    found: Mapping[str, Value]
    left: Mapping[str, Value]


def calls(replay: Replay, trace: Trace, counterparts: Mapping[str, Counterpart]) -> Iterator[Call]:
    """The steps of a run that are functions of debug.c.

    Raises:
        HarnessError: if one depends on something that a program cannot set, or debug.c is that of v6.14 and later.
    """
    if replay.system.kernel.tracks_debug_owner:
        raise HarnessError("from v6.14 on the functions of debug.c run inside other steps: rerun.py writes those")
    for seen in replay.run(trace):
        c = counterparts.get(seen.step.operation) if seen.step is not None else None
        if c is not None and c.lifted.file == DEBUG_C:
            yield Call(
                seen.number, c.lifted.name, _values(replay, c, seen, seen.before), _values(replay, c, seen, seen.after)
            )


def _values(replay: Replay, c: Counterpart, seen: Seen, state: Mapping[str, Value]) -> dict[str, Value]:
    """The values of everything that the function uses, in a state before or after the step."""
    assert seen.step is not None
    opened = f"in.{c.operation.name}.C: "
    inputs = {name.removeprefix(opened): v for name, v in seen.inputs.items() if name.startswith(opened)}
    mapping = c.binding.before(c.lifted, replay.system.state((seen.step.vcpu, seen.step.cpu)))
    env = {**state, **{lvalue: False if v.sort == BOOL else 0 for lvalue, v in c.lifted.reads.items()}, **inputs}
    if other := sorted(name for name, v in inputs.items() if v and name not in c.lifted.reads):
        raise HarnessError(f"step {seen.number} depends on {other[0]}, which a program cannot set")
    shared = {lvalue: mapping[lvalue] for lvalue in c.lifted.reads if lvalue in mapping}
    unbound = {lvalue: env[lvalue] for lvalue in c.lifted.reads if lvalue not in mapping and state is seen.before}
    return {lvalue: evaluate(term, env) for lvalue, term in shared.items()} | unbound


def program(tree: KernelTree, vhe: bool, steps: Sequence[Call], title: str) -> str:
    """The program, preprocessed, to be compiled with ``OPTIONS``.

    Raises:
        HarnessError: if there is nothing to run, or no compiler, or it does not accept the tree.
    """
    if not steps:
        raise HarnessError("no step of the run is a function of debug.c")
    compiler = shutil.which(COMPILER)
    if compiler is None:
        raise HarnessError(f"--harness needs {COMPILER}")
    registers = sorted({x.removeprefix("hw.") for s in steps for x in (*s.found, *s.left) if x.startswith("hw.")})
    table = ", ".join(f'{{ "{name}", 0 }}' for name in registers) or '{ "", 0 }'
    with tempfile.TemporaryDirectory() as folder:
        overlays = {}
        for name, text in overlay_texts().items():
            path = Path(folder, name.rpartition("/")[2])
            path.write_text(text, encoding="utf-8")
            overlays[path.stem] = path
        source = Path(folder, "harness.c")
        younger = (tree.path / "arch/arm64/include" / _ALTERNATIVES).exists()
        lines = [f"#include <{_ALTERNATIVES}>", _FIRST] if younger else []
        lines += [*(f"#include <{h}>" for h in BASE_HEADERS), f'#include "{overlays["overlay_base"]}"']
        lines += [*(f"#include <{h}>" for h in KVM_HEADERS), f'#include "{overlays["overlay_kvm"]}"']
        lines += [_BEFORE.replace("{vhe}", str(int(vhe))), f'#include "{tree.path / DEBUG_C}"']
        lines += [_AFTER.replace("{registers}", table), *_steps(steps)]
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        flags = [flag for flag in tree.flags if flag not in NOT_GCC]
        command = [compiler, *flags, "-w", "-O2", "-ffreestanding", "-E", "-P", str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HarnessError(f"{COMPILER} does not accept the tree: {done.stderr.splitlines()[0]}")
    head = [
        f"/* {title}", " * Compile and run:", f" *   {COMPILER} {' '.join(OPTIONS)} -o harness THIS_FILE.c",
        " *   qemu-aarch64 ./harness", " * Contains code of the kernel tree (GPL-2.0). */",
    ]  # fmt: skip
    return "\n".join([*head, done.stdout])


def _steps(steps: Sequence[Call]) -> Iterator[str]:
    for s in steps:
        yield f"static void harness_step_{s.number}(void)\n{{\n\tmemset(vcpu, 0, sizeof(*vcpu));"
        yield from (f"\t{_lvalue(name)} = {_c_value(name, v)};" for name, v in s.found.items())
        yield f"\t((void (*)(struct kvm_vcpu *))({s.function}))(vcpu);"
        for name, v in s.left.items():
            where = f'"step {s.number}, {s.function}: ", "{name}"'
            yield f"\tharness_expect({where}, (unsigned long long)({_lvalue(name)}), {_number(name, v)});"
        yield "}"
    yield "void _start(void)\n{"
    yield from (f"\tharness_step_{s.number}();" for s in steps)
    yield f'\tif (!harness_differences)\n\t\tharness_say("{len(steps)} steps as in the replay\\n");'
    yield "\tharness_call(93, !!harness_differences, 0, 0);\n}"


def _lvalue(name: str) -> str:
    """A lifted lvalue as a C expression of the program."""
    if name.startswith("hw."):
        return f'*harness_register("{name.removeprefix("hw.")}")'
    return re.sub(r"^percpu\.", "", name)


def _c_value(name: str, value: Value) -> str:
    if name == DEBUG_PTR:
        return f"&vcpu->arch.{_BANKS[int(value)]}"  # type: ignore[arg-type]
    return f"{int(value):#x}ULL"  # type: ignore[arg-type]


def _number(name: str, value: Value) -> str:
    text = _c_value(name, value)
    return f"(unsigned long long)({text})" if name == DEBUG_PTR else text
