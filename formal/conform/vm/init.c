// The first process of the machine: mounts what it needs, switches the kernel's trace events on, carries out the script
// that lies beside it, prints the trace on the console and turns the machine off. Lines of its own begin with @@.
#define _GNU_SOURCE
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#define TRACING "/sys/kernel/tracing/"
#define LONGEST_RUN 1000000 // microseconds; a guest that runs longer is interrupted

static int marker = -1;

void mark(const char *format, ...) {
    char line[256] = "conform: ";
    va_list args;
    va_start(args, format);
    vsnprintf(line + 9, sizeof line - 9, format, args);
    va_end(args);
    if (write(marker, line, strlen(line)) < 0)
        fail("the trace takes no marks: %s", strerror(errno));
}

void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    printf("@@ERROR ");
    vprintf(format, args);
    printf("\n");
    va_end(args);
}

static void print_file(const char *name, const char *path) {
    char text[4096];
    int fd = open(path, O_RDONLY);
    printf("@@BEGIN %s\n", name);
    for (ssize_t n; fd >= 0 && (n = read(fd, text, sizeof text)) > 0;)
        fwrite(text, 1, n, stdout);
    printf("@@END %s\n", name);
    if (fd >= 0)
        close(fd);
}

// ---- the kernel's events

static const char *const events[] = {
    "kvm_entry", "kvm_exit", "kvm_arm_setup_debug", "kvm_arm_clear_debug", "kvm_arm_set_dreg32", "kvm_arm_set_regset",
    "kvm_set_guest_debug", "trap_reg", "kvm_sys_access", "kvm_hvc_arm64",
};

// From v6.14 the debug events are gone; the lines of the file /probes take their place.
static void start_probes(void) {
    char line[1024];
    FILE *probes = fopen("/probes", "r");
    if (!probes) {
        fail("no probes: %s", strerror(errno));
        return;
    }
    while (fgets(line, sizeof line, probes)) {
        line[strcspn(line, "\n")] = 0;
        if (*line && *line != '#' && !write_file(TRACING "dynamic_events", line))
            printf("@@MISSING probe %s\n", line);
    }
    fclose(probes);
    write_file(TRACING "events/conform/debug_bank/filter", "debug_owner != 0");
    write_file(TRACING "events/conform/external_bank/filter", "debug_owner == 1");
    if (!write_file(TRACING "events/conform/guest_mdscr/filter", "__probe_ret_ip.function == kvm_vcpu_load_debug"))
        printf("@@MISSING filter guest_mdscr\n");
    write_file(TRACING "events/conform/enable", "1");
}

static void start_tracing(void) {
    int missing = 0;
    write_file(TRACING "tracing_on", "0");
    if (!write_file(TRACING "trace_clock", "counter") || !write_file(TRACING "buffer_size_kb", "16384"))
        fail("cannot set up the trace: %s", strerror(errno));
    for (size_t i = 0; i < sizeof events / sizeof *events; i++) {
        char path[128];
        snprintf(path, sizeof path, TRACING "events/kvm/%s/enable", events[i]);
        if (write_file(path, "1"))
            continue;
        missing++;
        printf("@@MISSING event %s\n", events[i]);
    }
    if (missing)
        start_probes();
    marker = open(TRACING "trace_marker", O_WRONLY);
    write_file(TRACING "tracing_on", "1");
}

// What KVM says of its mode in the kernel log: "kvm [1]: VHE mode initialized successfully"; for nVHE "Hyp mode", later
// "Hyp nVHE mode"; "Protected" for that.
static const char *kvm_mode(void) {
    char record[1024];
    const char *mode = "unknown";
    int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
    for (ssize_t n; fd >= 0 && (n = read(fd, record, sizeof record - 1)) > 0;) {
        record[n] = 0;
        if (strstr(record, "kvm [1]: VHE mode initialized"))
            mode = "vhe";
        else if (strstr(record, "kvm [1]: Hyp ") && strstr(record, "mode initialized"))
            mode = "nvhe";
    }
    if (fd >= 0)
        close(fd);
    return mode;
}

// ---- the script

