/* Process lists, samples and MIG devices. `value` is a list separated by spaces, its numbers by
 * colons: processes `PID:MEMORY:GPU-INSTANCE:COMPUTE-INSTANCE`, utilization samples of processes
 * `PID:TIME-STAMP:SM:MEMORY:ENCODER:DECODER`. nvmlDeviceGetSamples: a list `TIME-STAMP:NUMBER` by type,
 * the NAME. Without a list: NOT_SUPPORTED; it may be empty. */
#include "state.h"
#include "structures.h"

#include <stdlib.h>

#define MAX_ENTRIES 8192
#define NUMBERS 6

/* Reads the list; returns its length. */
static unsigned read_list(struct call *call, const char *name, uint64_t (*out)[NUMBERS]) {
    unsigned count = 0;
    pthread_mutex_lock(&lock);
    const char *text = find(call->scope, call->function, name);
    if (!text && call->result == SUCCESS) call->result = NOT_SUPPORTED;
    while (text && call->result == SUCCESS && *text && count < MAX_ENTRIES) {
        char *end = (char *)text;
        memset(out[count], 0, sizeof out[count]);
        for (int i = 0; i < NUMBERS; i++) {
            out[count][i] = strtoull(end, &end, 0);
            if (*end != ':') break;
            end++;
        }
        text = end + strspn(end, " ");
        count++;
    }
    pthread_mutex_unlock(&lock);
    return count;
}

#define PROCESSES(name)                                                                            \
    API int name(handle_t device, unsigned *count, c_nvmlProcessInfo_v2_t *out) {                  \
        return processes(#name, device, count, out);                                               \
    }

static int processes(const char *name, handle_t device, unsigned *count,
                     c_nvmlProcessInfo_v2_t *out) {
    struct call call = call_begin_device(name, device, NO_KEY);
    uint64_t(*list)[NUMBERS] = malloc(MAX_ENTRIES * sizeof *list);
    unsigned length = read_list(&call, "value", list);
    if (call.result == SUCCESS && length > *count) call.result = INSUFFICIENT_SIZE;
    if (call.result == SUCCESS || call.result == INSUFFICIENT_SIZE) *count = length;
    for (unsigned i = 0; call.result == SUCCESS && i < length; i++)
        out[i] = (c_nvmlProcessInfo_v2_t){(unsigned)list[i][0], list[i][1], (unsigned)list[i][2],
                                          (unsigned)list[i][3]};
    free(list);
    return call_end(&call);
}

PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2)
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3)
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v2)
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3)

/* Keeps the samples after a time stamp; NOT_FOUND if none, as in the driver. stamp: its position. */
static unsigned read_samples(struct call *call, const char *name, int stamp,
                             uint64_t (*list)[NUMBERS], uint64_t after, unsigned capacity) {
    unsigned length = read_list(call, name, list), kept = 0;
    pthread_mutex_lock(&lock);
    set_argument(call->function, call->gpu, after);
    pthread_mutex_unlock(&lock);
    for (unsigned i = 0; i < length; i++)
        if (list[i][stamp] > after) memmove(list[kept++], list[i], sizeof *list);
    if (call->result == SUCCESS && kept == 0) call->result = NOT_FOUND;
    if (call->result == SUCCESS && kept > capacity) call->result = INSUFFICIENT_SIZE;
    return kept;
}

API int nvmlDeviceGetProcessUtilization(handle_t device, c_nvmlProcessUtilizationSample_t *out,
                                        unsigned *count, uint64_t after) {
    struct call call = call_begin_device("nvmlDeviceGetProcessUtilization", device, NO_KEY);
    uint64_t(*list)[NUMBERS] = malloc(MAX_ENTRIES * sizeof *list);
    *count = read_samples(&call, "value", 1, list, after, out ? *count : 0);
    for (unsigned i = 0; call.result == SUCCESS && i < *count; i++)
        out[i] = (c_nvmlProcessUtilizationSample_t){
            (unsigned)list[i][0], list[i][1],           (unsigned)list[i][2],
            (unsigned)list[i][3], (unsigned)list[i][4], (unsigned)list[i][5]};
    free(list);
    return call_end(&call);
}

API int nvmlDeviceGetProcessesUtilizationInfo(handle_t device,
                                              c_nvmlProcessesUtilizationInfo_v1_t *request) {
    struct call call = call_begin_device("nvmlDeviceGetProcessesUtilizationInfo", device, NO_KEY);
    uint64_t(*list)[NUMBERS] = malloc(MAX_ENTRIES * sizeof *list);
    if (call.result == SUCCESS && request->version != 0x01000018)
        call.result = ARGUMENT_VERSION_MISMATCH;
    c_nvmlProcessUtilizationInfo_v1_t *out = request->procUtilArray;
    request->processSamplesCount =
        read_samples(&call, "value", 1, list, request->lastSeenTimeStamp,
                     out ? request->processSamplesCount : 0);
    for (unsigned i = 0; call.result == SUCCESS && i < request->processSamplesCount; i++)
        out[i] = (c_nvmlProcessUtilizationInfo_v1_t){
            .timeStamp = list[i][1],        .pid = (unsigned)list[i][0],
            .smUtil = (unsigned)list[i][2], .memUtil = (unsigned)list[i][3],
            .encUtil = (unsigned)list[i][4], .decUtil = (unsigned)list[i][5]};
    free(list);
    return call_end(&call);
}

