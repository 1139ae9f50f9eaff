"""Fields, constants and encodings against the kernel's own headers, in every tree that KVM_TREES offers."""

import re

import pytest

from formal.arch import fgt, registers
from formal.arch.sysregs import SYSTEM_REGISTERS
from tests.arch import kernel_tables as kernel

TREES = kernel.trees()
pytestmark = pytest.mark.skipif(not TREES, reason="KVM_TREES names no directory with a linux-source-* tree")
every_tree = pytest.mark.parametrize("root", TREES, ids=lambda p: p.name)


@every_tree
def test_fields_of_tools_sysreg(root):
    """Each field that tools/sysreg places is where we place it, unless we leave it out (then it is named here)."""
    _, described = kernel.sysreg_file(root)
    if not described:
        pytest.skip(f"{root.name} has no arch/arm64/tools/sysreg")
    ours = {name: cls for module in (registers, fgt) for name, cls in vars(module).items() if hasattr(cls, "fields")}
    wrong, missing = [], []
    for register, fields in described.items():
        for name, place in fields.items() if register in ours else ():
            field = ours[register].fields.get(name)
            if field is None:
                missing.append(f"{register}.{name}")
            elif (field.hi, field.lo) != place:
                wrong.append(f"{register}.{name}: {place} in the kernel, {(field.hi, field.lo)} here")
    assert wrong == []
    assert [m for m in missing if m.partition(".")[0] not in ("HCR_EL2", "CPACR_EL1")] == []  # modelled in part


def kernel_encoding(names, reg, index):
    """What the kernel's SYS_* macro gives; None if it has none. It spells DBGBVR<n>_EL1 with or without n."""
    spellings = [reg.name] if index is None else [reg.name.replace("<n>", "n"), reg.name.replace("<n>", "")]
    for spelling in (*spellings, reg.spelled(index)):
        try:
            value = names[f"SYS_{spelling}"]
        except KeyError:
            continue
        if isinstance(value, tuple) or index is not None:
            return value if isinstance(value, tuple) else value(index)
    return None


@every_tree
def test_encodings(root):
    """Every SYS_* name of the kernel that the table has too."""
    names = kernel.encodings(root)
    known = {(reg.name, i): kernel_encoding(names, reg, i) for reg in SYSTEM_REGISTERS for i in reg.instances()}
    ours = {(reg.name, i): reg.encoding(i) for reg in SYSTEM_REGISTERS for i in reg.instances()}
    compared = {key: value for key, value in known.items() if value is not None}
    assert compared == {key: ours[key] for key in compared}
    assert len(compared) >= {"linux-source-6.12": 450, "linux-source-6.1": 180}.get(root.name, 150)


@every_tree
def test_mdcr_el2_masks_of_kvm_arm_h(root):
    names = kernel.macros(
        kernel.text(root, "arch/arm64/include/asm/kvm_arm.h"), kernel.text(root, "arch/arm64/include/asm/sysreg.h")
    )
    source = kernel.text(root, "arch/arm64/include/asm/kvm_arm.h")
    defined = set(re.findall(r"#define\s+MDCR_EL2_(\w+)", source))
    seen = 0
    for name, field in registers.MDCR_EL2.fields.items():
        mask = f"{name}_MASK" if f"{name}_MASK" in defined else name
        if mask not in defined:
            continue
        value = names[f"MDCR_EL2_{mask}"]
        shift = field.lo if name in ("E2PB", "E2TB") else 0  # the kernel keeps these two masks unshifted
        assert value << shift == field.mask, name
        seen += 1
    described = kernel.sysreg_file(root)[1].get("MDCR_EL2", {})  # from v6.16 there, and checked with the others
    assert seen >= 10 or len(described) >= 10


@every_tree
def test_debug_constants(root):
    names = kernel.macros(
        kernel.text(root, "arch/arm64/include/asm/debug-monitors.h"),
        kernel.text(root, "arch/arm64/include/uapi/asm/ptrace.h"),
        kernel.text(root, "arch/arm64/include/asm/ptrace.h"),
        kernel.text(root, "arch/arm64/include/asm/hw_breakpoint.h"),
    )
    assert names["DBG_SPSR_SS"] == registers.PSTATE.mask("SS")
    assert names["PSR_D_BIT"] == registers.PSTATE.mask("D")
    assert names["PSR_MODE32_BIT"] == registers.PSTATE.mask("nRW")
    assert names["PSR_MODE_EL1h"] & registers.PSTATE.mask("EL") == 1 << registers.PSTATE.field("EL").lo
    if root.name.endswith(("5.10", "6.1")):
        assert names["DBG_MDSCR_SS"] == registers.MDSCR_EL1.mask("SS")
        assert names["DBG_MDSCR_KDE"] == registers.MDSCR_EL1.mask("KDE")
        assert names["DBG_MDSCR_MDE"] == registers.MDSCR_EL1.mask("MDE")


@every_tree
def test_guest_debug_flags(root):
    names = kernel.macros(
        kernel.text(root, "include/uapi/linux/kvm.h"), kernel.text(root, "arch/arm64/include/uapi/asm/kvm.h")
    )
    for name in registers.KVM_GUESTDBG.fields:
        assert names[f"KVM_GUESTDBG_{name}"] == registers.KVM_GUESTDBG.mask(name)


@every_tree
def test_pmu_constants(root):
    path = "include/linux/perf/arm_pmuv3.h"
    path = path if (root / path).exists() else "arch/arm64/include/asm/perf_event.h"
    names = kernel.macros(kernel.text(root, path))
    for name in ("EN", "SW", "CR", "ER"):
        assert names[f"ARMV8_PMU_USERENR_{name}"] == registers.PMUSERENR_EL0.mask(name)
    field = registers.PMCR_EL0.field("N")
    if "ARMV8_PMU_PMCR_N_SHIFT" in kernel.text(root, path):
        assert names["ARMV8_PMU_PMCR_N_SHIFT"] == field.lo
    else:
        assert names["ARMV8_PMU_PMCR_N"] == field.mask
