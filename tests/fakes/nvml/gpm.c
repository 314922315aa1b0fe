/* GPM. NAME of nvmlGpmMetricsGet: `ID` for the GPU, `INSTANCE.ID` for a GPU instance; `*` for every id
 * without a value: a real driver returns success and 0 for ids that it does not know. */
#include "state.h"
#include "structures.h"

#include <stdio.h>
#include <stdlib.h>

struct sample {
    int gpu, instance;
    unsigned long taken; /* sample number: of two samples, the first must be the earlier */
};

struct request {
    unsigned version, count;
    struct sample *first, *second;
    c_nvmlGpmMetric_t metrics[];
};

int samples;
static unsigned long taken;

/* `max_samples`: further allocations fail with MEMORY. */
API int nvmlGpmSampleAlloc(struct sample **out) {
    struct call call = call_begin("nvmlGpmSampleAlloc", SYSTEM, NO_KEY);
    pthread_mutex_lock(&lock);
    const char *max_samples = find(SYSTEM, "nvmlGpmSampleAlloc", "max_samples");
    if (call.result == SUCCESS && max_samples && samples >= atoi(max_samples))
        call.result = MEMORY;
    if (call.result == SUCCESS) *out = calloc(1, sizeof **out), samples++;
    pthread_mutex_unlock(&lock);
    return call_end(&call);
}

API int nvmlGpmSampleFree(struct sample *sample) {
    struct call call = call_begin("nvmlGpmSampleFree", SYSTEM, NO_KEY);
    pthread_mutex_lock(&lock);
    if (call.result == SUCCESS) free(sample), samples--;
    pthread_mutex_unlock(&lock);
    return call_end(&call);
}

static int take(const char *function, handle_t device, int instance, struct sample *sample) {
    struct call call = call_begin_device(function, device, NO_KEY);
    pthread_mutex_lock(&lock);
    if (call.result == SUCCESS && !find(call.gpu, "nvmlGpmQueryDeviceSupport", "isSupportedDevice"))
        call.result = NOT_SUPPORTED;
    if (call.result == SUCCESS)
        sample->gpu = call.gpu, sample->instance = instance, sample->taken = ++taken;
    pthread_mutex_unlock(&lock);
    return call_end(&call);
}

API int nvmlGpmSampleGet(handle_t device, struct sample *sample) {
    return take("nvmlGpmSampleGet", device, -1, sample);
}

API int nvmlGpmMigSampleGet(handle_t device, unsigned instance, struct sample *sample) {
    return take("nvmlGpmMigSampleGet", device, (int)instance, sample);
}

API int nvmlGpmMetricsGet(struct request *request) {
    const struct sample *first = request->first, *second = request->second;
    struct call call = call_begin("nvmlGpmMetricsGet", second->gpu, NO_KEY);
    pthread_mutex_lock(&lock);
    if (call.result == SUCCESS && request->version != 1) call.result = ARGUMENT_VERSION_MISMATCH;
    if (call.result == SUCCESS && (!first->taken || first->taken >= second->taken ||
                                   first->gpu != second->gpu || first->instance != second->instance))
        call.result = INVALID_ARGUMENT;
    for (unsigned i = 0; call.result == SUCCESS && i < request->count; i++) {
        c_nvmlGpmMetric_t *metric = &request->metrics[i];
        char name[32];
        snprintf(name, sizeof name, "%d.%u", second->instance, metric->metricId);
        if (second->instance < 0) snprintf(name, sizeof name, "%u", metric->metricId);
        const char *text = find(call.gpu, "nvmlGpmMetricsGet", name);
        if (!text) text = find(call.gpu, "nvmlGpmMetricsGet", "*");
        metric->nvmlReturn = text ? SUCCESS : NOT_SUPPORTED;
        metric->value = text ? strtod(text, NULL) : 0;
    }
    pthread_mutex_unlock(&lock);
    return call_end(&call);
}
