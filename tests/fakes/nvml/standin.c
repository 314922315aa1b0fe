/* A stand-in for NVIDIA's driver library (libnvidia-ml.so.1), for tests: a control file sets its
 * results, and it counts calls. functions.c has the functions, one line each; this file the
 * lifecycle of a call, control.c the control file's table, counts.c the counts.
 *
 * NVML_STANDIN_FILE names the control file (or nvml_standin_use() does, in a process that has the
 * library loaded already). It is read again whenever it is replaced. Its lines:
 *
 *     order 0 1 2              the GPUs by index: index 0 is GPU 0, …
 *     epoch 1                  a new number: the driver is no longer initialised
 *     event 1 0 8 79           event number 1, of GPU 0: its type (8: an XID) and data
 *     SCOPE FUNCTION NAME VALUE
 *
 * SCOPE is a GPU's number, `*` (every GPU), `system`, or `GPU/N` for MIG device N, which inherits
 * only the faults of its GPU; FUNCTION a function's name or `*` (all functions). NAME is `value`, a
 * field of the structure, or the caller's key; or a fault: `return` (the return code) or `delay`
 * (seconds before it returns), or `KEY.return` and `KEY.delay` for one key only; or `cost`, also with
 * a key: the CPU microseconds that the call takes, as a driver that spins while the GPU's firmware
 * answers. VALUE is the rest
 * of the line: a number (any C notation; -1 is all bits set), or text in which \xHH is a byte.
 * A new number in `N * handle_epoch 1` invalidates GPU N's handles, in `N * mig_epoch 1` those of
 * its MIG devices.
 * The most specific line wins. A function without a value returns NOT_SUPPORTED.
 * A delayed call reads the file repeatedly, and ends early when the delay is removed.
 *
 * Calls and their costs are counted in FILE.calls, a shared table of `struct count` that a test can map.
 */
#include "standin.h"
#include "state.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define POLL_NANOSECONDS 2000000L

unsigned uses;
static unsigned generation; /* number of initialisations: handles of an earlier one are invalid */

/* Returns the text of a scope's fault (`return` or `delay`) for this key, else for the function. */
static const char *find_fault_in(int scope, const struct call *call, const char *fault) {
    const char *text = NULL;
    if (call->key) {
        char name[64];
        snprintf(name, sizeof name, "%s.%s", call->key, fault);
        text = find(scope, call->function, name);
    }
    return text ? text : find(scope, call->function, fault);
}

/* Returns the fault of the MIG device, else of its GPU. */
static double find_fault(const struct call *call, const char *fault) {
    const char *text = find_fault_in(call->scope, call, fault);
    if (!text && call->scope != call->gpu) text = find_fault_in(call->gpu, call, fault);
    return text ? strtod(text, NULL) : 0;
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

static double cpu_microseconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

/* Returns the cost set for this name, else that of `*` in its place; 0 if none. */
double cost_of(const struct call *call, const char *name) {
    const char *text = find(call->gpu, call->function, name);
    const char *suffix = strrchr(name, '.');
    if (!text && suffix) {
        char every[64];
        snprintf(every, sizeof every, "*%s", suffix);
        text = find(call->gpu, call->function, every);
    }
    return text ? strtod(text, NULL) : 0;
}

static struct call begin(const char *function, int gpu, int scope, const char *key) {
    struct call call = {function, gpu, scope, key, SUCCESS, 0, 0};
    double started = now();
    if (has_costs) call.started = cpu_microseconds();
    pthread_mutex_lock(&lock);
    refresh();
    count_begin(function, gpu), count_begin("*", gpu);
    while (now() - started < find_fault(&call, "delay")) {
        struct timespec pause = {0, POLL_NANOSECONDS};
        pthread_mutex_unlock(&lock);
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&lock);
        refresh();
    }
    call.result = (int)find_fault(&call, "return");
    if (has_costs) call.cost = find_fault(&call, "cost");
    if (call.result == SUCCESS && needs_init(function) && !initialised) call.result = UNINITIALIZED;
    pthread_mutex_unlock(&lock);
    return call;
}

struct call call_begin(const char *function, int gpu, const char *key) {
    return begin(function, gpu, gpu, key);
}

int call_end(struct call *call) {
    while (call->cost > 0 && cpu_microseconds() - call->started < call->cost)
        ;
    pthread_mutex_lock(&lock);
    count_end(call->function, call->gpu), count_end("*", call->gpu);
    if (call->started > 0)
        count_cost(call->function, call->gpu, call->cost, cpu_microseconds() - call->started);
    pthread_mutex_unlock(&lock);
    return call->result;
}

/* A handle encodes the GPU, the MIG device, the initialisation, and the GPU's handle and MIG
 * epochs; it is never dereferenced. */
static uintptr_t epoch_of(int gpu, const char *name) {
    const char *text = find_exact(gpu, "*", name);
    return text ? strtoul(text, NULL, 0) & 0xFF : 0;
}

handle_t make_handle(int gpu, int mig) {
    uintptr_t handle = (uintptr_t)(generation & 0xFFFF) << 16;
    handle += epoch_of(gpu, "handle_epoch") << 8;
    if (mig != NO_MIG)
        handle += ((uintptr_t)(mig + 1) << 40) + (epoch_of(gpu, "mig_epoch") << 48);
    return (handle_t)(handle + (unsigned)gpu);
}

int gpu_of(handle_t handle) { return (int)((uintptr_t)handle & 0xFF); }

struct call call_begin_device(const char *function, handle_t handle, const char *key) {
    int gpu = gpu_of(handle), mig = (int)((uintptr_t)handle >> 40 & 0xFF) - 1;
    int scope = mig == NO_MIG ? gpu : MIG_SCOPE(gpu, mig);
    struct call call = begin(function, gpu, scope, key);
    pthread_mutex_lock(&lock);
    if (call.result == SUCCESS && handle != make_handle(gpu, mig)) call.result = INVALID_ARGUMENT;
    pthread_mutex_unlock(&lock);
    return call;
}

uint64_t get_number(struct call *call, const char *name) {
    uint64_t number = 0;
    pthread_mutex_lock(&lock);
    const char *text = find(call->scope, call->function, name);
    if (text)
        number = strtoull(text, NULL, 0);
    else if (call->result == SUCCESS)
        call->result = NOT_SUPPORTED;
    pthread_mutex_unlock(&lock);
    return number;
}

void get_text(struct call *call, const char *name, char *out, size_t size) {
    pthread_mutex_lock(&lock);
    const char *text = find(call->scope, call->function, name);
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

/* -- functions with behaviour beyond a value -- */

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
    if (call.result == SUCCESS && --initialised == 0 &&
        (device_calls_in_flight() || waits_in_flight)) {
        count_begin("!shutdown-during-call", SYSTEM); /* the real library may crash here */
        count_end("!shutdown-during-call", SYSTEM);
    }
    if (call.result == SUCCESS && initialised == 0 && samples) {
        count_begin("!shutdown-with-samples", SYSTEM); /* and leak memory here */
        count_end("!shutdown-with-samples", SYSTEM);
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
    if (call.result == SUCCESS) *out = make_handle(gpu, NO_MIG);
    pthread_mutex_unlock(&lock);
    return call_end(&call);
}

/* -- for tests in the same process -- */

/* Resets to another control file: uninitialized, without counts. */
API void nvml_standin_use(const char *file) {
    pthread_mutex_lock(&lock);
    use_file(file);
    open_counts();
    samples = waits_in_flight = 0;
    uses++;
    pthread_mutex_unlock(&lock);
}