API int nvmlDeviceGetSamples(handle_t device, int type, unsigned long long after, int *value_type,
                             unsigned *count, c_nvmlSample_t *out) {
    char key[16];
    struct call call =
        call_begin_device("nvmlDeviceGetSamples", device, key_text(key, (unsigned)type));
    uint64_t(*list)[NUMBERS] = malloc(MAX_ENTRIES * sizeof *list);
    *count = read_samples(&call, key, 0, list, after, out ? *count : 0);
    *value_type = 1;
    for (unsigned i = 0; call.result == SUCCESS && i < *count; i++)
        out[i] = (c_nvmlSample_t){list[i][0], list[i][1]};
    free(list);
    return call_end(&call);
}

/* NAME: the index; VALUE: the MIG device's number. NOT_FOUND at an index without a value. */
API int nvmlDeviceGetMigDeviceHandleByIndex(handle_t device, unsigned index, handle_t *out) {
    char key[16];
    struct call call =
        call_begin_device("nvmlDeviceGetMigDeviceHandleByIndex", device, key_text(key, index));
    pthread_mutex_lock(&lock);
    const char *text = find_exact(call.gpu, call.function, key);
    if (call.result == SUCCESS && !text) call.result = NOT_FOUND;
    if (call.result == SUCCESS) *out = make_handle(call.gpu, atoi(text));
    pthread_mutex_unlock(&lock);
    return call_end(&call);
}

/* `cliques`: a list TYPE:ID. */
API int nvmlDeviceGetGpuFabricInfo_v4(handle_t device, c_nvmlGpuFabricInfo_v4_t *out) {
    struct call call = call_begin_device("nvmlDeviceGetGpuFabricInfo_v4", device, NO_KEY);
    uint64_t(*list)[NUMBERS] = malloc(MAX_ENTRIES * sizeof *list);
    c_nvmlGpuFabricInfo_v4_t filled;
    memset(&filled, 0, sizeof filled);
    FIELDS_c_nvmlGpuFabricInfo_v4_t(FILL_NUMBER, FILL_TEXT, SKIP);
    unsigned length = read_list(&call, "cliques", list);
    filled.numCliques = length;
    for (unsigned i = 0; i < length && i < sizeof filled.cliques / sizeof *filled.cliques; i++)
        filled.cliques[i] =
            (c_nvmlGpuFabricClique_v1_t){(uint8_t)list[i][0], (unsigned)list[i][1]};
    if (call.result == SUCCESS) *out = filled;
    free(list);
    return call_end(&call);
}

static void read_mask(struct call *call, const char *name, mask_255 mask) {
    uint64_t(*list)[NUMBERS] = malloc(MAX_ENTRIES * sizeof *list);
    unsigned length = read_list(call, name, list);
    memset(mask, 0, sizeof(mask_255));
    for (unsigned i = 0; i < length; i++) mask[list[i][0] / 32 % 8] |= 1u << list[i][0] % 32;
    free(list);
}

/* `available`, `requested`, `enforced`: lists of the numbers of profiles. */
API int nvmlDeviceWorkloadPowerProfileGetCurrentProfiles(
    handle_t device, c_nvmlWorkloadPowerProfileCurrentProfiles_v1_t *out) {
    struct call call =
        call_begin_device("nvmlDeviceWorkloadPowerProfileGetCurrentProfiles", device, NO_KEY);
    c_nvmlWorkloadPowerProfileCurrentProfiles_v1_t filled = *out;
    if (call.result == SUCCESS && out->version != 0x01000064)
        call.result = ARGUMENT_VERSION_MISMATCH;
    read_mask(&call, "available", filled.perfProfilesMask);
    read_mask(&call, "requested", filled.requestedProfilesMask);
    read_mask(&call, "enforced", filled.enforcedProfilesMask);
    if (call.result == SUCCESS) *out = filled;
    return call_end(&call);
}

/* `value`: a list of the locations, each with isParity and count. Without a buffer: their number. */
API int nvmlDeviceGetSramUniqueUncorrectedEccErrorCounts(
    handle_t device, c_nvmlEccSramUniqueUncorrectedErrorCounts_v1_t *out) {
    struct call call =
        call_begin_device("nvmlDeviceGetSramUniqueUncorrectedEccErrorCounts", device, NO_KEY);
    uint64_t(*list)[NUMBERS] = malloc(MAX_ENTRIES * sizeof *list);
    if (call.result == SUCCESS && out->version != 0x01000010)
        call.result = ARGUMENT_VERSION_MISMATCH;
    unsigned length = read_list(&call, "value", list);
    if (call.result == SUCCESS && out->entries && out->entryCount < length)
        call.result = INSUFFICIENT_SIZE;
    for (unsigned i = 0; call.result == SUCCESS && out->entries && i < length; i++)
        out->entries[i] = (c_nvmlEccSramUniqueUncorrectedErrorEntry_v1_t){
            .address = i, .isParity = (unsigned)list[i][0], .count = (unsigned)list[i][1]};
    if (call.result == SUCCESS) out->entryCount = length;
    free(list);
    return call_end(&call);
}

/* NAME: the last component of the cgroup's path; VALUE: SOFT:HARD:USED. NOT_FOUND without a value. */
API int nvmlDeviceGetMemoryLimits_v1(handle_t device, c_nvmlGetMemoryLimits_v1_t *request) {
    const char *slash = strrchr(request->nameSpace, '/');
    const char *key = slash ? slash + 1 : request->nameSpace;
    struct call call = call_begin_device("nvmlDeviceGetMemoryLimits_v1", device, NO_KEY);
    uint64_t(*list)[NUMBERS] = malloc(MAX_ENTRIES * sizeof *list);
    unsigned length = read_list(&call, key, list);
    if (call.result == NOT_SUPPORTED) call.result = NOT_FOUND;
    if (call.result == SUCCESS && length)
        request->softLimit = list[0][0], request->hardLimit = list[0][1],
        request->currentUsed = list[0][2];
    free(list);
    return call_end(&call);
}
