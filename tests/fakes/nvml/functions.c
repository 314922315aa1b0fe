/* NVML functions that return one value or structure: one line each. */
#include "state.h"
#include "structures.h"

#include <stdio.h>
#include <stdlib.h>

SYSTEM_TEXT(nvmlSystemGetDriverVersion)
SYSTEM_TEXT(nvmlSystemGetNVMLVersion)
SYSTEM_NUMBER(nvmlSystemGetCudaDriverVersion, int)
SYSTEM_NUMBER(nvmlSystemGetCudaDriverVersion_v2, int)

DEVICE_TEXT(nvmlDeviceGetName)
DEVICE_TEXT(nvmlDeviceGetUUID)
DEVICE_TEXT(nvmlDeviceGetSerial)
DEVICE_TEXT(nvmlDeviceGetVbiosVersion)
DEVICE_TEXT(nvmlDeviceGetInforomImageVersion)
DEVICE_KEYED_TEXT(nvmlDeviceGetInforomVersion)
DEVICE_NUMBER(nvmlDeviceGetBrand, unsigned)
DEVICE_STRUCT(nvmlDeviceGetPciInfo_v3, nvmlPciInfo_t)
DEVICE_NUMBER(nvmlDeviceGetMinorNumber, unsigned)
DEVICE_TWO_NUMBERS(nvmlDeviceGetCudaComputeCapability, int, major, minor)

DEVICE_STRUCT(nvmlDeviceGetUtilizationRates, c_nvmlUtilization_t)
DEVICE_STRUCT(nvmlDeviceGetMemoryInfo, c_nvmlMemory_t)
DEVICE_VERSIONED(nvmlDeviceGetMemoryInfo_v2, c_nvmlMemory_v2_t, 0x02000028)
DEVICE_KEYED_NUMBER(nvmlDeviceGetTemperature, unsigned)
DEVICE_VERSIONED(nvmlDeviceGetTemperatureV, c_nvmlTemperature_v1_t, 0x0100000C)
DEVICE_NUMBER(nvmlDeviceGetPowerUsage, unsigned)
DEVICE_NUMBER(nvmlDeviceGetTotalEnergyConsumption, uint64_t)
DEVICE_KEYED_NUMBER(nvmlDeviceGetClockInfo, unsigned)
DEVICE_KEYED_NUMBER(nvmlDeviceGetMaxClockInfo, unsigned)
DEVICE_NUMBER(nvmlDeviceGetPerformanceState, unsigned)
DEVICE_STRUCT(nvmlDeviceGetBAR1MemoryInfo, c_nvmlBAR1Memory_t)
DEVICE_VERSIONED(nvmlDeviceGetMarginTemperature, c_nvmlMarginTemperature_v1_t, 0x01000008)
DEVICE_KEYED_NUMBER(nvmlDeviceGetTemperatureThreshold, unsigned)
DEVICE_NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned)
DEVICE_NUMBER(nvmlDeviceGetPowerManagementLimit, unsigned)
DEVICE_NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, unsigned)
DEVICE_TWO_NUMBERS(nvmlDeviceGetPowerManagementLimitConstraints, unsigned, min, max)
DEVICE_NUMBER(nvmlDeviceGetNumFans, unsigned)
DEVICE_KEYED_NUMBER(nvmlDeviceGetFanSpeed_v2, unsigned)

DEVICE_TWO_NUMBERS(nvmlDeviceGetEncoderUtilization, unsigned, value, period)
DEVICE_TWO_NUMBERS(nvmlDeviceGetDecoderUtilization, unsigned, value, period)
DEVICE_TWO_NUMBERS(nvmlDeviceGetJpgUtilization, unsigned, value, period)
DEVICE_TWO_NUMBERS(nvmlDeviceGetOfaUtilization, unsigned, value, period)
DEVICE_THREE_NUMBERS(nvmlDeviceGetEncoderStats, unsigned, sessions, frames, latency)

DEVICE_NUMBER(nvmlDeviceGetCurrentClocksEventReasons, uint64_t)
DEVICE_NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, uint64_t)

DEVICE_NUMBER(nvmlDeviceGetPcieReplayCounter, unsigned)
DEVICE_NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, unsigned)
DEVICE_NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, unsigned)
DEVICE_NUMBER(nvmlDeviceGetCurrPcieLinkWidth, unsigned)
DEVICE_NUMBER(nvmlDeviceGetMaxPcieLinkWidth, unsigned)
DEVICE_KEYED_NUMBER(nvmlDeviceGetPcieThroughput, unsigned)

DEVICE_NUMBER(nvmlDeviceGetPersistenceMode, unsigned)
DEVICE_NUMBER(nvmlDeviceGetComputeMode, unsigned)
DEVICE_TWO_NUMBERS(nvmlDeviceGetEccMode, unsigned, current, pending)
DEVICE_TWO_NUMBERS(nvmlDeviceGetMigMode, unsigned, current, pending)
DEVICE_NUMBER(nvmlDeviceGetMaxMigDeviceCount, unsigned)
DEVICE_NUMBER(nvmlDeviceGetGpuInstanceId, unsigned)
DEVICE_NUMBER(nvmlDeviceGetComputeInstanceId, unsigned)
DEVICE_STRUCT(nvmlDeviceGetAttributes_v2, c_nvmlDeviceAttributes)

