"""The configuration of an unconfigured tree: its Kconfig files and a defconfig, read by kconfiglib.

Nothing of the tree is executed: the questions that Kconfig puts to the shell (which compiler, which linker) are
answered here, as ``make LLVM=1`` with clang 18 would. Compared with a real ``make defconfig``, only capability symbols
of the tools differ (CC_*, AS_*, LLD_*), none of them seen by KVM.
"""

from __future__ import annotations

import glob
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kconfiglib

from formal.kernel.errors import TreeError

_SOURCES = re.compile(r'(?m)^[ \t]*source[ \t]+"?((?<=")[^"\n]+|[^"\s]*Kconfig[^"\s]*)"?[ \t]*(?:#[^\n]*)?$')
_ROOT = (
    "init/Kconfig",
    "kernel/Kconfig.freezer",
    "fs/Kconfig.binfmt",
    "mm/Kconfig",
    "net/Kconfig",
    "drivers/Kconfig",
    "fs/Kconfig",
    "security/Kconfig",
    "crypto/Kconfig",
    "lib/Kconfig",
    "lib/Kconfig.debug",
    "arch/arm64/Kconfig",
)
_MOST_SKIPPED = 20  # lines that are left out before the files are given up
_TOOLS = "NM AR RUSTC BINDGEN OBJCOPY HOSTCC HOSTCXX PAHOLE RUSTFMT STRIP CLANG_FLAGS CONFIG_SHELL AWK".split()


_VERSIONS = (  # scripts, the first that is called, and what they print
    ("gcc-version", "0"), ("clang-version", "180101"), ("cc-version", "Clang 180101"), ("ld-version", "LLD 180101"),
    ("as-version", "LLVM 180101"),
)  # fmt: skip


def _answer(_kconfig: object, _name: str, command: str) -> str:
    """What a shell would answer to ``$(shell,command)`` of a Kconfig file, without running one."""
    for script, answer in _VERSIONS:
        if script in command:
            return answer
    if "gcc-plugin" in command or "grep -q gcc" in command or "rust" in command:
        return "n"
    if chosen := re.search(r"set -- (.*) && echo \$(\d)", command):
        return chosen.group(1).split()[int(chosen.group(2)) - 1]
    if command.rstrip().endswith('|| echo "n"'):
        compared = re.search(r'(?:test|\[) "?([\w.]+)"? = "?([\w.]+)"?', command)
        return "n" if compared and compared.group(1) != compared.group(2) else "y"
    return "0"


def _ignore(*_: object) -> str:
    return ""


