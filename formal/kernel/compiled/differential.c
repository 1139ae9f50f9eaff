/*
 * The main program around compiled functions of a kernel tree: reads states, runs a function on each, writes what it
 * left. No C library. Input: the function's number, the number of states, and the states; all 64-bit words.
 */
typedef unsigned long long word;
typedef unsigned char byte;
struct harness_register { const char *name; word encoding; word value; };

word harness_capability[1024], harness_user[3], harness_warned, harness_other, harness_vhe;
word harness_stopped; /* 0: not; 1: by BUG; 2 + N: by assembly number N */
word harness_guest[2], harness_midr, harness_mask, harness_counter;
void *harness_back[5];
static word harness_input[1 << 22], harness_output[1 << 22];

static long harness_call(long number, long a, const void *b, long c)
{
	register long x8 asm("x8") = number, x0 asm("x0") = a, x2 asm("x2") = c;
	register const void *x1 asm("x1") = b;
	asm volatile("svc 0" : "+r"(x0) : "r"(x1), "r"(x2), "r"(x8) : "memory");
	return x0;
}

void harness_fail(const char *what, const char *name)
{
	long length = 0;
	for (const char *text = what; text; text = text == what ? name : 0) {
		for (length = 0; text[length]; length++)
			;
		harness_call(64, 2, text, length);
	}
	harness_call(64, 2, "\n", 1);
	harness_call(93, 2, 0, 0);
	__builtin_unreachable();
}

static int harness_same(const char *a, const char *b)
{
	while (*a && (*a | 32) == (*b | 32))
		a++, b++;
	return !*a && !*b;
}

struct harness_register *harness_named(const char *name)
{
	for (struct harness_register *r = harness_registers; r->name; r++)
		if (harness_same(r->name, name))
			return r;
	harness_fail("a register that was not lifted: ", name);
	return 0;
}

struct harness_register *harness_encoded(word encoding, const char *name)
{
	for (struct harness_register *r = harness_registers; r->name; r++)
		if (r->encoding == encoding)
			return r;
	harness_fail("an encoding that was not lifted: ", name);
	return 0;
}

void harness_bug(void) { __builtin_longjmp(harness_back, 1); }

void harness_assembly(word number)
{
	harness_stopped = 2 + number;
	__builtin_longjmp(harness_back, 1);
}

void harness_put(void *to, word size, word value)
{
	for (word i = 0; i < size; i++)
		((volatile byte *)to)[i] = i < 8 ? value >> 8 * i : 0;
}

word harness_get(const void *from, word size)
{
	word value = 0;
	for (word i = 0; i < size && i < 8; i++)
		value |= (word)((const volatile byte *)from)[i] << 8 * i;
	return value;
}

/* Counts what is not as it was at the start, when all was 0, and cleans it. */
void harness_clean(const void *region, word size)
{
	for (word i = 0; i < size; i += 8)
		if (*(volatile word *)((byte *)region + i)) {
			harness_other++;
			*(volatile word *)((byte *)region + i) = 0;
		}
}

int harness_copy(void *to, word size)
{
	harness_put(to, size, harness_user[harness_user[0] ? 1 : 2]);
	return !!harness_user[0];
}

void *memcpy(void *to, const void *from, word size)
{
	for (word i = 0; i < size; i++)
		((volatile byte *)to)[i] = ((const byte *)from)[i];
	return to;
}

void *memset(void *to, int value, word size)
{
	for (word i = 0; i < size; i++)
		((volatile byte *)to)[i] = value;
	return to;
}

int printk(const char *text, ...) { return 0; }
int _printk(const char *text, ...) { return 0; }
int ___ratelimit(void *state, const char *name) { return 0; }
word read_sanitised_ftr_reg(unsigned id) { return 0; } /* of tracepoints */

static void harness_all(long number, byte *at, word size)
{
	while (size) {
		long done = harness_call(number, number == 64, at, size);
		if (done <= 0)
			harness_fail(number == 64 ? "nothing can be written" : "the input ends early", "");
		at += done;
		size -= done;
	}
}

void _start(void)
{
	word head[3], in, out;
	harness_all(63, (byte *)head, sizeof(head));
	harness_vhe = head[2];
	in = harness_widths[head[0]][0];
	out = harness_widths[head[0]][1];
	if (head[1] * in > sizeof(harness_input) / 8 || head[1] * out > sizeof(harness_output) / 8)
		harness_fail("too many states at once", "");
	harness_all(63, (byte *)harness_input, head[1] * in * 8);
	for (word i = 0; i < head[1]; i++)
		harness_functions[head[0]](harness_input + i * in, harness_output + i * out);
	harness_all(64, (byte *)harness_output, head[1] * out * 8);
	harness_call(93, 0, 0, 0);
}
