"""Functions that are neither lifted nor read by their calls: each must be one that a person has read (``forms.toml``).

They loop over tables, copy structures or decode registers; what the specification says of them was compared by hand.
"""

from __future__ import annotations

from formal.kernel.errors import Gaps
from formal.kernel.lift.program import Mode, Program
from formal.kernel.source.tree import KVM, KernelTree
from formal.kernel.text import forms, signs

# file: its functions, those that only some releases have included
FUNCTIONS: dict[str, tuple[str, ...]] = {
    f"{KVM}/sys_regs.c": (
        "kvm_handle_sys_reg", "emulate_sys_reg", "find_reg", "match_sys_reg", "reset_val", "kvm_reset_sys_regs",
        "reset_sys_reg_descs", "index_to_params", "get_reg_by_id", "id_to_sys_reg_desc", "kvm_sys_reg_set_user",
        "kvm_arm_sys_reg_set_reg", "trap_oslsr_el1", "trap_raz_wi", "read_zero", "get_bvr",
        "get_bcr", "get_wvr", "get_wcr", "get_dbg_wb_reg",
    ),
    f"{KVM}/handle_exit.c": ("handle_exit", "kvm_get_exit_handler"),
    f"{KVM}/guest.c": ("set_core_reg", "core_reg_addr", "kvm_arm_set_reg"),
}  # fmt: skip
# functions that the lifter answers for: of these the text is looked up, since no file that is parsed has them
ANSWERED: dict[str, tuple[str, ...]] = {
    f"{KVM}/emulate-nested.c": ("forward_debug_exception", "forward_mdcr_traps", "__forward_traps"),
    f"{KVM}/nested.c": ("kvm_vcpu_apply_reg_masks",),
}
LIFTED = ("forward_debug_exception", "forward_mdcr_traps", "__forward_traps")  # where a guest may have an EL2
EARLY: dict[str, tuple[str, ...]] = {f"{KVM}/handle_exit.c": ("__kvm_skip_instr",)}  # while PC was adjusted at once


def check(program: Program, mode: Mode, defers_pc_adjustment: bool, nests: bool, gaps: Gaps) -> None:
    """Refuses a function that nobody has read.

    Raises:
        NotUnderstoodError: at its definition, if that is not noted.
    """
    for table in (FUNCTIONS, {} if defers_pc_adjustment else EARLY):
        for file, names in table.items():
            for name in names:
                with gaps.at(name):
                    if program.defines(name, mode, file):
                        _, cursor = program.resolver.find(name, mode, file)
                        place, line, text = program.resolver.source(cursor)
                        forms.known().check(name, text, place, line)
    assert isinstance(program.tree, KernelTree)
    for file, names in ANSWERED.items():
        whole = signs.source(program.tree, file)
        for name in names:
            if nests and name in LIFTED:
                continue
            if whole is not None and (found := signs.body(whole, name)):
                with gaps.at(name):
                    forms.known().check(name, found[0], file, found[1])
