/*
 * Macros of what lies below C, spelled as calls that the lifter knows: per-CPU addressing, BUG and WARN, what
 * orders accesses, what keeps off interrupts and preemption. One #define a line and no #undef: clang then reports each
 * redefinition, and a file that defines one of them anew is refused.
 */
void *__lift_this_cpu_ptr(const void *pointer);
void __lift_bug(void) __attribute__((noreturn));
void __lift_bug_on(int condition);
int __lift_warn_on(int condition);
void __lift_nothing(void);
#define __LIFT_PER_CPU(p) ((typeof(&*(p)))__lift_this_cpu_ptr((const void *)(p)))
#define this_cpu_ptr(p) __LIFT_PER_CPU(p)
#define raw_cpu_ptr(p) __LIFT_PER_CPU(p)
#define raw_cpu_read(x) (*__LIFT_PER_CPU(&(x)))
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
