/* Macros of KVM's own headers, as in overlay_base.h; included after them. */
#define __LIFT_SAME(f) f
#define kvm_call_hyp_nvhe(f, ...) __LIFT_SAME(f)(__VA_ARGS__)
#define kern_hyp_va(v) (v)
#define read_sysreg_el1(r) (__lift_host_is_vhe() ? __lift_read_encoded(r##_EL12, #r "_EL12") : __lift_read_encoded(r##_EL1, #r "_EL1"))
#define write_sysreg_el1(v, r) (__lift_host_is_vhe() ? __lift_write_encoded((unsigned long long)(v), r##_EL12, #r "_EL12") : __lift_write_encoded((unsigned long long)(v), r##_EL1, #r "_EL1"))
#define read_sysreg_el2(r) (__lift_host_is_vhe() ? __lift_read_encoded(r##_EL1, #r "_EL1") : __lift_read_encoded(r##_EL2, #r "_EL2"))
#define write_sysreg_el2(v, r) (__lift_host_is_vhe() ? __lift_write_encoded((unsigned long long)(v), r##_EL1, #r "_EL1") : __lift_write_encoded((unsigned long long)(v), r##_EL2, #r "_EL2"))
#define KVM_BUG_ON(c, kvm) __lift_warn_on(!!(c))
#define local_irq_save(flags) ((flags) = 0)
#define local_irq_restore(flags) ((void)(flags))
#ifdef host_data_ptr
#define host_data_ptr(f) (&__LIFT_PER_CPU(&kvm_host_data)->f)
#endif
