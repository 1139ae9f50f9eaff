/*
 * What the probe reads and writes: one block of memory at BLOB, laid out by formal/conform/machine/blob.py. Offsets count bytes
 * from the start of the block; every field is 64 bits wide unless it says otherwise, little-endian.
 */
#define BLOB 0x40200000UL

typedef unsigned long u64;
typedef unsigned int u32;

#define MAGIC 0x444d43522d454c32UL /* "MDCR-EL2" */
#define DONE 1
#define BROKEN 2

struct header {
	u64 magic;
	u64 status; /* DONE, or BROKEN with the two below */
	u64 broken_esr;
	u64 broken_elr;
	u64 watched; /* the double word that watchpoints watch; only its address matters */
	u64 n_ids, ids;
	u64 n_states, states;
	u64 accesses;
	u64 results;
};

/* An instruction pair "MRS X0, <register>; RET", and what it returned at EL2. */
struct id {
	u32 code[2];
	u64 value;
	u64 undefined;
};

/* What EL2 sets up before a run of accesses; a register that the CPU does not have is skipped. */
struct state {
	u64 mdcr_el2;
	u64 hcr_el2;
	u64 cptr_el2;
	u64 cpacr_el1;
	u64 hstr_el2;
	u64 mdscr_el1;
	u64 pmuserenr_el0;
	u64 pmselr_el0;
	u64 hdfgrtr_el2;
	u64 hdfgwtr_el2;
	u64 hdfgrtr2_el2;
	u64 hdfgwtr2_el2;
	u64 oslar_el1;
	u64 osdlr_el1;
	u64 dbgbvr0_el1;
	u64 dbgbcr0_el1;
	u64 dbgwvr0_el1;
	u64 dbgwcr0_el1;
	u64 elr_el1;
	u64 spsr_el1;
	u64 first, count; /* in accesses */
};

/* What X0 holds when the code runs. */
#define X0_ZERO 0
#define X0_READ_BACK 1 /* what the register holds now, so that writing it changes nothing */
#define X0_OSLAR 2     /* the state of the OS lock that is set up anyway */
#define X0_WATCHED 3   /* the address of the watched double word */

struct access {
	u32 code; /* where it begins */
	u32 spsr; /* SPSR_EL2 for the exception return to it */
	u32 reader; /* "MRS X0, <register>; RET", for X0_READ_BACK */
	u32 x0;
};

/*
 * A result, 64 bits:
 *   31:0   ESR_ELx of the exception that ended the run
 *   47:32  where: its ELR_ELx in instructions from the code's beginning, signed, or IN_VECTORS + the same from VBAR_EL1
 *   49:48  x: 1 if it was taken to EL1, 2 if it was taken to EL2
 *   50     SPSR_ELx.SS
 *   51     FAR_ELx is the address of the watched double word
 * Of an exception taken to an AArch32 EL1, which has no syndrome: 31:0 the offset of its vector, 47:32 the same for the
 * link register of the mode that it was taken to (R14_svc or R14_und), 49:48 1.
 */
#define IN_VECTORS 0x4000
#define TAKEN_TO_EL1 0x200 /* the immediate of the HVC in every EL1 vector */
#define SVC32 8            /* the offset of AArch32's vector for SVC; 4 is that for UNDEFINED */
