// What scenarios do to the host below the guests: threads on CPUs, the host's own watchpoints.
#define _GNU_SOURCE
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/hw_breakpoint.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

bool write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_APPEND);
    bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return done;
}

static void set_affinity(int thread, unsigned cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(thread, sizeof set, &set))
        fail("cannot go to CPU %u: %s", cpu, strerror(errno));
}

void on_cpu(unsigned cpu) {
    mark("cpu cpu=%u", cpu);
    set_affinity(0, cpu);
}

void move_thread(int vcpu, int thread, unsigned cpu) {
    mark("move vcpu=%d thread=%d cpu=%u", vcpu, thread, cpu);
    set_affinity(thread, cpu);
}

// The write of the file comes back when the CPU is down or up; a process of its own makes it, so that it can be given up.
bool bring_cpu(unsigned cpu, bool up) {
    char path[64];
    int status = 1;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/online", cpu);
    mark("hotplug cpu=%u online=%d begins=1", cpu, up);
    pid_t child = fork();
    if (!child)
        _exit(!write_file(path, up ? "1" : "0"));
    for (int waited = 0; waited < HOTPLUG_SECONDS * 100; waited++) {
        if (waitpid(child, &status, WNOHANG) == child) {
            mark("hotplug cpu=%u online=%d begins=0", cpu, up);
            if (status)
                fail("CPU %u cannot be brought %s", cpu, up ? "up" : "down");
            return true;
        }
        usleep(10000);
    }
    fail("CPU %u is not %s after %d s: the kernel hangs", cpu, up ? "up" : "down", HOTPLUG_SECONDS);
    return false;
}

static volatile uint64_t watched;
static int watchpoint = -1;

// Counts what it hits; when it is disarmed, one more store says whether it still works.
void watch_host(bool armed) {
    uint64_t hits = 0;
    if (armed) {
        struct perf_event_attr attr = {.type = PERF_TYPE_BREAKPOINT, .size = sizeof attr, .exclude_kernel = 1,
                                       .exclude_hv = 1, .bp_type = HW_BREAKPOINT_W, .bp_addr = (uint64_t)&watched,
                                       .bp_len = HW_BREAKPOINT_LEN_8};
        mark("host_watchpoint armed=1");
        watchpoint = syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
        if (watchpoint < 0)
            fail("no watchpoint for the host: %s", strerror(errno));
        return;
    }
    watched++;
    if (read(watchpoint, &hits, sizeof hits) != sizeof hits)
        fail("the host's watchpoint cannot be read: %s", strerror(errno));
    close(watchpoint);
    mark("host_watchpoint armed=0 hits=%llu", (unsigned long long)hits);
    if (hits != 1)
        fail("the host's watchpoint was hit %llu times in place of 1", (unsigned long long)hits);
}
