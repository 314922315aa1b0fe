/* A stand-in for NVIDIA's driver library (libnvidia-ml.so.1), for tests: it does what a text file
 * says and counts what it is asked. This file holds the mechanism; functions.c holds the functions.
 *
 * NVML_STANDIN_FILE names the control file (or nvml_standin_use() does, in a process that has the
 * library loaded already). It is read again whenever it is replaced. Its lines:
 *
 *     order 0 1 2              the GPUs there are: index 0 is GPU 0, …
 *     epoch 1                  a new number: the driver forgets that it was initialised
 *     SCOPE FUNCTION NAME VALUE
 *
 * SCOPE is a GPU's number, `*` (every GPU) or `system`; FUNCTION a function's name or `*` (all of
 * them). NAME is `value`, a field of the structure, or the key the caller gives; or `return` (the
 * code to answer) or `delay` (seconds to take first), or `KEY.return` and `KEY.delay` for one key
 * only. VALUE is the rest of the line: a number (any C notation; -1 is all bits set), or text in
 * which \xHH is a byte. The most particular line wins. What has no value is NOT_SUPPORTED.
 * A delayed call looks at the file all the while, and ends early when the delay is taken away.
 *
 * Calls are counted in FILE.calls, a shared table of `struct count` that a test can map.
 */
#include "standin.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_GPUS 64
#define BUCKETS 4096
#define COUNTS 4096
#define POLL_NANOSECONDS 2000000L

/* -- the control file: a table from (scope, function, name) to text -- */

#define EVERY_GPU (-2)

