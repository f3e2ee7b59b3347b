/* Put in front of the C library (LD_PRELOAD), it makes chosen writes, syncs and reads of one process fail, and shifts
 * its wall clock. What and when says a control file that the test writes and this library maps; see `src/shim.rs`, which
 * owns the layout.
 *
 *   offset 0    u64  magic
 *   offset 8    i64  added to the wall clock, nanoseconds
 *   offset 16   u32  not 0: opening with O_DIRECT is refused with EINVAL
 *   offset 64   rules, each of 512 bytes, four of them
 *     +0   u32  how many more calls fail
 *     +4   u32  which calls: 1 write, 2 sync, 4 read
 *     +8   u32  errno; 0 for a sync: it does nothing and says that it succeeded; 0xffffffff: the call is held until the
 *               rule is taken back, and then does what it was asked for
 *     +12  u32  calls that failed
 *     +16  u32  calls that pass first
 *     +20  u32  bytes that a failing write leaves on the disk
 *     +256      text that the path of the file contains, ends with 0
 *
 * The monotonic clock is never touched. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAGIC 0x53425f4641554c54ull
#define RULES 4
#define WRITES 1u
#define SYNCS 2u
#define READS 4u
#define NANOS 1000000000ll
/* A rule that fails more calls than this fails all of them, and does not name each. */
#define ENDLESS 1000000u
/* In the place of an errno. */
#define HELD 0xffffffffu

struct rule {
    uint32_t left, calls, error, failed, pass, torn;
    char unused[232];
    char path[256];
};

struct control {
    uint64_t magic;
    int64_t wall_shift;
    uint32_t refuse_direct;
    char unused[44];
    struct rule rules[RULES];
};

_Static_assert(sizeof(struct rule) == 512, "the layout is shared with shim.rs");
_Static_assert(__builtin_offsetof(struct control, rules) == 64, "the layout is shared with shim.rs");

static volatile struct control *control;

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void map_control(void) {
    const char *path = getenv("FAULT_SHIM_CONTROL");
    if (!path) return;
    int file = open(path, O_RDWR | O_CLOEXEC);
    void *mapped = file < 0 ? MAP_FAILED
                            : mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED || ((struct control *)mapped)->magic != MAGIC) {
        fprintf(stderr, "fault shim: %s is no control file\n", path);
        _exit(112);
    }
    control = mapped;
}

/* The rule that makes this call fail, or NULL. Counts it. */
static volatile struct rule *hit(int file, uint32_t call) {
    if (!control) return NULL;
    for (int at = 0; at < RULES; at++) {
        volatile struct rule *rule = &control->rules[at];
        if (!(rule->calls & call) || __atomic_load_n(&rule->left, __ATOMIC_ACQUIRE) == 0) continue;
        char link[64], path[PATH_MAX];
        snprintf(link, sizeof link, "/proc/self/fd/%d", file);
        ssize_t length = readlink(link, path, sizeof path - 1);
        if (length <= 0) continue;
        path[length] = 0;
        if (!strstr(path, (const char *)rule->path)) continue;
        uint32_t pass = __atomic_load_n(&rule->pass, __ATOMIC_ACQUIRE);
        if (pass > 0) {
            __atomic_store_n(&rule->pass, pass - 1, __ATOMIC_RELEASE);
            continue;
        }
        uint32_t left = __atomic_load_n(&rule->left, __ATOMIC_ACQUIRE);
        while (left > 0 && !__atomic_compare_exchange_n(&rule->left, &left, left - 1, 0, __ATOMIC_ACQ_REL,
                                                        __ATOMIC_ACQUIRE)) {
        }
        if (left == 0) continue;
        __atomic_fetch_add(&rule->failed, 1, __ATOMIC_ACQ_REL);
        if (rule->error == HELD) {
            struct timespec moment = {0, 5000000};
            while (__atomic_load_n(&rule->left, __ATOMIC_ACQUIRE) > 0) nanosleep(&moment, NULL);
            return NULL;
        }
        /* Evidence in the broker's log. */
        if (left > ENDLESS) return rule;
        dprintf(STDERR_FILENO, "fault shim: a %s of %s fails\n", call == WRITES ? "write" : call == SYNCS ? "sync" : "read",
                path);
        return rule;
    }
    return NULL;
}

static int refuse(volatile struct rule *rule) {
    if (rule->error == 0) return 0;
    errno = (int)rule->error;
    return -1;
}

