// Virtual machines and their vCPUs, as scenarios drive them. Every call leaves its marks in the trace (marks.c).
#pragma once
#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GUEST_RAM 0x40000000ul
#define GUEST_BYTES 0x10000ul
#define PROGRAM_STRIDE 0x4000ul // vCPU n begins at GUEST_RAM + n * PROGRAM_STRIDE
#define DONE 0xdead
#define VCPUS 2

struct program {
    const char *name;
    const uint32_t *start, *end;
};
extern const struct program __start_programs[], __stop_programs[];

struct vcpu {
    int fd, number;
    struct kvm_run *run;
    struct kvm_vcpu_init init;
    bool done;
};

struct vm {
    int fd;
    uint8_t *memory;
    struct vcpu vcpus[VCPUS];
    int count;
};

extern int kvm; // /dev/kvm
extern size_t run_bytes;

// A line of the trace, "conform: ..."; and a complaint on the console, which makes the recording a failed one.
void mark(const char *format, ...) __attribute__((format(printf, 1, 2)));
void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

void vm_create(struct vm *vm);
void vm_destroy(struct vm *vm);
void vcpu_create(struct vm *vm, const char *program, uint32_t features);
void vcpu_reset(struct vcpu *vcpu);
void vcpu_code(struct vm *vm, struct vcpu *vcpu, uint64_t offset, uint32_t word); // an instruction of its program
void vcpu_debug(struct vcpu *vcpu, const struct kvm_guest_debug *debug);
void vcpu_set(struct vcpu *vcpu, const char *reg, uint64_t value);
void vcpu_get(struct vcpu *vcpu, const char *reg);
void vcpu_mp_state(struct vcpu *vcpu, bool runnable);
// One KVM_RUN; a signal interrupts it after so many microseconds. Whether it was not interrupted.
bool vcpu_run(struct vcpu *vcpu, bool immediate, long microseconds);

// The host's side (host.c).
bool write_file(const char *path, const char *text);
void on_cpu(unsigned cpu);              // the calling thread goes to a CPU
void move_thread(int vcpu, int thread, unsigned cpu); // another one, which may be inside KVM_RUN
#define HOTPLUG_SECONDS 20
bool bring_cpu(unsigned cpu, bool up);  // down or up; false if the kernel does not come back
void watch_host(bool armed);            // a watchpoint of the host on a word of this process
