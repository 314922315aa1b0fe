/* Call counts: a table in FILE.calls that a test can read while calls are in flight. */
#include "state.h"
#include "standin.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define COUNTS 4096

struct count {
    char function[64]; /* "*": all functions together */
    int32_t gpu;       /* SYSTEM (-1): system functions */
    _Atomic uint32_t in_flight, max_in_flight;
    uint32_t reserved;
    _Atomic uint64_t calls, argument; /* argument: of the last call, for samples */
    _Atomic uint64_t cost; /* CPU nanoseconds that `cost` lines made the calls take */
    _Atomic uint64_t spent; /* CPU nanoseconds of the calls, if any line sets a cost */
};

static struct count *counts;

void open_counts(void) {
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

void count_begin(const char *function, int gpu) {
    if (!counts) open_counts();
    struct count *count = find_count(function, gpu);
    count->calls++;
    unsigned now = ++count->in_flight;
    if (now > count->max_in_flight) count->max_in_flight = now;
}

void set_argument(const char *function, int gpu, uint64_t argument) {
    find_count(function, gpu)->argument = argument;
}

void count_cost(const char *function, int gpu, double microseconds, double spent) {
    struct count *count = find_count(function, gpu);
    count->cost += (uint64_t)(microseconds * 1000);
    count->spent += (uint64_t)(spent * 1000);
}

/* A table replaced during the call has no such call in flight. */
void count_end(const char *function, int gpu) {
    struct count *count = find_count(function, gpu);
    if (count->in_flight) count->in_flight--;
}

int device_calls_in_flight(void) {
    int calls = 0;
    for (int i = 0; i < COUNTS; i++)
        if (counts[i].gpu != SYSTEM && !strcmp(counts[i].function, "*"))
            calls += (int)counts[i].in_flight;
    return calls;
}
