"""Stand-ins for the headers that ``make prepare`` would generate, so that an unconfigured tree parses.

Only what the kernel's build would put there: wrappers of asm-generic headers (from the tree's Kbuild files), the
configuration, tables of registers and capabilities, version numbers. Constants that only the scheduler or the timer use
(bounds, HZ conversions) are placeholders: no KVM structure of interest depends on them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from formal.kernel.source import generated

_ASM = "arch/arm64/include/asm"
_VA_ARG = "typedef __builtin_va_list va_list;\n" + "".join(
    f"#define va_{name}({args}) __builtin_va_{name}({args})\n"
    for name, args in (("start", "v, l"), ("end", "v"), ("arg", "v, t"), ("copy", "d, s"))
)
_BOUNDS = {"NR_PAGEFLAGS": 24, "MAX_NR_ZONES": 4, "NR_CPUS_BITS": 8, "SPINLOCK_SIZE": 4, "LRU_GEN_WIDTH": 0,
           "__LRU_REFS_WIDTH": 0}  # fmt: skip


def _kbuild(path: Path, variable: str) -> list[str]:
    """The words that a Kbuild file adds to a variable."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = re.findall(rf"(?m)^{variable}\s*\+=\s*(.*)$", text.replace("\\\n", " "))
    return [word for line in lines for word in line.split()]


def _defines(values: dict[str, int]) -> str:
    return "".join(f"#define {name} {value}\n" for name, value in values.items())


def _wrappers(tree: Path) -> dict[str, str]:
    """Headers of which the architecture takes the generic form."""
    out: dict[str, str] = {}
    for sub in ("", "uapi/"):
        folder = tree / f"arch/arm64/include/{sub}asm"
        kbuild = folder / "Kbuild"
        made = {*_kbuild(kbuild, "generated-y"), *_kbuild(kbuild, "syscall-y")}
        every = [tree / f"include/{sub}asm-generic/{name}" for name in ("Kbuild", "Kbuild.asm")]  # .asm: up to v5.0
        listed = [header for file in every for header in _kbuild(file, "mandatory-y")]
        mandatory = [h for h in listed if h not in made and not (folder / h).exists()]
        for header in [*_kbuild(kbuild, "generic-y"), *mandatory]:
            out[f"arch/{sub}asm/{header}"] = f"#include <asm-generic/{header}>\n"
    return out


def _tables(tree: Path, notes: list[str] | None) -> dict[str, str]:
    """Headers that the architecture generates from tables of its own."""
    out: dict[str, str] = {}
    tools = tree / "arch/arm64/tools"
    if (tools / "gen-sysreg.awk").exists():
        out["arch/asm/sysreg-defs.h"] = generated.sysreg_defs(tools / "sysreg", notes)
    if (tools / "gen-cpucaps.awk").exists():
        separate = "cpucap-defs.h" in _kbuild(tree / _ASM / "Kbuild", "generated-y")  # v6.6
        out["arch/asm/" + ("cpucap-defs.h" if separate else "cpucaps.h")] = generated.cpucaps(tools / "cpucaps", notes)
    if (tools / "gen-kernel-hwcaps.sh").exists():  # v6.18
        hwcaps = re.findall(
            r"(?m)^#define (HWCAP(\d?)_([A-Z0-9_]+))", (tree / "arch/arm64/include/uapi/asm/hwcap.h").read_text()
        )
        lines = [f"#define KERNEL_HWCAP_{name} __khwcap{n}_feature({name})\n" for _, n, name in hwcaps]
        out["arch/asm/kernel-hwcap.h"] = "".join(lines)
    table = tools / "syscall_32.tbl"
    calls = [line.split() for line in table.read_text().splitlines()] if table.exists() else []
    numbers = {f"__NR_compat32_{c[2]}": int(c[0]) for c in calls if len(c) > 2 and c[0].isdigit()}
    out["arch/asm/unistd_compat_32.h"] = _defines(numbers)
    for name in ("asm/unistd_64.h", "uapi/asm/unistd_64.h", "asm/unistd_32.h"):
        out[f"arch/{name}"] = ""
    return out


def stand_ins(
    tree: Path, version: tuple[int, int, int], autoconf: str, notes: list[str] | None = None
) -> dict[str, str]:
    """The generated headers of a tree: path below the stand-in directory, and text.

    ``notes`` is given what of the tree's tables could not be read.
    """
    major, patchlevel, sublevel = version
    conversions = [("HZ", "MSEC"), ("MSEC", "HZ"), ("HZ", "USEC"), ("USEC", "HZ"), ("HZ", "NSEC"), ("NSEC", "HZ")]
    parts = ("MUL32", "ADJ32", "SHR32", "NUM", "DEN")
    out = {
        "gen/generated/autoconf.h": autoconf,
        "gen/generated/bounds.h": _defines(_BOUNDS),
        "gen/generated/timeconst.h": _defines({f"{a}_TO_{b}_{part}": 1 for a, b in conversions for part in parts}),
        "gen/generated/rq-offsets.h": "#define RQ_nr_pinned 0\n",  # v6.18
        "gen/generated/asm-offsets.h": "",
        "gen/generated/utsrelease.h": '#define UTS_RELEASE "0"\n',
        "gen/uapi/linux/version.h": _defines({
            "LINUX_VERSION_CODE": major << 16 | patchlevel << 8 | min(sublevel, 255),
            "LINUX_VERSION_MAJOR": major, "LINUX_VERSION_PATCHLEVEL": patchlevel, "LINUX_VERSION_SUBLEVEL": sublevel,
        }) + "#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))\n",
    }  # fmt: skip
    sizes = tree / "arch/arm64/kvm/hyp/hyp-constants.c"  # of what the hypervisor keeps for itself: any value will do
    names = (
        re.findall(r"\bDEFINE\((\w+),", sizes.read_text(encoding="utf-8", errors="replace")) if sizes.exists() else []
    )
    out["gen/hyp_constants.h"] = "".join(f"extern const unsigned long {name};\n" for name in names)
    if not (tree / "include/linux/stdarg.h").exists():  # before v5.15 the compiler's own
        out["gen/stdarg.h"] = _VA_ARG
    return {**_wrappers(tree), **_tables(tree, notes), **out}


def flags(tree: Path, stand_in: Path, own: Iterable[str]) -> list[str]:
    """The compiler's arguments for a tree, its stand-in headers and the folders that KVM's Makefiles name."""
    arch = tree / "arch/arm64/include"
    folders = [arch, stand_in / "arch", stand_in / "gen", tree / "include", arch / "uapi", stand_in / "arch/uapi",
               tree / "include/uapi", stand_in / "gen/uapi", *(tree / name for name in own), tree]  # fmt: skip
    forced = [tree / "include/linux" / name for name in ("compiler-version.h", "kconfig.h", "compiler_types.h")]
    return [
        "-target", "aarch64-linux-gnu", "-nostdinc", "-D__KERNEL__", "-std=gnu11", "-fshort-wchar", "-mlittle-endian",
        "-mgeneral-regs-only", "-fms-extensions", "-ferror-limit=0", "-fno-delete-null-pointer-checks",
        "-DKASAN_SHADOW_SCALE_SHIFT=", '-DKBUILD_MODNAME="kvm"', '-DKBUILD_BASENAME="kvm"', '-DKBUILD_MODFILE="kvm"',
        '-DARM64_ASM_ARCH="armv8.5-a"',
        *(word for folder in folders for word in ("-I", str(folder))),
        *(word for header in forced if header.exists() for word in ("-include", str(header))),
    ]  # fmt: skip
