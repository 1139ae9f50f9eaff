/*
 * What compiled functions of a kernel tree find when they run under qemu-user: the overlays' calls as accesses to
 * variables. Included after the tree's own headers; formal/kernel/compiled/differential.py writes the rest.
 */
typedef unsigned long long word;
struct harness_register { const char *name; word encoding; word value; };
extern struct harness_register harness_registers[];
extern word harness_capability[], harness_user[3], harness_warned, harness_other, harness_vhe, harness_stopped;
extern word harness_guest[2], harness_midr, harness_mask, harness_counter;
extern void *harness_back[];

struct harness_register *harness_named(const char *name);
struct harness_register *harness_encoded(word encoding, const char *name);
void harness_bug(void) __attribute__((noreturn));
void harness_assembly(word number) __attribute__((noreturn));
void harness_put(void *to, word size, word value);
word harness_get(const void *from, word size);
void harness_clean(const void *region, word size);
int harness_copy(void *to, word size);

#define HARNESS_PUT(place, value) harness_put((void *)&(place), sizeof(place), value)
#define HARNESS_GET(place) harness_get((const void *)&(place), sizeof(place))
#define HARNESS_ONCE(find) ({ static struct harness_register *found; if (!found) found = (find); &found->value; })
#define __lift_read_register(name) (*HARNESS_ONCE(harness_named(name)))
#define __lift_write_register(v, name) (*HARNESS_ONCE(harness_named(name)) = (v))
#define __lift_read_encoded(number, name) (*HARNESS_ONCE(harness_encoded(number, name)))
#define __lift_write_encoded(v, number, name) (*HARNESS_ONCE(harness_encoded(number, name)) = (v))
#define __lift_this_cpu_ptr(pointer) ((void *)(pointer))
#define __lift_bug() harness_bug()
#define __lift_bug_on(condition) ({ if (condition) harness_bug(); })
#define __lift_warn_on(condition) ({ int wrong = !!(condition); harness_warned |= wrong; wrong; })
#define __lift_nothing() ((void)0)
#define __lift_host_is_vhe() ((int)harness_vhe)
#define __lift_static_key(key) harness_key(key)

/* System registers, read and written: assembly, which the lifter reads as text. */
#define HARNESS_STRING_1(x...) #x
#define HARNESS_STRING(x...) HARNESS_STRING_1(x)
#undef read_sysreg
#undef write_sysreg
#undef read_sysreg_s
#undef write_sysreg_s
#define read_sysreg(r) __lift_read_register(HARNESS_STRING(r))
#define write_sysreg(v, r) __lift_write_register((unsigned long long)(v), HARNESS_STRING(r))
#define read_sysreg_s(r) __lift_read_encoded((r), #r)
#define write_sysreg_s(v, r) __lift_write_encoded((unsigned long long)(v), (r), #r)
#ifdef write_sysreg_hcr
#undef write_sysreg_hcr
#define write_sysreg_hcr(v) __lift_write_register((unsigned long long)(v), "hcr_el2")
#endif
