"""What is not a kernel tree is refused in one line; the tables of the build are read as its own scripts read them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from formal.common.processes import Beside
from formal.kernel.errors import NotDefinedError, NotUnderstoodError, TreeError
from formal.kernel.lift.program import Program
from formal.kernel.source import generated, headers
from formal.kernel.source.tree import KVM, KernelTree
from formal.tree import reading
from formal.tree.reading import prepare, source
from tests.kernel.conftest import tree_path
from tests.kernel.mutants import linked_copy

MAKEFILE = "VERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 9\n"


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(TreeError, match="no such directory"):
        KernelTree(tmp_path / "nowhere")


def test_a_file_is_no_tree(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TreeError, match="not a directory"):
        KernelTree(tmp_path / "file")


@pytest.mark.parametrize("makefile", ["", "all:\n", "VERSION = 6\n"])
def test_a_directory_that_is_no_kernel(tmp_path: Path, makefile: str) -> None:
    (tmp_path / "Makefile").write_text(makefile)
    with pytest.raises(TreeError, match="not a Linux source tree"):
        KernelTree(tmp_path)


def test_a_tree_without_kvm(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(MAKEFILE)
    (tmp_path / "arch").mkdir()
    with pytest.raises(NotUnderstoodError, match=r"^arch/arm64/kvm: missing from the tree$"):
        KernelTree(tmp_path)


def test_what_is_missing_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TreeError, match="a submodule that is not checked out"):
        KernelTree(tmp_path)
    pointer = linked_copy(tree_path("6.1"), tmp_path, f"{KVM}/sys_regs.c")
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(NotUnderstoodError, match=r"sys_regs.c: is a pointer .* run: git lfs pull"):
        KernelTree(tmp_path)
    pointer.unlink()
    (tmp_path / ".git/info").mkdir(parents=True)
    (tmp_path / ".git/info/sparse-checkout").write_text("/*\n")
    with pytest.raises(NotUnderstoodError, match=r"sys_regs.c: missing .* sparse checkout; run: git sparse-checkout"):
        KernelTree(tmp_path)


def test_an_empty_sublevel(tmp_path: Path) -> None:
    linked_copy(tree_path("6.1"), tmp_path, "Makefile").write_text(
        "VERSION = 5\nPATCHLEVEL = 17\nSUBLEVEL =\nEXTRAVERSION =\nNAME = Longhorn\n"
    )
    assert KernelTree(tmp_path).release == "5.17.0"


def test_a_configuration_is_found_without_a_defconfig_and_kvm_is_switched_on(tmp_path: Path) -> None:
    configs = linked_copy(tree_path("6.1"), tmp_path, "arch/arm64/configs/defconfig").parent
    (configs / "defconfig").unlink()
    (configs / "gki_defconfig").write_text("CONFIG_PREEMPT=y\n# CONFIG_VIRTUALIZATION is not set\n")
    tree = KernelTree(tmp_path)
    assert tree.config_name == "arch/arm64/configs/gki_defconfig"
    assert {"#define CONFIG_KVM 1", "#define CONFIG_PREEMPT 1"} <= set(tree.autoconf.splitlines())
    assert ["has no KVM; it is switched on" in note for note in tree.notes] == [True]
    for path in configs.iterdir():
        path.unlink()
    tree = KernelTree(tmp_path)
    assert "#define CONFIG_KVM 1" in tree.autoconf
    assert "has no defconfig" in tree.notes[0]


def test_kconfig_files_that_are_missing_or_not_understood_cost_their_options_only(tmp_path: Path) -> None:
    kconfig = linked_copy(tree_path("6.1"), tmp_path, "drivers/Kconfig")
    kconfig.write_text('source "vendor/none/Kconfig"\nconfig OWN\n\tdef_bool y\n\tno such thing\n\n')
    tree = KernelTree(tmp_path)
    assert {"#define CONFIG_KVM 1", "#define CONFIG_OWN 1"} <= set(tree.autoconf.splitlines())
    assert re.search(r"drivers/Kconfig:4: .*: the line is left out", tree.notes[0])
    assert "Kconfig: vendor/none/Kconfig missing" in tree.notes[1]


def test_the_compiler_is_clang_however_a_release_asks(tmp_path: Path) -> None:
    """Up to v5.9 each compiler has a script; a number that is none would stop the preprocessor."""
    kconfig = linked_copy(tree_path("6.1"), tmp_path, "drivers/Kconfig")
    asks = "".join(f"config OWN_{name.upper()}\n\tdef_bool $(success,$(CC) --version | head -n 1 | grep -q {name})\n\n"
                   f"config OWN_{name.upper()}_VERSION\n\tint\n\tdefault $(shell,$(srctree)/scripts/{name}-version.sh"
                   " $(CC))\n\n" for name in ("gcc", "clang"))  # fmt: skip
    kconfig.write_text(asks + kconfig.read_text())
    lines = [line for line in KernelTree(tmp_path).autoconf.splitlines() if line.startswith("#define CONFIG_OWN_")]
    assert sorted(lines) == [
        f"#define CONFIG_OWN_{text}" for text in ("CLANG 1", "CLANG_VERSION 180101", "GCC_VERSION 0")
    ]


@pytest.mark.parametrize("name", ["Kbuild", "Kbuild.asm"])
def test_headers_that_each_architecture_must_have_are_the_generic_ones(tmp_path: Path, name: str) -> None:
    """Up to v5.0 the list for user space is in a file of its own."""
    own, generic = tmp_path / "arch/arm64/include/uapi/asm", tmp_path / "include/uapi/asm-generic"
    for folder in (own, generic):
        folder.mkdir(parents=True)
    (own / "fcntl.h").write_text("")
    (own / "Kbuild").write_text("generic-y += kvm_para.h\n")
    (generic / name).write_text("mandatory-y += fcntl.h\nmandatory-y += types.h\n")
    assert sorted(headers._wrappers(tmp_path)) == ["arch/uapi/asm/kvm_para.h", "arch/uapi/asm/types.h"]


def test_a_tree_without_debug_c(tmp_path: Path) -> None:
    linked_copy(tree_path("6.1"), tmp_path, f"{KVM}/debug.c").unlink()
    with pytest.raises(NotUnderstoodError, match=r"arch/arm64/kvm/debug.c: missing from the tree"):
        KernelTree(tmp_path)


def test_a_world_switch_in_assembler(tmp_path: Path) -> None:
    """As up to v4.5."""
    linked_copy(tree_path("6.1"), tmp_path, f"{KVM}/debug.c")
    (tmp_path / KVM / "hyp").unlink()
    (tmp_path / KVM / "hyp.S").write_text("")
    with pytest.raises(NotUnderstoodError, match=r"^arch/arm64/kvm/hyp.S: the world switch is assembler"):
        KernelTree(tmp_path)


def test_what_is_prepared_is_not_done_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a process beside this one or here; and what is not understood is kept for where it is asked for."""
    good, bad = KernelTree(tree_path("6.1")), linked_copy(tree_path("6.1"), tmp_path, f"{KVM}/psci.c")
    bad.write_text(bad.read_text() + "\nvoid new(struct kvm_vcpu *vcpu)\n{\n\tvcpu->arch.mdcr_el2 = 0;\n}\n")
    for fork in (False, True):
        trees = [good, KernelTree(tmp_path)]
        prepare(trees, fork=fork)
        assert reading._certain(trees[0].searched or ()) == ()
        (gap,) = reading._certain(trees[1].searched or ())
        assert re.search(r"psci.c:\d+: mdcr_el2 may be written .* in new\(\)", str(gap))
        assert gap.of == {"new"} and gap.writes == {"mdcr_el2"}
        good.searched = None
    good.searched = ()
    for name in ("formal.kernel.recognition.scan.check", "formal.kernel.source.kconfig.autoconf"):
        monkeypatch.setattr(name, lambda *_: pytest.fail("done again"))
    source(good)


