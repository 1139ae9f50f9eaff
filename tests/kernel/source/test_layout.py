"""Where KVM's files lie, in any release: read from Makefiles and from the texts, never from a list of names."""

from __future__ import annotations

from pathlib import Path

import pytest

from formal.kernel.source import makefiles
from formal.kernel.source.definitions import Definitions
from formal.kernel.source.makefiles import KVM
from tests.kernel.conftest import tree_path

BEFORE_5_7 = {
    f"{KVM}/Makefile": "KVM=../../../virt/kvm\nccflags-y += -I $(srctree)/$(src) -Ivirt/kvm/arm -Inowhere\n"
    "obj-$(CONFIG_KVM_ARM_HOST) += kvm.o\nobj-$(CONFIG_KVM_ARM_HOST) += hyp/\n"
    "kvm-$(CONFIG_KVM_ARM_HOST) += $(KVM)/kvm_main.o $(KVM)/arm/arm.o \\\n\tdebug.o # not.o\n"
    "kvm-$(CONFIG_OFF) += off.o\n",
    f"{KVM}/hyp/Makefile": "KVM=../../../../virt/kvm\nobj-y += switch.o entry.o $(KVM)/arm/hyp/timer-sr.o\n",
    "virt/kvm/kvm_main.c": "bool __weak mine(void)\n{\n}\n",
    "virt/kvm/arm/arm.c": "bool mine(void)\n{\n}\n",
    f"{KVM}/debug.c": "#include <asm/kvm_emulate.h>\nstatic bool mine(void)\n{\n}\nint declared(void);\n",
    f"{KVM}/off.c": "",
    f"{KVM}/hyp/switch.c": "int __hyp_text\nrun(struct kvm_vcpu *vcpu)\n{\n}\n#define declared(x) {}\n",
    f"{KVM}/hyp/entry.S": "",
    "virt/kvm/arm/hyp/timer-sr.c": "",
    "arch/arm64/include/asm/kvm_emulate.h": "static inline int inlined(int x)\n{\n\treturn x;\n}\n",
}


def tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_one_program_in_several_folders(tmp_path: Path) -> None:
    root = tree(tmp_path, BEFORE_5_7)
    build = makefiles.build(root, {"KVM_ARM_HOST"}.__contains__)
    assert build.host == ("virt/kvm/kvm_main.c", "virt/kvm/arm/arm.c", f"{KVM}/debug.c", f"{KVM}/hyp/switch.c",
                          "virt/kvm/arm/hyp/timer-sr.c")  # fmt: skip
    assert build.assembly == (f"{KVM}/hyp/entry.S",)
    assert build.includes == (KVM, "virt/kvm/arm")
    assert build.files("vhe") == build.files("nvhe") == build.host
    assert build.hyp_of(f"{KVM}/hyp/switch.c", "nvhe") is None
    places = Definitions(root, build)
    assert places.files("mine", "vhe") == ["virt/kvm/arm/arm.c", f"{KVM}/debug.c", "virt/kvm/kvm_main.c"]
    assert places.files("run", "nvhe") == [f"{KVM}/hyp/switch.c"]
    assert places.files("inlined", "vhe") == [f"{KVM}/debug.c"]
    assert places.sources("inlined", "vhe") == []
    assert places.files("declared", "vhe") == []


def test_the_hypervisors_macros_may_be_in_a_file_that_is_included(tmp_path: Path) -> None:
    folder = f"{KVM}/hyp/nvhe"
    files = {
        **BEFORE_5_7,
        f"{KVM}/hyp/Makefile": "obj-y += nvhe/ pgtable.o\n",
        f"{folder}/Makefile": "hyp-obj-y := switch.o ../pgtable.o\ninclude $(srctree)/arch/arm64/kvm/hyp/own.mk\n",
        f"{KVM}/hyp/own.mk": "ccflags-y := -D__KVM_NVHE_HYPERVISOR__ -DMORE -Wall\n",
        f"{folder}/switch.c": "int run(void)\n{\n}\n",
        f"{KVM}/hyp/pgtable.c": "",
    }
    root = tree(tmp_path, files)
    build = makefiles.build(root)
    assert build.hyp == {"nvhe": (f"{folder}/switch.c", f"{KVM}/hyp/pgtable.c")}
    assert build.flags == {"nvhe": ("-D__KVM_NVHE_HYPERVISOR__", "-DMORE")}
    places = Definitions(root, build)
    assert (places.files("run", "vhe"), places.files("run", "nvhe")) == ([], [f"{folder}/switch.c"])


@pytest.mark.parametrize("release", ["5.10", "6.1", "6.12", "7.3"])
def test_both_hypervisors_are_found_and_a_mode_sees_nothing_of_the_other(release: str) -> None:
    root = tree_path(release)
    build = makefiles.build(root)
    places = Definitions(root, build)
    for mode, other in (("vhe", "nvhe"), ("nvhe", "vhe")):
        assert places.files("__kvm_vcpu_run", mode) == [f"{KVM}/hyp/{mode}/switch.c"]
        assert places.files("__activate_traps_common", mode)[0] == f"{KVM}/hyp/{mode}/switch.c"
        assert not any(f"/hyp/{other}/" in file for file in build.files(mode))
        assert build.hyp_of(f"{KVM}/hyp/vgic-v3-sr.c", mode) == mode
        assert places.files("kvm_arch_vcpu_load", mode) == [f"{KVM}/arm.c"]
