// The ioctls of /dev/kvm, one function each, each with a mark before it that says what is asked and one after it with
// what came back.
#define _GNU_SOURCE
#include "vm.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id // glibc hides the member
#define sigev_notify_thread_id _sigev_un._tid
#endif

int kvm;
size_t run_bytes;

#define CORE(field) (KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(regs.field))

static const struct {
    const char *name;
    uint64_t id;
} registers[] = {
    {"PC", CORE(pc)},
    {"PSTATE", CORE(pstate)},
    {"MDSCR_EL1", ARM64_SYS_REG(2, 0, 0, 2, 2)},
    {"OSLSR_EL1", ARM64_SYS_REG(2, 0, 1, 1, 4)},
};

static const char *const banks[] = {"DBGBVR", "DBGBCR", "DBGWVR", "DBGWCR"};

static uint64_t id_of(const char *name) {
    for (size_t i = 0; i < sizeof registers / sizeof *registers; i++)
        if (!strcmp(registers[i].name, name))
            return registers[i].id;
    if (*name == 'X') {
        char *end;
        unsigned long n = strtoul(name + 1, &end, 10);
        if (n < 31 && end > name + 1 && !*end)
            return CORE(regs[0]) + 2 * n; // counted in 32-bit words
    }
    for (unsigned i = 0; i < 4; i++) {
        char *rest;
        if (strncmp(name, banks[i], 6))
            continue;
        unsigned long n = strtoul(name + 6, &rest, 10);
        if (n < 16 && !strcmp(rest, "_EL1"))
            return ARM64_SYS_REG(2, 0, 0, n, 4 + i);
    }
    fail("no register %s", name);
    return 0;
}

// 0, or the error number.
static int one_reg(struct vcpu *vcpu, unsigned long request, uint64_t id, uint64_t *value) {
    struct kvm_one_reg reg = {.id = id, .addr = (uint64_t)value};
    return ioctl(vcpu->fd, request, &reg) ? errno : 0;
}

void vm_create(struct vm *vm) {
    memset(vm, 0, sizeof *vm);
    vm->fd = ioctl(kvm, KVM_CREATE_VM, 0);
    vm->memory = mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = {
        .guest_phys_addr = GUEST_RAM, .memory_size = GUEST_BYTES, .userspace_addr = (uint64_t)vm->memory};
    if (vm->fd < 0 || vm->memory == MAP_FAILED || ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region))
        fail("cannot create a virtual machine: %s", strerror(errno));
}

void vm_destroy(struct vm *vm) {
    for (int i = 0; i < vm->count; i++) {
        munmap(vm->vcpus[i].run, run_bytes);
        close(vm->vcpus[i].fd);
    }
    close(vm->fd);
    munmap(vm->memory, GUEST_BYTES);
}

static void load_program(struct vm *vm, int number, const char *name) {
    for (const struct program *p = __start_programs; p < __stop_programs; p++) {
        if (strcmp(p->name, name))
            continue;
        memcpy(vm->memory + number * PROGRAM_STRIDE, p->start, (const char *)p->end - (const char *)p->start);
        return;
    }
    fail("no guest program %s", name);
}

void vcpu_code(struct vm *vm, struct vcpu *vcpu, uint64_t offset, uint32_t word) {
    if (offset % 4 || offset >= PROGRAM_STRIDE)
        fail("no instruction at %llu", (unsigned long long)offset);
    else
        memcpy(vm->memory + vcpu->number * PROGRAM_STRIDE + offset, &word, sizeof word);
}

void vcpu_reset(struct vcpu *vcpu) {
    mark("vcpu_init vcpu=%d features=0x%x", vcpu->number, vcpu->init.features[0]);
    int r = ioctl(vcpu->fd, KVM_ARM_VCPU_INIT, &vcpu->init) ? errno : 0;
    mark("result vcpu=%d error=%d", vcpu->number, r);
    if (r)
        fail("KVM_ARM_VCPU_INIT: %s", strerror(r));
    vcpu_set(vcpu, "PC", GUEST_RAM + vcpu->number * PROGRAM_STRIDE);
    vcpu->done = false;
}

void vcpu_create(struct vm *vm, const char *program, uint32_t features) {
    if (vm->count == VCPUS) {
        fail("more than %d vCPUs", VCPUS);
        return;
    }
    struct vcpu *vcpu = &vm->vcpus[vm->count];
    vcpu->number = vm->count;
    mark("create_vcpu vcpu=%d program=%s", vcpu->number, program);
    vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, vcpu->number);
    if (vcpu->fd < 0 || ioctl(vm->fd, KVM_ARM_PREFERRED_TARGET, &vcpu->init)) {
        fail("cannot create a vCPU: %s", strerror(errno));
        return;
    }
    vm->count++;
    vcpu->run = mmap(NULL, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    vcpu->init.features[0] |= features | 1u << KVM_ARM_VCPU_PSCI_0_2;
    // SIGALRM is blocked but inside KVM_RUN, so that it always interrupts that.
    uint64_t blocked = ~(1ull << (SIGALRM - 1));
    struct kvm_signal_mask *mask = alloca(sizeof *mask + sizeof blocked);
    mask->len = sizeof blocked;
    memcpy(mask->sigset, &blocked, sizeof blocked);
    if (ioctl(vcpu->fd, KVM_SET_SIGNAL_MASK, mask))
        fail("KVM_SET_SIGNAL_MASK: %s", strerror(errno));
    load_program(vm, vcpu->number, program);
    vcpu_reset(vcpu);
    struct kvm_device_attr pmu = {.group = KVM_ARM_VCPU_PMU_V3_CTRL, .attr = KVM_ARM_VCPU_PMU_V3_INIT};
    if (features & 1u << KVM_ARM_VCPU_PMU_V3 && ioctl(vcpu->fd, KVM_SET_DEVICE_ATTR, &pmu))
        fail("KVM_ARM_VCPU_PMU_V3_INIT: %s", strerror(errno));
}