static struct vm vm;
static struct vcpu *vcpu; // the one that commands speak of
static pthread_t threads[VCPUS];
static bool exists, stuck;

static uint64_t number(const char *text) {
    char *rest;
    uint64_t pc = GUEST_RAM + (vcpu ? vcpu->number * PROGRAM_STRIDE : 0);
    uint64_t value = strtoull(*text == '@' ? text + 1 : text, &rest, 0);
    if (*rest || rest == text)
        fail("%s is no number", text);
    return *text == '@' ? pc + value : value; // @8: the third instruction of the program
}

static uint32_t flags(char *text, const char *const *names, const uint32_t *values) {
    uint32_t all = 0;
    for (char *save, *one = strtok_r(text, "|", &save); one; one = strtok_r(NULL, "|", &save)) {
        int i = 0;
        while (names[i] && strcmp(names[i], one))
            i++;
        if (!names[i])
            fail("no flag %s", one);
        else
            all |= values[i];
    }
    return all;
}

static const char *const features[] = {"none", "pmu", "off", NULL};
static const uint32_t feature_bits[] = {0, 1u << KVM_ARM_VCPU_PMU_V3, 1u << KVM_ARM_VCPU_POWER_OFF};
static const char *const controls[] = {"none", "ENABLE", "SINGLESTEP", "USE_SW_BP", "USE_HW", NULL};
static const uint32_t control_bits[] = {0, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_SW_BP,
                                        KVM_GUESTDBG_USE_HW};

static volatile pid_t runs_in[VCPUS]; // the thread that runs a vCPU, as the kernel numbers it
static long thread_runs = LONGEST_RUN; // microseconds, of the thread that is started next

static void run_times(struct vcpu *mine, uint64_t most, long microseconds) {
    bool on = true;
    for (uint64_t i = 0; on && i < most && !mine->done; i++)
        on = vcpu_run(mine, false, microseconds);
}

static void *run_until_done(void *argument) {
    struct vcpu *mine = argument;
    runs_in[mine->number] = gettid();
    run_times(mine, 100, thread_runs);
    return NULL;
}

static void set_debug(char **words, int n) { // debug FLAGS [b NUMBER VALUE CONTROL] [w NUMBER VALUE CONTROL]
    struct kvm_guest_debug debug = {.control = flags(words[1], controls, control_bits)};
    for (int i = 2; i + 3 < n; i += 4) {
        __u64 *values = *words[i] == 'b' ? debug.arch.dbg_bvr : debug.arch.dbg_wvr;
        __u64 *control = *words[i] == 'b' ? debug.arch.dbg_bcr : debug.arch.dbg_wcr;
        unsigned at = number(words[i + 1]) & 15;
        values[at] = number(words[i + 2]);
        control[at] = number(words[i + 3]);
    }
    vcpu_debug(vcpu, &debug);
}

static void new_scenario(const char *name) {
    if (exists)
        vm_destroy(&vm);
    vcpu = NULL;
    exists = true;
    mark("scenario name=%s", name);
    on_cpu(0);
    vm_create(&vm);
}