ssize_t write(int file, const void *bytes, size_t count) {
    REAL(write);
    volatile struct rule *rule = hit(file, WRITES);
    if (!rule) return real(file, bytes, count);
    if (rule->torn && rule->torn < count) (void)!real(file, bytes, rule->torn);
    return refuse(rule);
}

static ssize_t failing_pwrite(volatile struct rule *rule, int file, const void *bytes, size_t count, off_t at) {
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (!real) real = (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite64");
    if (!rule) return real(file, bytes, count, at);
    if (rule->torn && rule->torn < count) (void)!real(file, bytes, rule->torn, at);
    return refuse(rule);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at) {
    return failing_pwrite(hit(file, WRITES), file, bytes, count, at);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off_t at) {
    return failing_pwrite(hit(file, WRITES), file, bytes, count, at);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    REAL(writev);
    volatile struct rule *rule = hit(file, WRITES);
    return rule ? refuse(rule) : real(file, parts, count);
}

ssize_t pwritev(int file, const struct iovec *parts, int count, off_t at) {
    REAL(pwritev);
    volatile struct rule *rule = hit(file, WRITES);
    return rule ? refuse(rule) : real(file, parts, count, at);
}

ssize_t pwritev64(int file, const struct iovec *parts, int count, off_t at) {
    REAL(pwritev64);
    volatile struct rule *rule = hit(file, WRITES);
    return rule ? refuse(rule) : real(file, parts, count, at);
}

ssize_t pwritev2(int file, const struct iovec *parts, int count, off_t at, int flags) {
    REAL(pwritev2);
    volatile struct rule *rule = hit(file, WRITES);
    return rule ? refuse(rule) : real(file, parts, count, at, flags);
}

int fsync(int file) {
    REAL(fsync);
    volatile struct rule *rule = hit(file, SYNCS);
    return rule ? refuse(rule) : real(file);
}

int fdatasync(int file) {
    REAL(fdatasync);
    volatile struct rule *rule = hit(file, SYNCS);
    return rule ? refuse(rule) : real(file);
}

int sync_file_range(int file, off64_t at, off64_t count, unsigned flags) {
    REAL(sync_file_range);
    volatile struct rule *rule = hit(file, SYNCS);
    return rule ? refuse(rule) : real(file, at, count, flags);
}

ssize_t read(int file, void *bytes, size_t count) {
    REAL(read);
    volatile struct rule *rule = hit(file, READS);
    return rule ? refuse(rule) : real(file, bytes, count);
}

ssize_t pread(int file, void *bytes, size_t count, off_t at) {
    REAL(pread);
    volatile struct rule *rule = hit(file, READS);
    return rule ? refuse(rule) : real(file, bytes, count, at);
}

ssize_t pread64(int file, void *bytes, size_t count, off_t at) {
    REAL(pread64);
    volatile struct rule *rule = hit(file, READS);
    return rule ? refuse(rule) : real(file, bytes, count, at);
}

static int direct_refused(int flags) {
    if (!control || !control->refuse_direct || !(flags & O_DIRECT)) return 0;
    errno = EINVAL;
    return 1;
}

static mode_t mode_of(int flags, va_list arguments) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list arguments; \
        va_start(arguments, flags); \
        mode_t mode = mode_of(flags, arguments); \
        va_end(arguments); \
        return direct_refused(flags) ? -1 : real(path, flags, mode); \
    }
OPENS(open)
OPENS(open64)

#define OPENS_AT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(name); \
        va_list arguments; \
        va_start(arguments, flags); \
        mode_t mode = mode_of(flags, arguments); \
        va_end(arguments); \
        return direct_refused(flags) ? -1 : real(folder, path, flags, mode); \
    }
OPENS_AT(openat)
OPENS_AT(openat64)

static void shift(struct timespec *time) {
    int64_t shift = control ? __atomic_load_n(&control->wall_shift, __ATOMIC_ACQUIRE) : 0;
    int64_t nanos = time->tv_nsec + shift % NANOS;
    time->tv_sec += shift / NANOS + (nanos >= NANOS) - (nanos < 0);
    time->tv_nsec = (nanos + NANOS) % NANOS;
}

int clock_gettime(clockid_t which, struct timespec *time) {
    REAL(clock_gettime);
    int result = real(which, time);
    if (result == 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) shift(time);
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec time;
    if (clock_gettime(CLOCK_REALTIME, &time) != 0) return -1;
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec time;
    if (clock_gettime(CLOCK_REALTIME, &time) != 0) return -1;
    if (now) *now = time.tv_sec;
    return time.tv_sec;
}
