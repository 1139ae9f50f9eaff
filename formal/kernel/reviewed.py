"""Functions that are neither lifted nor read by their calls: each must be one that a person has read (``forms.toml``).

They loop over tables, copy structures or decode registers; what the specification says of them was compared by hand.
"""

from __future__ import annotations

from formal.kernel import forms
from formal.kernel.front import Mode, Program
from formal.kernel.tree import KVM

# file: its functions, those that only some releases have included
FUNCTIONS: dict[str, tuple[str, ...]] = {
    f"{KVM}/sys_regs.c": (
        "kvm_handle_sys_reg", "emulate_sys_reg", "find_reg", "match_sys_reg", "reset_val", "kvm_reset_sys_regs",
        "reset_sys_reg_descs", "index_to_params", "get_reg_by_id", "id_to_sys_reg_desc", "kvm_sys_reg_set_user",
        "kvm_arm_sys_reg_set_reg", "trap_oslsr_el1", "trap_raz_wi", "read_zero", "get_bvr",
        "get_bcr", "get_wvr", "get_wcr",
    ),
    f"{KVM}/handle_exit.c": ("handle_exit", "kvm_get_exit_handler"),
    f"{KVM}/guest.c": ("set_core_reg", "core_reg_addr", "kvm_arm_set_reg"),
}  # fmt: skip
EARLY: dict[str, tuple[str, ...]] = {f"{KVM}/handle_exit.c": ("__kvm_skip_instr",)}  # while PC was adjusted at once


def check(program: Program, mode: Mode, defers_pc_adjustment: bool) -> None:
    """Refuses a function that nobody has read.

    Raises:
        NotUnderstoodError: at its definition.
    """
    for table in (FUNCTIONS, {} if defers_pc_adjustment else EARLY):
        for file, names in table.items():
            for name in names:
                if program.defines(name, mode, file):
                    _, cursor = program.resolver.find(name, mode, file)
                    place, line, text = program.resolver.source(cursor)
                    forms.known().check(name, text, place, line)