void vcpu_debug(struct vcpu *vcpu, const struct kvm_guest_debug *debug) {
    mark("set_guest_debug vcpu=%d control=0x%x", vcpu->number, debug->control);
    for (int n = 0; n < 16; n++) {
        if (debug->arch.dbg_bcr[n])
            mark("breakpoint vcpu=%d n=%d dbgbvr=0x%llx dbgbcr=0x%llx", vcpu->number, n, debug->arch.dbg_bvr[n],
                 debug->arch.dbg_bcr[n]);
        if (debug->arch.dbg_wcr[n])
            mark("watchpoint vcpu=%d n=%d dbgwvr=0x%llx dbgwcr=0x%llx", vcpu->number, n, debug->arch.dbg_wvr[n],
                 debug->arch.dbg_wcr[n]);
    }
    int r = ioctl(vcpu->fd, KVM_SET_GUEST_DEBUG, debug) ? errno : 0;
    mark("result vcpu=%d error=%d", vcpu->number, r);
}

void vcpu_set(struct vcpu *vcpu, const char *reg, uint64_t value) {
    mark("set_one_reg vcpu=%d reg=%s value=0x%llx", vcpu->number, reg, (unsigned long long)value);
    mark("result vcpu=%d error=%d", vcpu->number, one_reg(vcpu, KVM_SET_ONE_REG, id_of(reg), &value));
}

void vcpu_get(struct vcpu *vcpu, const char *reg) {
    uint64_t value = 0;
    int r = one_reg(vcpu, KVM_GET_ONE_REG, id_of(reg), &value);
    mark("get_one_reg vcpu=%d reg=%s value=0x%llx error=%d", vcpu->number, reg, (unsigned long long)value, r);
}

void vcpu_mp_state(struct vcpu *vcpu, bool runnable) {
    struct kvm_mp_state state = {runnable ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_STOPPED};
    mark("set_mp_state vcpu=%d runnable=%d", vcpu->number, runnable);
    mark("result vcpu=%d error=%d", vcpu->number, ioctl(vcpu->fd, KVM_SET_MP_STATE, &state) ? errno : 0);
}

static void mark_exit(struct vcpu *vcpu) {
    const struct kvm_run *run = vcpu->run;
    uint64_t data = 0;
    switch (run->exit_reason) {
    case KVM_EXIT_MMIO:
        memcpy(&data, run->mmio.data, sizeof data);
        vcpu->done = run->mmio.is_write && data == DONE;
        mark("exit vcpu=%d reason=MMIO write=%d address=0x%llx data=0x%llx", vcpu->number, run->mmio.is_write,
             run->mmio.phys_addr, (unsigned long long)data);
        break;
    case KVM_EXIT_DEBUG:
        mark("exit vcpu=%d reason=DEBUG esr=0x%x far=0x%llx", vcpu->number, run->debug.arch.hsr, run->debug.arch.far);
        break;
    case KVM_EXIT_SYSTEM_EVENT:
        mark("exit vcpu=%d reason=SYSTEM_EVENT type=%u", vcpu->number, run->system_event.type);
        break;
    default:
        mark("exit vcpu=%d reason=%u", vcpu->number, run->exit_reason);
    }
}

bool vcpu_run(struct vcpu *vcpu, bool immediate, long microseconds) {
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM};
    event.sigev_notify_thread_id = gettid();
    struct itimerspec when = {.it_value = {microseconds / 1000000, microseconds % 1000000 * 1000}};
    if (timer_create(CLOCK_MONOTONIC, &event, &timer))
        fail("timer_create: %s", strerror(errno));
    mark("run vcpu=%d immediate_exit=%d", vcpu->number, immediate);
    vcpu->run->immediate_exit = immediate;
    timer_settime(timer, 0, &when, NULL);
    int r = ioctl(vcpu->fd, KVM_RUN, 0) ? errno : 0;
    timer_delete(timer);
    sigset_t alarm;
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    while (sigtimedwait(&alarm, NULL, &(struct timespec){0}) == SIGALRM)
        ;
    uint64_t pc = 0, pstate = 0, mdscr = 0;
    one_reg(vcpu, KVM_GET_ONE_REG, CORE(pc), &pc);
    one_reg(vcpu, KVM_GET_ONE_REG, CORE(pstate), &pstate);
    one_reg(vcpu, KVM_GET_ONE_REG, ARM64_SYS_REG(2, 0, 0, 2, 2), &mdscr);
    mark("returned vcpu=%d error=%d pc=0x%llx pstate=0x%llx mdscr_el1=0x%llx", vcpu->number, r,
         (unsigned long long)pc, (unsigned long long)pstate, (unsigned long long)mdscr);
    if (!r)
        mark_exit(vcpu);
    else if (r != EINTR)
        fail("KVM_RUN: %s", strerror(r));
    return !r;
}
