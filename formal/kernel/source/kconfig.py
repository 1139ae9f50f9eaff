"""The configuration of an unconfigured tree: its Kconfig files and a defconfig, read by kconfiglib.

Nothing of the tree is executed: the questions that Kconfig puts to the shell (which compiler, which linker) are
answered here, as ``make LLVM=1`` with clang 18 would. Compared with a real ``make defconfig``, only capability symbols
of the tools differ (CC_*, AS_*, LLD_*), none of them seen by KVM.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kconfiglib

from formal.kernel.errors import NotUnderstoodError, TreeError

_TOOLS = "NM AR RUSTC BINDGEN OBJCOPY HOSTCC HOSTCXX PAHOLE RUSTFMT STRIP CLANG_FLAGS CONFIG_SHELL AWK".split()


def _answer(_kconfig: object, _name: str, command: str) -> str:
    """What a shell would answer to ``$(shell,command)`` of a Kconfig file, without running one."""
    for script, answer in (("cc-version", "Clang 180101"), ("ld-version", "LLD 180101"), ("as-version", "LLVM 180101")):
        if script in command:
            return answer
    if "gcc-plugin" in command or "rust" in command:
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
    """Kconfig with canned shell answers, and the syntax that is newer than kconfiglib 14.1 rewritten on reading."""

    @property
    def _functions(self) -> dict[str, tuple[Callable[..., str], int, int]]:
        return self._known_functions

    @_functions.setter
    def _functions(self, functions: dict[str, tuple[Callable[..., str], int, int]]) -> None:
        changed: dict[str, tuple[Callable[..., str], int, int]]
        changed = {"shell": (_answer, 1, 1), "error-if": (_ignore, 2, 2), "warning-if": (_ignore, 2, 2)}
        self._known_functions = {**functions, **changed}

    def _open(self, filename: str, _mode: str) -> io.StringIO:
        text = Path(filename).read_text(encoding="utf-8", errors="replace")
        text = re.sub(r"(?m)^([ \t]+)modules$", r"\1option modules", text)
        text = re.sub(r"(?m)^[ \t]+transitional$", "", text)  # v6.18
        depends_if = r"(?m)^([ \t]+depends on )([^#\n]*[^#\s])[ \t]+if[ \t]+([^#\n]*)"  # v6.19
        return io.StringIO(re.sub(depends_if, r"\1(\2) || !(\3)", text))


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


def autoconf(tree: Path, config: Path, files: list[str] | None = None) -> str:
    """The text of ``generated/autoconf.h`` for a ``.config`` or defconfig file.

    ``files`` is given the names of the Kconfig files that were read.

    Raises:
        NotUnderstoodError: if the Kconfig files cannot be read.
        TreeError: if the configuration has no KVM.
    """
    values = {"srctree": str(tree), "ARCH": "arm64", "SRCARCH": "arm64", "KERNELVERSION": "x", "CC": "clang",
              "LD": "ld.lld", "CC_VERSION_TEXT": "clang version 18.1.1", "KCONFIG_WARN_UNDEF": "n",
              "CONFIG_": "CONFIG_", **{name: name.lower() for name in _TOOLS}}  # fmt: skip
    try:
        with _environment(values):
            kconfig: Any = _Kconfig("Kconfig", warn=False)
            kconfig.load_config(str(config))
            enabled = str(kconfig.syms["KVM"].str_value) == "y" if "KVM" in kconfig.syms else False
            text = str(kconfig._autoconf_contents(""))
            if files is not None:
                files += dict.fromkeys(map(str, kconfig.kconfig_filenames))
    except (kconfiglib.KconfigError, OSError, UnicodeDecodeError) as error:
        message = " ".join(str(error).split())
        place = re.match(r"(\S+?):(\d+): (?:error: )?(.*)", message)
        if place:
            raise NotUnderstoodError(place.group(1), int(place.group(2)), place.group(3)) from error
        raise NotUnderstoodError("Kconfig", 0, message) from error
    if not enabled:
        raise TreeError(f"{config}: the configuration has no KVM (CONFIG_KVM is not set)")
    return text
