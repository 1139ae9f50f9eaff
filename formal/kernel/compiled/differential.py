"""Compiled functions of a kernel tree against their lifted terms, on many states, bit by bit.

    bench = Bench(program, tree, subjects(program, tree, Mode.VHE), folder)
    for driver in bench.drivers:
        bench.compare(driver, 1000)        # how many states, and what differs on them; nothing should

The program is the tree's own C with the replacements for assembly that the lifter reads (``overlay_base.h``), here as
accesses to variables, compiled for aarch64 and run under ``qemu-aarch64``. For each function a driver sets what the
lifted function reads, calls it, and gives what it left: stores, result, whether BUG or a warning was reached, and
whether anything else in memory changed. No solver takes part.
"""

from __future__ import annotations

import random
import re
import shutil
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from formal.common.lifetime import run
from formal.epochs import Mode
from formal.kernel.compiled.assembly import without_assembly
from formal.kernel.compiled.compiler import COMPILER, NOT_GCC, OPTIONS, HarnessError
from formal.kernel.compiled.drivers import Cell, Driver, Subject, hides, symbol
from formal.kernel.compiled.replacements import AFTER_HEADERS, ANSWERS, CAPABILITIES, HAS, KEYS, NESTED_GUEST, STUBS
from formal.kernel.lift.calls import INJECTED, OUTLINE
from formal.kernel.lift.pointers import OUTLINED, POINTERS
from formal.kernel.lift.program import Program
from formal.kernel.parse.preamble import BASE_HEADERS, KVM_HEADERS, hyp_flags, overlay_texts
from formal.kernel.parse.resolve import HOST, HYP, NESTED
from formal.kernel.source.tree import KVM, KernelTree
from formal.logic import terms as t
from formal.logic.compiled import straight
from formal.logic.evaluation import nodes
from formal.logic.terms import BOOL

QEMU = "qemu-aarch64"
STOPPED = 2  # what a driver says instead of "reaches BUG" for assembly number 0
_LINKING = ("-O", "-static", "-nostdlib", "-Wl,")


class States:
    """Random and boundary values for the inputs of a driver, always the same for a seed."""

    def __init__(self, driver: Driver, seed: int) -> None:
        self.random = random.Random(f"{driver.subject.name} {seed}")
        self.pools = [self._pool(driver, c) for c in driver.inputs]
        self.widths = [c.width for c in driver.inputs]

    def _pool(self, driver: Driver, cell: Cell) -> list[int]:
        """Boundary values of a width, and the constants that the terms compare and combine the variable with."""
        if cell.name in POINTERS:
            return [0, 1, 2]
        n = cell.sort
        if n == BOOL:
            return [0, 1]
        ones = (1 << n) - 1
        found = {
            0,
            1,
            2,
            3,
            4,
            5,
            15,
            16,
            17,
            ones,
            ones - 1,
            ones >> 1,
            (ones >> 1) + 1,
            0xFFFF_FFFF,
            0x1_0000_0000,
            0x1F,
            0x20,
        }
        found |= {1 << i for i in range(n)} if n <= 16 else {1 << i for i in (7, 8, 15, 16, 31, 32) if i < n}
        for node in nodes(tuple(driver.terms)):
            below = [a for a in node.args if a.op == "const"]
            if below and isinstance(node.sort, int):
                shift = [t.bounds(a)[1] for a in node.args if a.op == "extract"]
                for a in below:
                    if a.sort:
                        value = t.value_of(a)
                        found |= {value, ~value, value << (shift[0] if shift else 0), value | value >> 1}
        return sorted({value & ones for value in found})

    def one(self) -> list[int]:
        """A state: a value for each input."""
        chosen = []
        r = self.random
        for pool, n in zip(self.pools, self.widths, strict=True):
            kind = r.random()
            if kind < 0.45 or n <= 2:
                value = r.choice(pool)
            elif kind < 0.6:
                value = 1 << r.randrange(n)
            elif kind < 0.7:
                value = r.choice(pool) ^ r.choice(pool)
            else:
                value = r.getrandbits(n)
            chosen.append(value & ((1 << n) - 1))
        return chosen


