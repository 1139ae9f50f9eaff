/*
 * The probe: for every state that the block lists, set it up at EL2, run each access at EL1 or EL0, and note which
 * exception ended the run. It knows no register that it probes; formal/conform/ makes the block and reads the results.
 */
#include "probe.h"

struct taken {
	u64 esr_el2, elr_el2, spsr_el2, far_el2;
	u64 esr_el1, elr_el1, spsr_el1, far_el1;
	u64 lr_svc, lr_und;
};

extern void enter(u64 pc, u64 spsr, u64 x0, u64 hcr, struct taken *taken);
extern char vectors_el1[];
volatile u64 undefined;

static struct header *const blob = (struct header *)BLOB;

#define AT(offset) ((void *)(BLOB + (offset)))
#define WRITE(name, value) __asm__ volatile("msr " name ", %0" ::"r"((u64)(value)))
#define ISB() __asm__ volatile("isb" ::: "memory")

void broken(u64 esr, u64 elr)
{
	blob->broken_esr = esr;
	blob->broken_elr = elr;
	blob->status = BROKEN;
}

/* Runs MRS X0, <register>; RET at EL2: 0 if the register is UNDEFINED. */
static u64 read(u64 code)
{
	register u64 x0 __asm__("x0") = 0;

	undefined = 0;
	__asm__ volatile("blr %1" : "+r"(x0) : "r"(code) : "x30", "memory");
	return x0;
}

static void set_up(const struct state *s)
{
	WRITE("S2_0_C1_C0_4", 0); /* OSLAR_EL1 */
	WRITE("S2_0_C1_C3_4", 0); /* OSDLR_EL1 */
	WRITE("S2_0_C0_C0_5", 0); /* DBGBCR0_EL1 */
	WRITE("S2_0_C0_C0_7", 0); /* DBGWCR0_EL1 */
	WRITE("mdcr_el2", s->mdcr_el2);
	WRITE("cptr_el2", s->cptr_el2);
	WRITE("cpacr_el1", s->cpacr_el1);
	WRITE("hstr_el2", s->hstr_el2);
	WRITE("S3_3_C9_C14_0", s->pmuserenr_el0);
	WRITE("S3_3_C9_C12_5", s->pmselr_el0);
	WRITE("S3_4_C3_C1_4", s->hdfgrtr_el2);
	WRITE("S3_4_C3_C1_5", s->hdfgwtr_el2);
	WRITE("S3_4_C3_C1_0", s->hdfgrtr2_el2);
	WRITE("S3_4_C3_C1_1", s->hdfgwtr2_el2);
	WRITE("S2_0_C0_C0_4", s->dbgbvr0_el1);
	WRITE("S2_0_C0_C0_5", s->dbgbcr0_el1);
	WRITE("S2_0_C0_C0_6", s->dbgwvr0_el1);
	WRITE("S2_0_C0_C0_7", s->dbgwcr0_el1);
	WRITE("elr_el1", s->elr_el1);
	WRITE("spsr_el1", s->spsr_el1);
	WRITE("S2_0_C0_C2_2", s->mdscr_el1);
	WRITE("S2_0_C1_C3_4", s->osdlr_el1);
	WRITE("S2_0_C1_C0_4", s->oslar_el1);
	ISB();
}

static u64 x0_for(const struct state *s, const struct access *a)
{
	switch (a->x0) {
	case X0_READ_BACK:
		return read((u64)AT(a->reader));
	case X0_OSLAR:
		return s->oslar_el1;
	case X0_WATCHED:
		return (u64)&blob->watched;
	default:
		return 0;
	}
}

/* An exception that was taken to an AArch32 EL1. */
static u64 result32(u64 vector, const struct taken *t, u64 code)
{
	u64 lr = vector == SVC32 ? t->lr_svc : t->lr_und;

	return vector | (((lr - code) >> 2) & 0xffff) << 32 | 1UL << 48;
}

static u64 result(const struct taken *t, u64 code)
{
	int to_el1 = t->esr_el2 >> 26 == 0x16 && (t->esr_el2 & 0xffff) == TAKEN_TO_EL1;
	u64 esr = to_el1 ? t->esr_el1 : t->esr_el2;
	u64 elr = to_el1 ? t->elr_el1 : t->elr_el2;
	u64 spsr = to_el1 ? t->spsr_el1 : t->spsr_el2;
	u64 far = to_el1 ? t->far_el1 : t->far_el2;
	u64 vectors = (u64)vectors_el1;
	u64 where = elr - code;

	if (t->esr_el2 >> 26 == 0x12 && (t->esr_el2 & 0xffff) == TAKEN_TO_EL1)
		return result32(elr - vectors - 4, t, code);
	if (elr >= vectors && elr < vectors + 2048)
		where = (elr - vectors) + 4 * IN_VECTORS;
	return (esr & 0xffffffff) | ((where >> 2) & 0xffff) << 32 | (to_el1 ? 1UL : 2UL) << 48 |
	       (spsr >> 21 & 1) << 50 | (u64)(far == (u64)&blob->watched) << 51;
}

void probe(void)
{
	struct id *ids = AT(blob->ids);
	const struct state *states = AT(blob->states);
	const struct access *accesses = AT(blob->accesses);
	u64 *results = AT(blob->results);
	struct taken taken;

	if (blob->magic != MAGIC)
		return;
	WRITE("sctlr_el1", 0x30d00800); /* RES1, and the MMU off */
	ISB();
	for (u64 i = 0; i < blob->n_ids; i++) {
		ids[i].value = read((u64)ids[i].code);
		ids[i].undefined = undefined;
	}
	for (const struct state *s = states; s < states + blob->n_states; s++) {
		set_up(s);
		for (const struct access *a = accesses + s->first; a < accesses + s->first + s->count; a++) {
			u64 code = (u64)AT(a->code);

			enter(code, a->spsr, x0_for(s, a), s->hcr_el2, &taken);
			*results++ = result(&taken, code);
		}
	}
	blob->status = DONE;
}