DEVICE_STRUCT(nvmlDeviceGetRowRemapperHistogram, c_nvmlRowRemapperHistogramValues)
DEVICE_VERSIONED(nvmlDeviceGetSramEccErrorStatus, c_nvmlEccSramErrorStatus_v1_t, 0x01000068)
DEVICE_VERSIONED(nvmlDeviceGetUnrepairableMemoryFlag_v1, c_nvmlUnrepairableMemory_v1_t, 0x01000008)
DEVICE_VERSIONED(nvmlDeviceGetRepairStatus, c_nvmlRepairStatus_t, 0x0100000C)
DEVICE_VERSIONED(nvmlDeviceGetAddressingMode, c_nvmlDeviceAddressingMode_t, 0x01000008)
DEVICE_NUMBER(nvmlDeviceGetModuleId, unsigned)
DEVICE_VERSIONED(nvmlGpmQueryDeviceSupport, c_nvmlGpmSupport_t, 1)

/* NAME: `TYPE,COUNTER,LOCATION`. */
API int nvmlDeviceGetMemoryErrorCounter(handle_t device, unsigned type, unsigned counter,
                                        unsigned location, uint64_t *out) {
    char key[48];
    snprintf(key, sizeof key, "%u,%u,%u", type, counter, location);
    struct call call = call_begin_device("nvmlDeviceGetMemoryErrorCounter", device, key);
    uint64_t value = get_number(&call, key);
    if (call.result == SUCCESS) *out = value;
    return call_end(&call);
}

API int nvmlDeviceGetDramEncryptionMode(handle_t device, c_nvmlDramEncryptionInfo_t *current,
                                        c_nvmlDramEncryptionInfo_t *pending) {
    struct call call = call_begin_device("nvmlDeviceGetDramEncryptionMode", device, NO_KEY);
    if (call.result == SUCCESS && (current->version & pending->version) != 0x01000008)
        call.result = ARGUMENT_VERSION_MISMATCH;
    unsigned now = (unsigned)get_number(&call, "current");
    unsigned later = (unsigned)get_number(&call, "pending");
    if (call.result == SUCCESS) current->encryptionState = now, pending->encryptionState = later;
    return call_end(&call);
}

/* Version 2, and version 3 if `healthSummary` has a value. */
API int nvmlDeviceGetGpuFabricInfoV(handle_t device, c_nvmlGpuFabricInfo_v3_t *out) {
    struct call call = call_begin_device("nvmlDeviceGetGpuFabricInfoV", device, NO_KEY);
    c_nvmlGpuFabricInfo_v3_t filled;
    memset(&filled, 0, sizeof filled);
    filled.version = out->version;
    FIELDS_c_nvmlGpuFabricInfo_v2_t(FILL_NUMBER, FILL_TEXT, SKIP);
    pthread_mutex_lock(&lock);
    const char *summary = find(call.scope, call.function, "healthSummary");
    pthread_mutex_unlock(&lock);
    int known = out->version == 0x02000024 || (out->version == 0x03000028 && summary);
    if (call.result == SUCCESS && !known) call.result = ARGUMENT_VERSION_MISMATCH;
    if (summary) filled.healthSummary = (uint8_t)atoi(summary);
    size_t size = out->version == 0x03000028 ? sizeof filled : sizeof(c_nvmlGpuFabricInfo_v2_t);
    if (call.result == SUCCESS) memcpy(out, &filled, size);
    return call_end(&call);
}

API int nvmlSystemGetConfComputeState(c_nvmlConfComputeSystemState_t *out) {
    struct call call = call_begin("nvmlSystemGetConfComputeState", SYSTEM, NO_KEY);
    c_nvmlConfComputeSystemState_t filled;
    memset(&filled, 0, sizeof filled);
    FIELDS_c_nvmlConfComputeSystemState_t(FILL_NUMBER, FILL_TEXT, SKIP);
    if (call.result == SUCCESS) *out = filled;
    return call_end(&call);
}

struct licenses {
    int supported;
    unsigned count;
    c_nvmlGridLicensableFeature_v4_t features[3];
};

/* `value`: the state of the only feature; `supported` 0: without vGPU, as if there were none. */
API int nvmlDeviceGetGridLicensableFeatures_v4(handle_t device, struct licenses *out) {
    struct call call = call_begin_device("nvmlDeviceGetGridLicensableFeatures_v4", device, NO_KEY);
    unsigned value = (unsigned)get_number(&call, "value");
    if (call.result == SUCCESS) {
        pthread_mutex_lock(&lock);
        const char *supported = find(call.scope, call.function, "supported");
        memset(out, 0, sizeof *out);
        out->supported = supported ? atoi(supported) : 1;
        pthread_mutex_unlock(&lock);
        if (out->supported) out->count = 1, out->features[0].featureState = value;
    }
    return call_end(&call);
}

/* -- layouts, for the layout test: lines of "structure size field:offset:size …" -- */

#define LINE(type, name)                                                                           \
    used += snprintf(out + used, size - used, " %s:%zu:%zu", #name, offsetof(self, name),          \
                     sizeof(((self *)0)->name));
#define LINES(structure)                                                                           \
    {                                                                                              \
        typedef structure self;                                                                    \
        used += snprintf(out + used, size - used, "%s %zu", #structure, sizeof(self));             \
        FIELDS_##structure(LINE, LINE, LINE)                                                       \
        used += snprintf(out + used, size - used, "\n");                                           \
    }

/* out: 64 KiB suffice. */
API void nvml_standin_layouts(char *out, size_t size) {
    size_t used = 0;
    STRUCTS(LINES)
}