// The commands are explained at the top of the scenarios.
static void command(char **words, int n) {
    const char *what = words[0];
    if (!strcmp(what, "scenario") && n == 2) {
        new_scenario(words[1]);
        return;
    }
    if (!exists) {
        fail("%s before the first scenario", what);
        return;
    }
    if (!strcmp(what, "vcpu") && (n == 2 || n == 3)) {
        vcpu_create(&vm, words[1], n == 3 ? flags(words[2], features, feature_bits) : 0);
        vcpu = &vm.vcpus[vm.count - 1];
    } else if (!strcmp(what, "cpu") && n == 2)
        on_cpu(number(words[1]));
    else if ((!strcmp(what, "offline") || !strcmp(what, "online")) && n == 2)
        stuck = !bring_cpu(number(words[1]), what[1] == 'n');
    else if (!strcmp(what, "sleep") && n == 2)
        usleep(number(words[1]));
    else if ((!strcmp(what, "arm") || !strcmp(what, "disarm")) && n == 1)
        watch_host(*what == 'a');
    else if (!vcpu)
        fail("%s before the first vcpu", what);
    else if (!strcmp(what, "select") && n == 2 && number(words[1]) < (uint64_t)vm.count)
        vcpu = &vm.vcpus[number(words[1])];
    else if (!strcmp(what, "debug") && n % 4 == 2)
        set_debug(words, n);
    else if (!strcmp(what, "set") && n == 3)
        vcpu_set(vcpu, words[1], number(words[2]));
    else if (!strcmp(what, "code") && n > 2)
        for (int i = 2; i < n; i++)
            vcpu_code(&vm, vcpu, number(words[1]) + 4 * (i - 2), number(words[i]));
    else if (!strcmp(what, "get") && n == 2)
        vcpu_get(vcpu, words[1]);
    else if (!strcmp(what, "run") && n == 2)
        run_times(vcpu, number(words[1]), LONGEST_RUN);
    else if (!strcmp(what, "interrupt") && n == 2)
        vcpu_run(vcpu, false, number(words[1]));
    else if (!strcmp(what, "immediate") && n == 1)
        vcpu_run(vcpu, true, LONGEST_RUN);
    else if (!strcmp(what, "reset") && n == 1)
        vcpu_reset(vcpu);
    else if (!strcmp(what, "stop") && n == 1)
        vcpu_mp_state(vcpu, false);
    else if (!strcmp(what, "wake") && n == 1)
        vcpu_mp_state(vcpu, true);
    else if (!strcmp(what, "start") && (n == 1 || n == 2)) {
        thread_runs = n == 2 ? (long)number(words[1]) : LONGEST_RUN;
        runs_in[vcpu->number] = 0;
        pthread_create(&threads[vcpu->number], NULL, run_until_done, vcpu);
        while (!runs_in[vcpu->number])
            usleep(100);
    } else if (!strcmp(what, "move") && n == 2)
        move_thread(vcpu->number, runs_in[vcpu->number], number(words[1]));
    else if (!strcmp(what, "join") && n == 1)
        pthread_join(threads[vcpu->number], NULL);
    else
        fail("cannot understand the command %s", what);
}

static void run_script(const char *path) {
    char line[512], *words[72];
    FILE *script = fopen(path, "r");
    if (!script) {
        fail("no script: %s", strerror(errno));
        return;
    }
    while (!stuck && fgets(line, sizeof line, script)) {
        int n = 0;
        line[strcspn(line, "#\n")] = 0;
        for (char *save, *word = strtok_r(line, " \t", &save); word && n < 72; word = strtok_r(NULL, " \t", &save))
            words[n++] = word;
        if (n)
            command(words, n);
    }
    fclose(script);
}

int main(void) {
    sigset_t alarm;
    struct utsname names;
    setvbuf(stdout, NULL, _IOLBF, 0);
    mkdir("/sys", 0755);
    mkdir("/dev", 0755);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mkdir("/proc", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    if (mount("tracefs", TRACING, "tracefs", 0, NULL))
        fail("no tracefs: %s", strerror(errno));
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    sigprocmask(SIG_BLOCK, &alarm, NULL);
    uname(&names);
    kvm = open("/dev/kvm", O_RDWR);
    printf("@@KERNEL %s\n@@VERSION %s\n", names.release, names.version);
    if (kvm < 0) {
        fail("no /dev/kvm: %s", strerror(errno));
    } else {
        run_bytes = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
        printf("@@BREAKPOINTS %d\n@@WATCHPOINTS %d\n", ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_DEBUG_HW_BPS),
               ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_DEBUG_HW_WPS));
        start_tracing();
        mark("recording format=1 release=%s mode=%s cpus=%ld", names.release, kvm_mode(), sysconf(_SC_NPROCESSORS_ONLN));
        run_script("/script");
        write_file(TRACING "tracing_on", "0");
        print_file("trace", TRACING "trace");
    }
    printf("@@DONE\n");
    fflush(stdout);
    if (stuck) // powering off would wait for the same lock
        write_file("/proc/sysrq-trigger", "b");
    reboot(RB_POWER_OFF);
    return 0;
}
