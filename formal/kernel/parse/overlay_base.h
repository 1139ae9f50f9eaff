/*
 * Macros whose bodies are assembly or per-CPU plumbing, spelled as calls that the lifter knows.
 * One #define a line and no #undef: clang then reports each redefinition together with the place of the tree's own
 * definition, and forms.py compares that definition with the forms that this replacement was written for.
 */
#define __LIFT_STRING_1(x...) #x
#define __LIFT_STRING(x...) __LIFT_STRING_1(x)
unsigned long long __lift_read_register(const char *name);
void __lift_write_register(unsigned long long value, const char *name);
unsigned long long __lift_read_encoded(unsigned int encoding, const char *name);
void __lift_write_encoded(unsigned long long value, unsigned int encoding, const char *name);
void *__lift_this_cpu_ptr(const void *pointer);
void __lift_bug(void) __attribute__((noreturn));
void __lift_bug_on(int condition);
int __lift_warn_on(int condition);
void __lift_nothing(void);
int __lift_host_is_vhe(void);
_Bool __lift_static_key(const void *key);
#define __LIFT_PER_CPU(p) ((typeof(p))__lift_this_cpu_ptr((const void *)(p)))
#define read_sysreg(r) __lift_read_register(__LIFT_STRING(r))
#define write_sysreg(v, r) __lift_write_register((unsigned long long)(v), __LIFT_STRING(r))
#define read_sysreg_s(r) __lift_read_encoded((r), #r)
#define write_sysreg_s(v, r) __lift_write_encoded((unsigned long long)(v), (r), #r)
#define this_cpu_ptr(p) __LIFT_PER_CPU(p)
#define __this_cpu_read(x) (*__LIFT_PER_CPU(&(x)))
#define __this_cpu_write(x, v) (*__LIFT_PER_CPU(&(x)) = (v))
#define this_cpu_read(x) (*__LIFT_PER_CPU(&(x)))
#define this_cpu_write(x, v) (*__LIFT_PER_CPU(&(x)) = (v))
#define BUG() __lift_bug()
#define BUG_ON(c) __lift_bug_on(!!(c))
#define WARN_ON(c) __lift_warn_on(!!(c))
#define WARN_ON_ONCE(c) __lift_warn_on(!!(c))
#define WARN(c, ...) __lift_warn_on(!!(c))
#define WARN_ONCE(c, ...) __lift_warn_on(!!(c))
#define READ_ONCE(x) (x)
#define WRITE_ONCE(x, v) ((x) = (v))
#define BUILD_BUG_ON(c) __lift_nothing()
#define preempt_disable() __lift_nothing()
#define preempt_enable() __lift_nothing()
#define static_branch_likely(x) __lift_static_key((const void *)(x))
#define static_branch_unlikely(x) __lift_static_key((const void *)(x))
#define isb() __lift_nothing()
#define dsb(scope) __lift_nothing()
#define psb_csync() __lift_nothing()
#ifdef tsb_csync
#define tsb_csync() __lift_nothing()
#endif
#ifdef write_sysreg_hcr
#define write_sysreg_hcr(v) __lift_write_register((unsigned long long)(v), "hcr_el2")
#endif