def test_a_configuration_that_is_missing_or_has_no_kvm(tmp_path: Path) -> None:
    tree = tree_path("6.1")
    with pytest.raises(TreeError, match="no such configuration file"):
        KernelTree(tree, tmp_path / ".config")
    (tmp_path / ".config").write_text("# CONFIG_VIRTUALIZATION is not set\n")
    with pytest.raises(TreeError, match="has no KVM"):
        KernelTree(tree, tmp_path / ".config").autoconf  # noqa: B018


def test_release_and_configuration(program: Program) -> None:
    tree = program.tree
    assert isinstance(tree, KernelTree)
    assert tree.release.split(".")[0] in ("5", "6")
    assert "#define CONFIG_KVM 1" in tree.autoconf
    assert not list(tree.path.glob("include/generated"))


def test_register_table() -> None:
    text = generated_sysreg(
        "Sysreg X_EL1 3 0 1 2 3\nRes0 63:4\nUnsignedEnum 3:2 MODE\n0b00 OFF\n0b01 ON\nEndEnum\n"
        "Field 1 A\nRes1 0\nEndSysreg\n"
    )
    assert "#define SYS_X_EL1 sys_reg(3, 0, 1, 2, 3)" in text
    assert "#define X_EL1_MODE_ON UL(0b01)" in text
    assert "#define X_EL1_MODE_SIGNED false" in text
    assert "#define X_EL1_A GENMASK(1, 1)" in text
    assert "#define X_EL1_RES1 (UL(0) | GENMASK_ULL(0, 0))" in text


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("Field 62 A\nRes0 61:0\nEndSysreg\n", r"sysreg:2: .* bits 62 of X where bit 63 is next"),
        ("Field 63:2 A\nEndSysreg\n", r"sysreg:3: .* bits 1:0 of X are missing"),
        ("Res0 63:0\n", r"sysreg:3: .* X has no end"),
        ("Field 63 A B\nRes0 62:0\nEndSysreg\n", r"sysreg:2: .* 3 words where 2 are expected"),
        ("Enum 63:1 A\n0b0 B\nEndSysreg\n", r"sysreg:4: .* unexpected EndSysreg in X_A"),
        ("Res0 63:0\nNonsense\nEndSysreg\n", r"sysreg:3: .* unexpected Nonsense in X"),
        ("Enum 63:0 A\n12 B\nEndEnum\nEndSysreg\n", r"sysreg:3: .* unexpected 12 in the values of X_A"),
    ],
)
def test_a_line_at_which_the_kernels_generator_stops_is_noted_and_costs_no_other(table: str, reason: str) -> None:
    notes: list[str] = []
    after = "Sysreg Y 3 0 1 2 4\nField 63:0 Z\nEndSysreg\n"
    text = generated_sysreg("Sysreg X 3 0 1 2 3\n" + table + after, notes)
    assert re.search(reason, notes[0])
    assert "#define Y_Z GENMASK(63, 0)" in text


