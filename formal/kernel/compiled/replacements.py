"""What compiled functions of a tree find in place of assembly, and of what the lifter takes by its name.

Texts of C for ``differential.py``: included before the tree's headers, after them, or linked with the program.
"""

from __future__ import annotations

CAPABILITIES = """
#define alternative_has_cap_likely(cap) harness_has(cap)
#define alternative_has_cap_unlikely(cap) harness_has(cap)
#define alternative_has_feature_likely(cap) harness_has(cap)
#define alternative_has_feature_unlikely(cap) harness_has(cap)
"""
KEYS = """
#include <linux/types.h>
#include <linux/jump_label.h>
static bool harness_key(const void *key);
#undef static_branch_likely
#undef static_branch_unlikely
#define static_branch_likely(x) harness_key((const void *)(x))
#define static_branch_unlikely(x) harness_key((const void *)(x))
"""
HAS = """
#include <asm/cpucaps.h>
#ifndef ARM64_ALWAYS_BOOT
#define ARM64_ALWAYS_BOOT ARM64_ALWAYS_SYSTEM
#endif
#define harness_has(cap) ((cap) == ARM64_ALWAYS_BOOT || (cap) == ARM64_ALWAYS_SYSTEM || harness_capability[cap])
extern unsigned long long harness_capability[];
"""
AFTER_HEADERS = """
#undef copy_from_user
#define copy_from_user(to, from, size) harness_copy(to, size)
#undef read_sysreg_el1
#define read_sysreg_el1(r) \\
    (harness_vhe ? __lift_read_encoded(r##_EL12, #r "_EL12") : __lift_read_encoded(r##_EL1, #r "_EL1"))
#undef write_sysreg_el1
#define write_sysreg_el1(v, r) \\
    (harness_vhe ? __lift_write_encoded((unsigned long long)(v), r##_EL12, #r "_EL12") \\
                 : __lift_write_encoded((unsigned long long)(v), r##_EL1, #r "_EL1"))
#undef read_sysreg_el2
#define read_sysreg_el2(r) \\
    (harness_vhe ? __lift_read_encoded(r##_EL1, #r "_EL1") : __lift_read_encoded(r##_EL2, #r "_EL2"))
#undef write_sysreg_el2
#define write_sysreg_el2(v, r) \\
    (harness_vhe ? __lift_write_encoded((unsigned long long)(v), r##_EL1, #r "_EL1") \\
                 : __lift_write_encoded((unsigned long long)(v), r##_EL2, #r "_EL2"))
#undef has_vhe
#define has_vhe() ((bool)harness_vhe)
#define is_kernel_in_hyp_mode() ((bool)harness_vhe)
#define cpus_have_cap(cap) ((bool)harness_capability[cap])
static struct task_struct harness_task;
#define get_current() (&harness_task)
extern struct kvm_vcpu harness_vcpu;
extern struct kvm harness_vm;
#define read_cpuid_id() ((u32)harness_midr)
#undef irqs_disabled
#define irqs_disabled() arch_irqs_disabled_flags(harness_mask)
#define arch_timer_read_cntpct_el0() harness_counter
#define preempt_count() READ_ONCE(harness_task.thread_info.preempt.count)
"""
# what is asked of a guest that may be a hypervisor, and what the lifter takes by its name besides
NESTED_GUEST = """
#define kvm_make_request(request, vcpu) ((void)0)
extern __typeof__(kvm_inject_nested_sync) kvm_inject_nested_sync __attribute__((weak));
extern __typeof__(kvm_vcpu_apply_reg_masks) kvm_vcpu_apply_reg_masks __attribute__((weak));
"""
# the same for inline functions of headers: their first statement, in copies of the headers
ANSWERS = {
    ("asm/kvm_nested.h", "vcpu_has_nv"): "harness_guest[0]",
    ("asm/kvm_emulate.h", "is_hyp_ctxt"): "harness_guest[0] && !harness_guest[1]",
    ("asm/kvm_emulate.h", "is_nested_ctxt"): "harness_guest[1]",
}
STUBS = """
typedef unsigned long long word;
struct harness_register { const char *name; word encoding; word value; };
struct harness_register *harness_named(const char *name);
extern word harness_vm[];
void *pkvm_vcpu_get_kvm(void *vcpu) { return harness_vm; }
word kvm_vcpu_apply_reg_masks(const void *vcpu, int number, word value) { return value; }
void pkvm_vcpu_put_kvm(void *vcpu, void *kvm) { }
int kvm_inject_nested_sync(void *vcpu, word esr) { return harness_named("{injected}")->value = 1; }
"""
