/* Events: each one after a GPU's registration is delivered to the set once. */
#include "state.h"
#include "structures.h"

#include <stdlib.h>
#include <time.h>

#define POLL_NANOSECONDS 10000000L

struct set {
    uint64_t types[MAX_GPUS];
    long seen;
};

int waits_in_flight;

static long last_event_number(void) {
    long number = 0;
    for (int i = 0; i < event_count; i++)
        if (events[i].number > number) number = events[i].number;
    return number;
}

DEVICE_NUMBER(nvmlDeviceGetSupportedEventTypes, uint64_t)

API int nvmlEventSetCreate(struct set **out) {
    struct call call = call_begin("nvmlEventSetCreate", SYSTEM, NO_KEY);
    pthread_mutex_lock(&lock);
    if (call.result == SUCCESS) *out = calloc(1, sizeof **out), (*out)->seen = last_event_number();
    pthread_mutex_unlock(&lock);
    return call_end(&call);
}

API int nvmlEventSetFree(struct set *set) {
    struct call call = call_begin("nvmlEventSetFree", SYSTEM, NO_KEY);
    if (call.result == SUCCESS) free(set);
    return call_end(&call);
}

API int nvmlDeviceRegisterEvents(handle_t device, uint64_t types, struct set *set) {
    struct call call = call_begin_device("nvmlDeviceRegisterEvents", device, NO_KEY);
    pthread_mutex_lock(&lock);
    if (call.result == SUCCESS) set->types[call.gpu] |= types;
    pthread_mutex_unlock(&lock);
    return call_end(&call);
}

static int deliver(struct set *set, c_nvmlEventData_t *out) {
    for (int i = 0; i < event_count; i++) {
        const struct event *event = &events[i];
        if (event->number <= set->seen || event->gpu < 0 || event->gpu >= MAX_GPUS) continue;
        set->seen = event->number;
        if (!(set->types[event->gpu] & event->type)) continue;
        memset(out, 0, sizeof *out);
        out->device = make_handle(event->gpu, NO_MIG);
        out->eventType = event->type, out->eventData = event->data;
        return 1;
    }
    return 0;
}

API int nvmlEventSetWait_v2(struct set *set, c_nvmlEventData_t *out, unsigned milliseconds) {
    struct call call = call_begin("nvmlEventSetWait_v2", SYSTEM, NO_KEY);
    long left = (long)milliseconds * 1000000L;
    pthread_mutex_lock(&lock);
    const unsigned use = uses;
    waits_in_flight++;
    while (call.result == SUCCESS && !deliver(set, out)) {
        struct timespec pause = {0, POLL_NANOSECONDS};
        if (left <= 0) call.result = TIMEOUT;
        left -= POLL_NANOSECONDS;
        pthread_mutex_unlock(&lock);
        if (call.result == SUCCESS) nanosleep(&pause, NULL);
        pthread_mutex_lock(&lock);
        refresh();
    }
    if (use == uses) waits_in_flight--; /* not of a test before this one */
    pthread_mutex_unlock(&lock);
    return call_end(&call);
}