def test_an_odd_value_is_what_the_kernels_generator_makes_of_it() -> None:
    notes: list[str] = []
    table = "Sysreg X 3 0 1 2 3\nUnsignedEnum 63:60 A\n0b0002 B\nEndEnum\nRes0 59:0\nEndSysregFields\n"
    assert "#define X_A_B UL(0b0002)" in generated_sysreg(table, notes)
    assert not notes


@pytest.mark.skipif(shutil.which("awk") is None, reason="there is no awk to run the kernel's generator with")
def test_register_macros_are_those_of_the_kernels_generator() -> None:
    tree = tree_path("7.3")
    tools = tree / "arch/arm64/tools"
    command = ["awk", "-f", str(tools / "gen-sysreg.awk"), str(tools / "sysreg")]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    theirs = {" ".join(line.split()) for line in made.splitlines() if line.startswith("#define")}
    ours = {line for line in generated.sysreg_defs(tools / "sysreg").splitlines() if line}
    assert ours == theirs - {"#define __ASM_SYSREG_DEFS_H"}


def generated_sysreg(table: str, notes: list[str] | None = None) -> str:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sysreg")
        path.write_text(table)
        return generated.sysreg_defs(path, notes)


@pytest.mark.parametrize("kind", [NotUnderstoodError, NotDefinedError])
def test_a_refusal_comes_whole_from_another_process(kind: type[NotUnderstoodError]) -> None:
    def refuse() -> None:
        raise kind("a.c", 3, "no such thing")

    with Beside(refuse, fork=True) as beside, pytest.raises(kind, match=r"^a\.c:3: no such thing$") as found:
        beside.result()
    assert (found.value.file, found.value.line, found.value.reason) == ("a.c", 3, "no such thing")