struct entry {
    struct entry *next;
    int scope;
    char *function, *name, *text;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char path[4096];
static struct stat seen;
static struct entry *table[BUCKETS];
static int order[MAX_GPUS], devices;
static long epoch;
static int initialised;     /* how many nvmlInit are not yet undone */
static unsigned generation; /* counts initialisations: handles of an earlier one are invalid */

static unsigned hash(int scope, const char *function, const char *name) {
    unsigned value = 2166136261u ^ (unsigned)scope;
    for (; *function; function++) value = (value ^ (unsigned char)*function) * 16777619u;
    value = (value ^ ' ') * 16777619u;
    for (; *name; name++) value = (value ^ (unsigned char)*name) * 16777619u;
    return value % BUCKETS;
}

static void forget_table(void) {
    for (int i = 0; i < BUCKETS; i++) {
        for (struct entry *entry = table[i], *next; entry; entry = next) {
            next = entry->next;
            free(entry->function), free(entry->name), free(entry->text), free(entry);
        }
        table[i] = NULL;
    }
}

/* Turns \xHH into the byte, in place; a zero byte ends the text. */
static void unescape(char *text) {
    char *out = text;
    while (*text) {
        if (text[0] == '\\' && text[1] == 'x' && text[2] && text[3]) {
            char digits[3] = {text[2], text[3], 0};
            *out++ = (char)strtol(digits, NULL, 16);
            text += 4;
        } else {
            *out++ = *text++;
        }
    }
    *out = 0;
}

static void read_line(char *line) {
    char *rest = line, *scope = strsep(&rest, " "), *function = strsep(&rest, " ");
    if (!scope || !*scope || *scope == '#' || !function) return;
    if (!strcmp(scope, "order")) {
        devices = 0;
        for (char *word = function; word; word = strsep(&rest, " "))
            if (*word && devices < MAX_GPUS) order[devices++] = atoi(word);
    } else if (!strcmp(scope, "epoch")) {
        long number = atol(function);
        if (number != epoch) initialised = 0;
        epoch = number;
    } else {
        char *name = strsep(&rest, " ");
        if (!name) return;
        struct entry *entry = calloc(1, sizeof *entry);
        entry->scope = !strcmp(scope, "system") ? SYSTEM : *scope == '*' ? EVERY_GPU : atoi(scope);
        entry->function = strdup(function), entry->name = strdup(name);
        entry->text = strdup(rest ? rest : "");
        unescape(entry->text);
        struct entry **bucket = &table[hash(entry->scope, function, name)];
        entry->next = *bucket, *bucket = entry; /* a later line hides an earlier one */
    }
}

/* Reads the file again if it was replaced. The lock is held. */
static void refresh(void) {
    struct stat now;
    if (!*path) {
        const char *named = getenv("NVML_STANDIN_FILE");
        snprintf(path, sizeof path, "%s", named ? named : "/dev/null");
    }
    if (stat(path, &now) != 0) return;
    if (now.st_ino == seen.st_ino && now.st_size == seen.st_size &&
        now.st_mtim.tv_sec == seen.st_mtim.tv_sec && now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec)
        return;
    FILE *file = fopen(path, "r");
    if (!file) return;
    seen = now;
    forget_table();
    char *line = NULL;
    size_t size = 0;
    ssize_t length;
    while ((length = getline(&line, &size, file)) >= 0) {
        if (length && line[length - 1] == '\n') line[length - 1] = 0;
        read_line(line);
    }
    free(line);
    fclose(file);
}

static const char *find_exact(int scope, const char *function, const char *name) {
    for (struct entry *entry = table[hash(scope, function, name)]; entry; entry = entry->next)
        if (entry->scope == scope && !strcmp(entry->function, function) &&
            !strcmp(entry->name, name))
            return entry->text;
    return NULL;
}

/* The most particular line: this GPU before every GPU, this function before all. Lock is held. */
static const char *find(int gpu, const char *function, const char *name) {
    const char *text = find_exact(gpu, function, name);
    if (!text) text = find_exact(gpu, "*", name);
    if (!text && gpu != SYSTEM) text = find_exact(EVERY_GPU, function, name);
    if (!text && gpu != SYSTEM) text = find_exact(EVERY_GPU, "*", name);
    return text;
}

/* The number under `return` or `delay`: of this key if there is one, else of the function. */
static double find_order(const struct call *call, const char *what) {
    const char *text = NULL;
    if (call->key) {
        char name[64];
        snprintf(name, sizeof name, "%s.%s", call->key, what);
        text = find(call->gpu, call->function, name);
    }
    if (!text) text = find(call->gpu, call->function, what);
    return text ? strtod(text, NULL) : 0;
}

/* -- counting -- */

struct count {
    char function[64]; /* "*" stands for all functions together */
    int32_t gpu;       /* -1: the system's */
    _Atomic uint32_t in_flight, most_in_flight;
    uint32_t reserved;
    _Atomic uint64_t calls;
};

static struct count *counts;

static void open_counts(void) {
    char name[sizeof path + 8];
    snprintf(name, sizeof name, "%s.calls", path);
    int file = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    void *mapped = MAP_FAILED;
    size_t size = COUNTS * sizeof(struct count);
    if (file >= 0 && ftruncate(file, (off_t)size) == 0)
        mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    /* An earlier table stays mapped: a hung call may still write to it. */
    counts = mapped == MAP_FAILED ? calloc(COUNTS, sizeof(struct count)) : mapped;
}

static struct count *find_count(const char *function, int gpu) {
    unsigned start = hash(gpu, function, "");
    for (unsigned i = 0; i < COUNTS; i++) {
        struct count *count = &counts[(start + i) % COUNTS];
        if (!*count->function) {
            snprintf(count->function, sizeof count->function, "%s", function);
            count->gpu = gpu;
        }
        if (count->gpu == gpu && !strcmp(count->function, function)) return count;
    }
    abort();
}

static void count_begin(const char *function, int gpu) {
    struct count *count = find_count(function, gpu);
    count->calls++;
    unsigned now = ++count->in_flight;
    if (now > count->most_in_flight) count->most_in_flight = now;
}

/* A table that was exchanged while the call ran knows nothing of it. */
static void count_end(const char *function, int gpu) {
    struct count *count = find_count(function, gpu);
    if (count->in_flight) count->in_flight--;
}

/* -- calls -- */

static int needs_init(const char *function) {
    return strncmp(function, "nvmlInit", 8) != 0 && strcmp(function, "nvmlErrorString") != 0;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

struct call call_begin(const char *function, int gpu, const char *key) {
    struct call call = {function, gpu, key, SUCCESS};
    double started = now();
    pthread_mutex_lock(&lock);
    refresh();
    if (!counts) open_counts();
    count_begin(function, gpu), count_begin("*", gpu);
    while (now() - started < find_order(&call, "delay")) {
        struct timespec pause = {0, POLL_NANOSECONDS};
        pthread_mutex_unlock(&lock);
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&lock);
        refresh();
    }
    call.result = (int)find_order(&call, "return");
    if (call.result == SUCCESS && needs_init(function) && !initialised) call.result = UNINITIALIZED;
    pthread_mutex_unlock(&lock);
    return call;
}

int call_end(struct call *call) {
    pthread_mutex_lock(&lock);
    count_end(call->function, call->gpu), count_end("*", call->gpu);
    pthread_mutex_unlock(&lock);
    return call->result;
}

/* A handle says which GPU and which initialisation it belongs to; it is never followed. */
static handle_t make_handle(int gpu) {
    return (handle_t)(uintptr_t)(0x4E560000u + generation * 0x100u + (unsigned)gpu);
}

struct call call_begin_device(const char *function, handle_t handle, const char *key) {
    int gpu = (int)((uintptr_t)handle & 0xFF);
    struct call call = call_begin(function, gpu, key);
    pthread_mutex_lock(&lock);
    if (call.result == SUCCESS && handle != make_handle(gpu)) call.result = INVALID_ARGUMENT;
    pthread_mutex_unlock(&lock);
    return call;
}

uint64_t give_number(struct call *call, const char *name) {
    uint64_t number = 0;
    pthread_mutex_lock(&lock);
    const char *text = find(call->gpu, call->function, name);
    if (text)
        number = strtoull(text, NULL, 0);
    else if (call->result == SUCCESS)
        call->result = NOT_SUPPORTED;
    pthread_mutex_unlock(&lock);
    return number;
}

void give_text(struct call *call, const char *name, char *out, size_t size) {
    pthread_mutex_lock(&lock);
    const char *text = find(call->gpu, call->function, name);
    if (call->result == SUCCESS) {
        if (!text)
            call->result = NOT_SUPPORTED;
        else if (strlen(text) >= size)
            call->result = INSUFFICIENT_SIZE;
        else
            strcpy(out, text);
    }
    pthread_mutex_unlock(&lock);
}

const char *key_text(char *text, unsigned key) {
    snprintf(text, 16, "%u", key);
    return text;
}

/* -- the functions that are more than a value -- */

API int nvmlInitWithFlags(unsigned flags) {
    struct call call = call_begin("nvmlInitWithFlags", SYSTEM, NO_KEY);
    pthread_mutex_lock(&lock);
    if (call.result == SUCCESS && initialised++ == 0) generation++;
    pthread_mutex_unlock(&lock);
    (void)flags;
    return call_end(&call);
}

API int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

API int nvmlShutdown(void) {
    struct call call = call_begin("nvmlShutdown", SYSTEM, NO_KEY);
    pthread_mutex_lock(&lock);
    if (call.result == SUCCESS && --initialised == 0)
        for (int i = 0; i < COUNTS; i++) /* the real library may crash here */
            if (counts[i].in_flight && *counts[i].function != '*' &&
                strcmp(counts[i].function, "nvmlShutdown") != 0) {
                count_begin("!shutdown-during-call", SYSTEM);
                count_end("!shutdown-during-call", SYSTEM);
            }
    pthread_mutex_unlock(&lock);
    return call_end(&call);
}

API const char *nvmlErrorString(int code) {
    return code == SUCCESS ? "Success" : "an error of the stand-in";
}

API int nvmlDeviceGetCount_v2(unsigned *out) {
    struct call call = call_begin("nvmlDeviceGetCount_v2", SYSTEM, NO_KEY);
    pthread_mutex_lock(&lock);
    const char *text = find_exact(SYSTEM, "nvmlDeviceGetCount_v2", "value");
    if (call.result == SUCCESS)
        *out = text ? (unsigned)strtoull(text, NULL, 0) : (unsigned)devices;
    pthread_mutex_unlock(&lock);
    return call_end(&call);
}

API int nvmlDeviceGetHandleByIndex_v2(unsigned index, handle_t *out) {
    pthread_mutex_lock(&lock);
    refresh();
    int gpu = index < (unsigned)devices ? order[index] : SYSTEM;
    pthread_mutex_unlock(&lock);
    struct call call = call_begin("nvmlDeviceGetHandleByIndex_v2", gpu, NO_KEY);
    pthread_mutex_lock(&lock);
    if (call.result == SUCCESS && gpu == SYSTEM) call.result = INVALID_ARGUMENT;
    if (call.result == SUCCESS) *out = make_handle(gpu);
    pthread_mutex_unlock(&lock);
    return call_end(&call);
}

/* -- for tests in the same process -- */

/* Begin anew with another control file: nothing initialised, nothing counted. */
API void nvml_standin_use(const char *file) {
    pthread_mutex_lock(&lock);
    snprintf(path, sizeof path, "%s", file);
    memset(&seen, 0, sizeof seen);
    initialised = 0;
    refresh();
    open_counts();
    pthread_mutex_unlock(&lock);
}
