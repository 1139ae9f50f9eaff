/* Macros of KVM's own headers, as in overlay_base.h; included after them. */
#define __LIFT_SAME(f) f
#define kvm_call_hyp_nvhe(f, ...) __LIFT_SAME(f)(__VA_ARGS__)
#ifdef kvm_call_hyp_nvhe_ret
#define kvm_call_hyp_nvhe_ret(f, ...) __LIFT_SAME(f)(__VA_ARGS__)
#endif
#ifdef __hyp_this_cpu_ptr
#define __hyp_this_cpu_ptr(s) __LIFT_PER_CPU(&(s))
#endif
#define kvm_ksym_ref(f) f
#define __kvm_call_hyp(f, ...) __LIFT_SAME(f)(__VA_ARGS__)
#define kern_hyp_va(v) (v)
#define KVM_BUG_ON(c, kvm) __lift_warn_on(!!(c))
#define local_irq_save(flags) ((flags) = 0)
#define local_irq_restore(flags) ((void)(flags))
#ifdef host_data_ptr
#define host_data_ptr(f) (&__LIFT_PER_CPU(&kvm_host_data)->f)
#endif