class _Kconfig(kconfiglib.Kconfig):  # type: ignore[misc]  # kconfiglib has no types
    """Kconfig with canned shell answers, and the syntax that is newer than kconfiglib 14.1 rewritten on reading.

    Args:
        tree: the root of the tree.
        skipped: lines that are left out, by file and number.
        missing: is given the patterns of Kconfig files that the tree does not have.
    """

    def __init__(self, tree: Path, skipped: set[tuple[str, int]], missing: dict[str, None]) -> None:
        self._tree, self._skipped, self._missing = tree, skipped, missing
        super().__init__("Kconfig", warn=False)

    @property
    def _functions(self) -> dict[str, tuple[Callable[..., str], int, int]]:
        return self._known_functions

    @_functions.setter
    def _functions(self, functions: dict[str, tuple[Callable[..., str], int, int]]) -> None:
        changed: dict[str, tuple[Callable[..., str], int, int]]
        changed = {"shell": (_answer, 1, 1), "error-if": (_ignore, 2, 2), "warning-if": (_ignore, 2, 2)}
        self._known_functions = {**functions, **changed}

    def _open(self, filename: str, _mode: str) -> io.StringIO:
        path = Path(filename)
        if path == self._tree / "Kconfig" and not path.is_file():
            text = f'mainmenu "Linux"\n{"".join(f"source {name}{chr(10)}" for name in _ROOT)}'
        else:
            text = path.read_text(encoding="utf-8", errors="replace")
        lines = text.split("\n")
        name = str(path).removeprefix(f"{self._tree}/")
        for number in (n for file, n in self._skipped if file == name):
            lines[number - 1] = ""
        text = _SOURCES.sub(self._present, "\n".join(lines))
        text = re.sub(r"(?m)^([ \t]+)modules$", r"\1option modules", text)
        text = re.sub(r"(?m)^[ \t]+transitional$", "", text)  # v6.18
        depends_if = r"(?m)^([ \t]+depends on )([^#\n]*[^#\s])[ \t]+if[ \t]+([^#\n]*)"  # v6.19
        return io.StringIO(re.sub(depends_if, r"\1(\2) || !(\3)", text))

    def _present(self, source: re.Match[str]) -> str:
        """A line that includes another file, or nothing if the tree has none."""
        pattern = re.sub(r"\$\(?(?:SRC)?ARCH\)?", "arm64", source[1])
        if "$" in pattern or (self._tree / pattern).exists() or any(glob.iglob(str(self._tree / pattern))):
            return source[0]
        self._missing[pattern] = None
        return ""


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """The process environment with ``values`` set, as before afterwards (kconfiglib reads nothing else)."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def autoconf(
    tree: Path,
    config: Path,
    files: list[str] | None = None,
    notes: list[str] | None = None,
    *,
    forced: bool = False,
) -> str:
    """The text of ``generated/autoconf.h`` for a ``.config`` or defconfig file.

    Args:
        tree: the root of the tree.
        config: the configuration.
        files: is given the names of the Kconfig files that were read.
        notes: is given what could not be read.
        forced: whether KVM is switched on if the configuration does not.

    Raises:
        TreeError: if the configuration has no KVM.
    """
    values = {"srctree": str(tree), "ARCH": "arm64", "SRCARCH": "arm64", "KERNELVERSION": "x", "CC": "clang",
              "LD": "ld.lld", "CC_VERSION_TEXT": "clang version 18.1.1", "KCONFIG_WARN_UNDEF": "n",
              "CONFIG_": "CONFIG_", **{name: name.lower() for name in _TOOLS}}  # fmt: skip
    notes = notes if notes is not None else []
    missing: dict[str, None] = {}
    with _environment(values):
        kconfig = _read(tree, missing, notes)
        if kconfig is None:
            return _plain(tree, config)
        kconfig.load_config(str(config))
        kvm = kconfig.syms.get("KVM")
        if forced and kvm is not None and kvm.str_value != "y":
            for name in ("VIRTUALIZATION", "KVM"):
                kconfig.syms[name].set_value("y")
            notes.append(f"{config}: the configuration has no KVM; it is switched on")
        text = str(kconfig._autoconf_contents(""))
    if files is not None:
        files += dict.fromkeys(map(str, kconfig.kconfig_filenames))
    if missing:
        shown = ", ".join(list(missing)[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        notes.append(f"Kconfig: {shown} missing: their options are taken as not set")
    if kvm is None or kvm.str_value != "y":
        raise TreeError(f"{config}: the configuration has no KVM (CONFIG_KVM is not set)")
    return text


def _read(tree: Path, missing: dict[str, None], notes: list[str]) -> Any:
    """The Kconfig files of a tree without the lines that are not understood; ``None`` if nothing comes of it."""
    skipped: set[tuple[str, int]] = set()
    while True:
        missing.clear()
        try:
            return _Kconfig(tree, skipped, missing)
        except (kconfiglib.KconfigError, OSError, UnicodeDecodeError) as error:
            message = " ".join(str(error).split())
            place = re.match(r"(\S+?):(\d+): (?:error: )?(.*)", message)
            again = place is not None and (place[1], int(place[2])) not in skipped and len(skipped) < _MOST_SKIPPED
            if place is None or not again:
                notes.append(f"Kconfig: {message[:200]}: only what the configuration itself says is taken")
                return None
            skipped.add((place[1], int(place[2])))
            notes.append(f"{place[1]}:{place[2]}: {place[3][:200]}: the line is left out")


def _plain(tree: Path, config: Path) -> str:
    """What a configuration says by itself, with what arm64 always selects."""
    arch = (tree / "arch/arm64/Kconfig").read_text(encoding="utf-8", errors="replace")
    own = re.search(r"(?ms)^config ARM64\n(.*?)^config ", arch)
    always = ["ARM64", "64BIT", "MMU", "SMP", "VIRTUALIZATION", "KVM"]
    always += re.findall(r"(?m)^[ \t]+select (\w+)[ \t]*$", own[1] if own else "")
    text = config.read_text(encoding="utf-8", errors="replace")
    said = dict(re.findall(r"(?m)^CONFIG_(\w+)=(.*)$", text))
    found = {**dict.fromkeys(always, "y"), **said}
    lines = (
        f"#define CONFIG_{name}{'_MODULE' if v == 'm' else ''} {1 if v in 'ym' else v}\n" for name, v in found.items()
    )
    return "".join(lines)