@dataclass
class Difference:
    """A state on which the compiled function did something else."""

    subject: str
    what: str
    compiled: int
    lifted: int
    state: dict[str, int]

    def __str__(self) -> str:
        return f"{self.subject}: {self.what} is {self.compiled:#x} compiled and {self.lifted:#x} lifted"


class Bench:
    """Compiled programs of a tree, one for each mode.

    The compiled code has no assembly but base instructions (``assembly.py``). Where a function gets to other assembly,
    it is not compared; ``not_compared`` says which functions, and the assembly.
    """

    def __init__(self, program: Program, tree: KernelTree, chosen: Sequence[Subject], folder: Path) -> None:
        self.tree, self.folder, self.program = tree, folder, program
        if shutil.which(COMPILER) is None:
            raise HarnessError(f"running compiled functions needs {COMPILER}")
        self.drivers = [Driver(s, program, n) for n, s in enumerate(chosen)]
        self._objects: dict[str, Path] = {}
        self.assembly: list[str] = []  # that ends a function, by its number
        self.not_compared: dict[str, set[str]] = {}  # assembly that functions got to: not compared on such a state
        for name, text in overlay_texts().items():
            (folder / name.rpartition("/")[2]).write_text(text, encoding="utf-8")
        for name in ("differential.h", "differential.c"):
            text = resources.files("formal.kernel.compiled").joinpath(name).read_text(encoding="utf-8")
            (folder / name).write_text(text, encoding="utf-8")
        if program.nests:
            self._copy_headers()
        self.binaries = {mode: self._link(mode) for mode in dict.fromkeys(s.mode for s in chosen)}

    # ---- building

    def _hyp(self, file: str, mode: Mode) -> bool:
        return file in HYP[mode.value]

    def _run(self, *command: str) -> None:
        done = run([COMPILER, *command], capture_output=True, text=True, check=False, cwd=self.folder)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line or "undefined" in line]
            raise HarnessError(f"{COMPILER}: {(errors or done.stderr.splitlines() or ['failed'])[0]}")

    def _flags(self, hyp: Mode | None) -> list[str]:
        more = hyp_flags(self.tree, hyp.value) if hyp is not None else ()
        kept = [flag for flag in (*self.tree.flags, *more) if flag not in NOT_GCC]
        ours = (o for o in OPTIONS if not o.startswith(_LINKING))
        return [f"-I{self.folder / 'include'}", *kept, *ours, "-O1", "-fno-pie"]

    def _copy_headers(self) -> None:
        """Headers with ``ANSWERS``, found before the tree's own."""
        texts: dict[str, str] = {}
        for (header, function), answer in ANSWERS.items():
            text = texts.get(header) or self.tree.read(f"arch/arm64/include/{header}")
            first = rf"(?m)^(static (?:__always_)?inline bool {function}\([^)]*\)\n{{\n)"
            given = f"\textern unsigned long long harness_guest[2];\n\treturn {answer};\n"
            texts[header], found = re.subn(first, lambda m, given=given: m[1] + given, text)  # type: ignore[misc]
            if found != 1:
                raise HarnessError(f"{header}: {function}() is not defined as known")
        for header, text in texts.items():
            file = self.folder / "include" / header
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")

    def _headers(self, hyp: Mode | None) -> str:
        """The headers of a compilation; returns the name to include."""
        name = f"headers_{hyp.value if hyp else 'host'}.h"
        if not (self.folder / name).exists():
            younger = (self.tree.path / "arch/arm64/include/asm/alternative-macros.h").exists()
            lines = ["#include <asm/alternative-macros.h>", HAS, CAPABILITIES] if younger else []
            lines += [KEYS, *(f"#include <{h}>" for h in BASE_HEADERS), f'#include "{self.folder}/overlay_base.h"']
            lines += [f'#include "{self.folder}/differential.h"', *(f"#include <{h}>" for h in KVM_HEADERS)]
            lines += [f'#include "{self.folder}/overlay_kvm.h"', AFTER_HEADERS]
            lines += [NESTED_GUEST] if self.program.nests else []
            (self.folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return name

    def _object(self, file: str, hyp: Mode | None) -> Path:
        """A file of the tree with the drivers of its functions, compiled."""
        key = f"{hyp.value if hyp else 'host'}_{re.sub(r'[^a-z]+', '_', file.removeprefix(KVM))}"
        if key not in self._objects:
            here = [d for d in self.drivers if d.subject.unit == file and (hyp is None or d.subject.mode == hyp)]
            lines = [
                f'#include "{self._headers(hyp)}"',
                f'#include "{self.tree.path / file}"',
                *self._support(file, here),
            ]
            for driver in here:
                lines += driver.text()
            lines += self._parts(file, hyp)
            source = self.folder / f"{key}.c"
            source.write_text("\n".join(lines) + "\n", encoding="utf-8")
            self._objects[key] = source.with_suffix(".o")
            self._run(*self._flags(hyp), "-c", self._preprocessed(key, hyp), "-o", f"{key}.o")
        return self._objects[key]

    def _preprocessed(self, key: str, hyp: Mode | None) -> str:
        """A file with its drivers, without any other file and without assembly that not every machine has."""
        source, output = f"{key}.c", self.folder / f"{key}.i"
        paths = [f"-fmacro-prefix-map={self.tree.path}/=", f"-fmacro-prefix-map={self.folder}/="]
        self._run(*self._flags(hyp), *paths, "-E", "-P", source, "-o", output.name)
        text = output.read_text(encoding="utf-8")
        output.write_text(without_assembly(text, self.assembly), encoding="utf-8")
        return output.name

    def _outlined(self, mode: Mode) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The functions that the lifter takes as nothing but these parts of them."""
        if any(OUTLINE in d.lifted.notes for d in self.drivers if d.subject.mode == mode):
            yield from ((name, parts[mode.value]) for name, parts in OUTLINED.items())  # type: ignore[index]

    def _parts(self, file: str, hyp: Mode | None) -> Iterator[str]:
        """For other files: static variables of this one, and the parts that functions are taken for, static or not."""
        names = {c.name for d in self.drivers for c in d.observed if f"harness_value_{c.name}" in c.get}
        for name in sorted(n for n in names if hyp is None and hides(self.program, file, n)):
            yield f"word harness_value_{name}(void) {{ return HARNESS_GET({name}); }}"
        for mode in (hyp,) if hyp is not None else dict.fromkeys(d.subject.mode for d in self.drivers):
            for name in dict.fromkeys(part for _, parts in self._outlined(mode) for part in parts):
                if name in self.program.functions(file):
                    yield f"void harness_{mode.value}_{name}(struct kvm_vcpu *vcpu) {{ {name}(vcpu); }}"

    def _stubs(self, mode: Mode) -> str:
        """Functions that are not the tree's: what the lifter takes by its name, and what it takes for its parts."""
        lines = [STUBS.replace("{injected}", INJECTED.removeprefix("hw."))]
        for name, parts in self._outlined(mode):
            lines += [f"void harness_{mode.value}_{part}(void *vcpu);" for part in parts]
            called = " ".join(f"harness_{mode.value}_{part}(vcpu);" for part in parts)
            lines.append(f"void {name}(void *vcpu) {{ {called} }}")
        file = f"known_{mode.value}.c"
        (self.folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return file

    def _support(self, file: str, drivers: Sequence[Driver]) -> Iterator[str]:
        """What drivers and file need besides: variables of other files, static keys."""
        text = self.tree.read(file)
        shared = "__typeof__({0}) {0};"  # linked with -z muldefs
        yield shared.format("harness_vcpu")
        yield shared.format("harness_vm")
        yield "static word harness_elsewhere[1024];"
        used = {name for d in drivers for name in (*d.lifted.reads, *(c.name for c in d.inputs))}
        per_cpu = {m[1] for name in used if (m := re.match(r"percpu\.(\w+)", name))}
        for name in sorted(per_cpu):
            if not re.search(rf"DEFINE_PER_CPU\w*\([^;]*\b{name}\)", text):
                yield shared.format(name)
        keys = sorted(
            {c.name.removeprefix("key.") for d in self.drivers for c in d.inputs if c.name.startswith("key.")}
        )
        yield from (f"word harness_key_{name};" for name in keys)
        yield "static bool harness_key(const void *key)\n{"
        yield from (f"\tif (key == {symbol(name)})\n\t\treturn harness_key_{name};" for name in keys)
        header = self.tree.read("arch/arm64/include/asm/cpufeature.h")
        if "cpu_hwcap_keys" in header:
            yield "\tif (key == &arm64_const_caps_ready)\n\t\treturn true;"
            yield "\tfor (int i = 0; i < ARM64_NCAPS; i++)\n\t\tif (key == &cpu_hwcap_keys[i])"
            yield "\t\t\treturn harness_capability[i];"
        yield "\treturn false;\n}"
        if "cpu_hwcap_keys" in header:
            yield f"{shared.format('arm64_const_caps_ready')}\n{shared.format('cpu_hwcap_keys')}"

    def _registers(self, drivers: Sequence[Driver]) -> Iterator[str]:
        used = {n for d in drivers for n in (*d.lifted.reads, *d.lifted.writes)}
        names = sorted(n.removeprefix("hw.") for n in used if n.startswith("hw."))
        known: dict[int, str] = {}
        for name in names:
            encoding = self.program.registers.encoding(name)
            if encoding is not None and encoding in known:
                raise HarnessError(f"{name} and {known[encoding]} are one register")
            if encoding is not None:
                known[encoding] = name
            yield f'\t{{ "{name}", {encoding if encoding is not None else -1}ULL }},'

    def _called(self, drivers: Sequence[Driver]) -> list[str]:
        """The host's files in which functions were lifted."""
        used = {name for d in drivers for name in d.lifted.functions}
        ours = [file for file in self.program.resolver.parsed if file in (*HOST, *NESTED)]
        return [file for file in ours if not used.isdisjoint(self.program.functions(file))]

    def _link(self, mode: Mode) -> Path:
        mine = [d for d in self.drivers if d.subject.mode == mode]
        files = dict.fromkeys([*self._called(mine), *(d.subject.unit for d in mine)])
        files |= dict.fromkeys(f for f in HYP[mode.value] if (self.tree.path / f).exists())
        objects = [self._object(file, mode if self._hyp(file, mode) else None) for file in files]
        main = (self.folder / "differential.c").read_text(encoding="utf-8")
        top, rest = main.split("static long harness_call", 1)
        tables = ["struct harness_register harness_registers[] = {", *self._registers(mine), "\t{ 0 }\n};"]
        tables += [f"void harness_drive_{d.number}(const word *in, word *out);" for d in mine]
        tables += ["static void (*const harness_functions[])(const word *, word *) = {"]
        tables += [f"\t[{d.number}] = harness_drive_{d.number}," for d in mine] + ["};"]
        tables += ["static const unsigned harness_widths[][2] = {"]
        tables += [f"\t[{d.number}] = {{ {d.width[0]}, {d.width[1]} }}," for d in mine] + ["};\n"]
        (self.folder / f"main_{mode.value}.c").write_text(f"{top}{chr(10).join(tables)}static long harness_call{rest}")
        binary = self.folder / f"bench_{mode.value}"
        options = [*OPTIONS, "-fno-pie", "-no-pie", "-Wl,-z,muldefs"]
        command = [*options, f"main_{mode.value}.c", self._stubs(mode), *(o.name for o in objects)]
        missing = self._missing([*command, "-Wl,--warn-unresolved-symbols", "-o", binary.name])
        if missing:  # called where the lifted function says that it is not: then the program ends
            stubs = self.folder / f"stubs_{mode.value}.c"
            lines = [f'void {name}(void) {{ harness_fail("called: ", "{name}"); }}' for name in missing]
            stubs.write_text("\n".join(["void harness_fail(const char *what, const char *name);", *lines, ""]))
            self._run(*command, stubs.name, "-o", binary.name)
        return binary

    def _missing(self, command: Sequence[str]) -> list[str]:
        """The symbols that a link does not find."""
        done = run([COMPILER, *command], capture_output=True, text=True, check=False, cwd=self.folder)
        if done.returncode:
            raise HarnessError(f"{COMPILER}: {(done.stderr.splitlines() or ['failed'])[0]}")
        return sorted(set(re.findall(r"undefined reference to `(\w+)'", done.stderr)))

    # ---- running

    def run(self, driver: Driver, states: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        """What the compiled function leaves, for each state.

        Raises:
            HarnessError: if the program does not end as it should.
        """
        mode = driver.subject.mode
        head = struct.pack("<3Q", driver.number, len(states), int(mode is Mode.VHE))
        data = b"".join(struct.pack(f"<{driver.width[0]}Q", *state) for state in states)
        done = run([QEMU, str(self.binaries[mode])], input=head + data, capture_output=True, check=False)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise HarnessError(
                f"{driver.subject.name}: exit code {done.returncode}: {said[-1] if said else 'no message'}"
            )
        return list(struct.iter_unpack(f"<{driver.width[1]}Q", done.stdout))

    def compare(self, driver: Driver, count: int, seed: int = 0) -> tuple[int, list[Difference]]:
        """Runs a function on ``count`` states, or as many of them as it is defined on.

        Returns:
            On how many it was compared, and what differs. States on which it gets to assembly without a stand-in do
            not count.
        """
        states = States(driver, seed)
        names = [c.name for c in driver.inputs]
        guess = straight([driver.undefined], [*names, *(c.name for c in driver.observed)])
        chosen: list[list[int]] = []
        blank = [0] * len(driver.observed)
        for _ in range(64 * count):
            if len(chosen) == count:
                break
            state = states.one()
            if not guess([*state, *blank])[0]:
                chosen.append(state)
        done, differences = 0, []
        for state, got in zip(chosen, self.run(driver, chosen), strict=True):
            if (stopped := self.stopped(driver, got)) is not None:
                self.not_compared.setdefault(driver.subject.name, set()).add(stopped)
                continue
            done += 1
            differences += differing(driver, state, got)
        return done, differences

    def stopped(self, driver: Driver, got: Sequence[int]) -> str | None:
        """The assembly without a stand-in that a compiled function got to; ``None`` if there was none."""
        number = got[len(driver.observed)] - STOPPED
        return self.assembly[number] if number >= 0 else None


def differing(driver: Driver, state: Sequence[int], got: Sequence[int]) -> list[Difference]:
    """What a compiled function left that its lifted terms do not say."""
    seen = len(driver.observed)
    undefined, bugs, warns, *wanted = driver.evaluate([*state, *got[:seen]])
    bug, warned, other, *left = got[seen:]
    what = [("reaches BUG", bug, bugs)]
    if not bug and not bugs:
        what += [("reaches a warning", warned, warns), ("words of memory changed besides", other, 0)]
        rows = zip(driver.labels, left, wanted, driver.masks, strict=True)
        what += [(label, a & mask, b) for label, a, b, mask in rows]
    named = dict(zip([c.name for c in driver.inputs], state, strict=True))
    return [Difference(driver.subject.name, text, a, b, named) for text, a, b in what if a != b and not undefined]
